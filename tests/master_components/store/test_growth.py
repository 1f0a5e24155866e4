"""The job store's operations do not cost more SQLite instructions because there are more jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.filled_store import fill
from benchmarks.store_steps import instructions

from pibot.master_components import JobStore
from pibot.master_components.store.records import Submission

pytestmark = pytest.mark.slow

A_LITTLE = 1.1
"""Allows a few more instructions. A scan of thirty times the rows needs many times as many."""


def grown(few: dict[str, float], many: dict[str, float]) -> list[str]:
    """List the operations that cost more with many jobs."""
    return [f"{name}: {few[name]:g} and {many[name]:g}" for name in few if many[name] > few[name] * A_LITTLE]


def with_waiting(path: Path, jobs: int) -> dict[str, float]:
    """Measure the operations while so many jobs wait."""
    store = JobStore(path)
    for _ in range(jobs):
        store.submit(Submission("Do nothing", skills=(), priority=1))
    store.close()
    return instructions(path)


def test_no_operation_costs_more_with_thirty_times_the_ended_jobs(tmp_path: Path) -> None:
    fill(tmp_path / "few.db", 100)
    fill(tmp_path / "many.db", 3000)
    assert grown(instructions(tmp_path / "few.db"), instructions(tmp_path / "many.db")) == []


def test_no_operation_of_the_dispatcher_costs_more_with_five_times_the_waiting_jobs(tmp_path: Path) -> None:
    few, many = with_waiting(tmp_path / "few.db", 60), with_waiting(tmp_path / "many.db", 300)
    # The count of open steps for /metrics grows with them, and is no operation of the dispatcher.
    assert [row.partition(":")[0] for row in grown(few, many)] == ["open steps"]
