"""Measure how the figures change with the number of stored jobs and of workers."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.filled_store import fill
from benchmarks.processes import BenchmarkError, Processes
from benchmarks.store_steps import instructions, milliseconds
from benchmarks.systems import Hub, environment

JOBS = (100, 10_000, 100_000)
FLEETS = (3, 30, 300)
FEW_JOBS, FEW_WORKERS = JOBS[0], FLEETS[0]
COMBINATIONS = (*((jobs, FEW_WORKERS) for jobs in JOBS), *((FEW_JOBS, workers) for workers in FLEETS[1:]))
SUBMITTERS = 4
CALLERS = 10
"""Fewer than the requests that may wait at once, see :data:`pibot.master_hub.api.WAITING_PLACES`."""

Add = Callable[[str, str, float], None]


def label(jobs: int, workers: int) -> str:
    """Return a combination's name in the figures."""
    return f"{jobs:,} jobs, {workers} workers"


@dataclass(frozen=True)
class ScaleEffort:
    """How much is measured.

    Args:
        rounds: how often to measure each combination.
        repeats: how often to measure each operation of the store in a round.
        round_trips: consecutive durable jobs.
        seconds: how long to measure each of the two rates.
    """

    rounds: int = 3
    repeats: int = 100
    round_trips: int = 100
    seconds: float = 2.0


QUICK_SCALE = ScaleEffort(rounds=1, repeats=50, round_trips=30, seconds=1.0)


class Scale:
    """One measurement of all combinations.

    Args:
        folder: on a real disk.
        effort: how much to measure.
        add: gets the row, the combination and the figure.
        say: gets one line for each measurement.
    """

    def __init__(self, folder: Path, effort: ScaleEffort, add: Add, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._effort = effort
        self._add = add
        self._say = say

    def run(self) -> None:
        """Create a database for each number of jobs, then measure in rounds, so that drift affects all alike."""
        databases = {jobs: self._folder / f"filled-{jobs}.db" for jobs in JOBS}
        for jobs, database in databases.items():
            began = time.perf_counter()
            fill(database, jobs)
            self._say(f"a database of {jobs:,} jobs, created in {time.perf_counter() - began:.1f} s")
        for number in range(self._effort.rounds):
            for jobs, workers in COMBINATIONS:
                self._hub(databases[jobs], jobs, workers, self._folder / f"hub-{number}-{jobs}-{workers}")
        for number in range(self._effort.rounds):
            for jobs, database in databases.items():
                self._store(database, jobs, count=number == 0)

    # --- the store alone ----------------------------------------------------

    def _store(self, database: Path, jobs: int, *, count: bool) -> None:
        of = f"{jobs:,} jobs"
        taken = milliseconds(database, self._effort.repeats)
        for name, figure in taken.items():
            self._add(f"store_ms {name}", of, figure)
        if count:  # the same in every round
            for name, figure in instructions(database).items():
                self._add(f"store_vm {name}", of, figure)
        self._say(f"the store's operations with {of}: {', '.join(f'{name} {ms:.2f} ms' for name, ms in taken.items())}")

    # --- the hub ------------------------------------------------------------

    def _hub(self, database: Path, jobs: int, workers: int, folder: Path) -> None:
        combination = label(jobs, workers)
        folder.mkdir()
        with Processes(folder) as processes:
            hub = Hub(processes, folder, _start_workers(processes, folder, workers), database)
            round_trips(hub.port, 10)
            taken = statistics.median(round_trips(hub.port, self._effort.round_trips)) * 1e3
            done = _rate(hub.port, CALLERS, self._effort.seconds, wait=True)
            accepted = _rate(hub.port, SUBMITTERS, self._effort.seconds, wait=False)
        shutil.rmtree(folder)
        for row, figure in (("scale_p50", taken), ("scale_done", done), ("scale_accepted", accepted)):
            self._add(row, combination, figure)
        self._say(f"{combination}: p50 {taken:.2f} ms, {done:.0f} jobs a second done, {accepted:.0f} a second accepted")


def _start_workers(processes: Processes, folder: Path, count: int) -> list[int]:
    argv = [sys.executable, "-m", "benchmarks.light_workers", str(count)]
    process = processes.start("light-workers", argv, environ=environment(folder), directory=folder, pipes=True)
    line = process.pipes[1].readline()
    if not line:
        raise BenchmarkError(f"the light workers did not start:\n{process.tail()}")
    ports: list[int] = json.loads(line)
    return ports


def round_trips(port: int, count: int) -> list[float]:
    """Return the seconds of each of ``count`` consecutive durable jobs, over one connection."""
    taken = []
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for _ in range(count):
            began = time.perf_counter()
            _post(connection, wait=True)
            taken.append(time.perf_counter() - began)
    return taken


def _rate(port: int, callers: int, seconds: float, *, wait: bool) -> float:
    """Return the jobs a second of parallel callers, each of which submits one job after the other."""
    counts: list[int] = []
    failures: list[BaseException] = []
    began = time.perf_counter()

    def call() -> None:
        count = 0
        try:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                while time.perf_counter() - began < seconds:
                    _post(connection, wait=wait)
                    count += 1
        except (BenchmarkError, OSError, http.client.HTTPException) as exc:
            failures.append(exc)
        counts.append(count)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise BenchmarkError(f"a job could not be submitted: {failures[0]}")
    return sum(counts) / (time.perf_counter() - began)


def _post(connection: http.client.HTTPConnection, *, wait: bool) -> None:
    headers = {"Content-Type": "application/json", **({"Prefer": "wait=30"} if wait else {})}
    connection.request("POST", "/task", body=b'{"description": "Do nothing", "skills": []}', headers=headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    if answer.get("status") != ("completed" if wait else "accepted"):
        raise BenchmarkError(f"a durable job failed: {response.status} {answer}")
