"""Measure the job store's operations, as the dispatcher and the API use them, in milliseconds and SQLite instructions.

An operation that writes spends most of its milliseconds waiting for the disk. The instructions of SQLite's virtual
machine don't depend on that: an operation that reads every job needs more of them the more jobs there are.
"""

from __future__ import annotations

import contextlib
import sqlite3
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.filled_store import STEP
from pibot.contracts import TaskResult, TaskState, Usage
from pibot.master_components import JobStore
from pibot.master_components.store.records import Submission
from pibot.master_components.store.spending import Spent

RESULT = TaskResult(STEP, "worker-1", TaskState.COMPLETED, output="done", started_at=0.0, finished_at=0.0)


class Meter:
    """Measures the milliseconds of named operations."""

    def __init__(self) -> None:
        self.figures: dict[str, list[float]] = defaultdict(list)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = self._now()
        yield
        self.figures[name].append(self._now() - began)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(figures) for name, figures in self.figures.items()}

    def _now(self) -> float:
        return time.perf_counter() * 1e3


class InstructionMeter(Meter):
    """Counts the instructions of SQLite's virtual machine instead of milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self._instructions = 0

    def watch(self, connection: sqlite3.Connection) -> None:
        connection.set_progress_handler(self._count, 1)

    def _count(self) -> int:
        self._instructions += 1
        return 0

    def _now(self) -> float:
        return float(self._instructions)


def take_steps(store: JobStore, meter: Meter, repeats: int) -> dict[str, float]:
    """Run ``repeats`` jobs to their ends, and return the median of each operation."""
    for _ in range(repeats):
        with meter.step("submit"):
            job_id = store.submit(Submission("Do nothing", skills=())).job_id
        with meter.step("unfinished"):
            store.queries.unfinished(17)
        with meter.step("lease"):
            lease = store.leases.grant(job_id, STEP, "worker-1", 60.0)
        with meter.step("lease of"):
            assert store.accounts.lease_of("worker-1") == lease
        with meter.step("spend"):
            store.spend([Spent("worker-1", "m", Usage(10, 5, 1), job_id, lease, cost=0.1)])
        with meter.step("used"):
            store.accounts.used_by(job_id)
        with meter.step("spent today"):
            store.accounts.of_day()
        with meter.step("renew"):
            lease = store.leases.renew(lease, 60.0)
        with meter.step("open steps"):
            store.queries.open_steps()
        with meter.step("complete"):
            store.leases.complete(lease, RESULT, finish_job=True)
        with meter.step("job"):
            store.queries.job(job_id)
        with meter.step("jobs"):
            store.queries.jobs(limit=50)
        with meter.step("counts"):
            store.queries.counts()
        with meter.step("events"):
            store.queries.events(limit=50)
    return meter.medians()


def milliseconds(path: Path, repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each operation on a database."""
    with contextlib.closing(JobStore(path)) as store:
        return take_steps(store, Meter(), repeats)


def instructions(path: Path, repeats: int = 5) -> dict[str, float]:
    """Return the median number of SQLite instructions of each operation on a database."""
    meter = InstructionMeter()
    connect = sqlite3.connect

    def watched(*arguments: Any, **keywords: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **keywords)
        meter.watch(connection)
        return connection

    # The store keeps its connection to itself, so catch it where it is created.
    with mock.patch("sqlite3.connect", watched):
        store = JobStore(path)
    with contextlib.closing(store):
        return take_steps(store, meter, repeats)
