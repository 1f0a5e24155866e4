"""No step of the job store looks at more rows because there are more jobs: counted in SQLite's own instructions."""

from __future__ import annotations

from pathlib import Path

from benchmarks.filled_store import fill
from benchmarks.store_steps import instructions

from pibot.master_components import JobStore
from pibot.master_components.store.records import Submission

A_LITTLE = 1.1
"""A few more instructions are no scan; a scan of thirty times the rows needs many times as many."""


def grown(few: dict[str, float], many: dict[str, float]) -> list[str]:
    """The steps that need more with many jobs."""
    return [f"{name}: {few[name]:g} and {many[name]:g}" for name in few if many[name] > few[name] * A_LITTLE]


def with_waiting(path: Path, jobs: int) -> dict[str, float]:
    """What the steps need while so many jobs wait."""
    store = JobStore(path)
    for _ in range(jobs):
        store.submit(Submission("Do nothing", skills=(), priority=1))
    store.close()
    return instructions(path)


def test_no_step_needs_more_with_thirty_times_the_ended_jobs(tmp_path: Path) -> None:
    fill(tmp_path / "few.db", 100)
    fill(tmp_path / "many.db", 3000)
    assert grown(instructions(tmp_path / "few.db"), instructions(tmp_path / "many.db")) == []


def test_no_step_of_the_dispatcher_needs_more_with_five_times_the_jobs_that_wait(tmp_path: Path) -> None:
    few, many = with_waiting(tmp_path / "few.db", 60), with_waiting(tmp_path / "many.db", 300)
    # What /metrics counts of the open jobs grows with them, and is no step of the dispatcher.
    assert [row.partition(":")[0] for row in grown(few, many)] == ["open steps"]
