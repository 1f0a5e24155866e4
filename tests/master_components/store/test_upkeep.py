from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pibot.contracts import Usage
from pibot.master_components.store.copies import copy_of
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Submission
from pibot.master_components.store.spending import Spent
from pibot.master_components.store.states import JobState
from pibot.master_components.store.upkeep import BATCH, EVERY, ROUNDS_AN_HOUR, Upkeep
from tests.support.clocks import FakeClock

DAY = 86_400.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs.db", clock=clock, monotonic=clock)
    yield store
    store.close()


def ended(store: JobStore, number: int) -> None:
    for _ in range(number):
        store.finish(store.submit(Submission("x")).job_id, JobState.COMPLETED)


async def rounds(store: JobStore, clock: FakeClock, number: int = 1, *, keep_jobs: int = 1000) -> None:
    """Run so many rounds of an upkeep."""
    seen: list[float] = []

    async def sleep(seconds: float) -> None:
        seen.append(seconds)
        clock.now += seconds
        if len(seen) == number:
            raise asyncio.CancelledError

    upkeep = Upkeep(store, keep_jobs=keep_jobs, keep_seconds=30 * DAY, sleep=sleep)
    with pytest.raises(asyncio.CancelledError):
        await upkeep.run()
    upkeep.close()
    assert seen == [EVERY] * number


def kept(store: JobStore) -> int:
    return sum(store.queries.counts().values())


async def test_jobs_beyond_the_number_are_deleted_in_small_batches(
    store: JobStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(store, 2 * BATCH + 5)
    batches: list[int] = []
    prune = store.limits.prune

    def counted(**more: Any) -> int:
        batches.append(prune(**more))
        return batches[-1]

    monkeypatch.setattr(store.limits, "prune", counted)
    await rounds(store, clock, keep_jobs=3)
    assert kept(store) == 3
    assert batches == [BATCH, BATCH, 2]


async def test_jobs_beyond_the_age_are_deleted_and_the_rest_stays(store: JobStore, clock: FakeClock) -> None:
    ended(store, 2)
    waiting = store.submit(Submission("x")).job_id
    clock.now += 30 * DAY
    ended(store, 1)
    await rounds(store, clock)
    assert kept(store) == 4
    clock.now += 1
    await rounds(store, clock)
    assert kept(store) == 2
    assert store.queries.job(waiting).state is JobState.QUEUED


async def test_a_killed_hub_has_stored_its_running_time(tmp_path: Path, store: JobStore, clock: FakeClock) -> None:
    job = store.submit(Submission("x", timeout=100.0))
    await rounds(store, clock, number=4)  # at 0, 10, 20 and 30 seconds
    store.database.close()  # killed: nothing more is stored
    clock.now += 5000
    after = JobStore(tmp_path / "jobs.db", clock=clock, monotonic=clock)
    assert after.queries.time_left(after.queries.job(job.job_id)) == 70.0
    after.close()


async def test_an_idle_hub_hardly_writes(store: JobStore, clock: FakeClock) -> None:
    await rounds(store, clock)
    before = store.database.connection.total_changes
    await rounds(store, clock, number=ROUNDS_AN_HOUR)
    assert store.database.connection.total_changes == before + 1


async def test_a_hub_that_never_stops_keeps_a_good_copy_too(tmp_path: Path, store: JobStore, clock: FakeClock) -> None:
    ended(store, 3)
    await rounds(store, clock)
    good = copy_of(tmp_path / "jobs.db")
    before = good.stat().st_mtime
    ended(store, 2)
    await rounds(store, clock, number=ROUNDS_AN_HOUR + 1)
    assert good.stat().st_mtime == before
    clock.now += DAY
    await rounds(store, clock)
    assert good.stat().st_mtime == before + DAY + (ROUNDS_AN_HOUR + 2) * EVERY
    store.close()
    (tmp_path / "other").mkdir()
    good.replace(tmp_path / "other" / "jobs.db")
    with contextlib.closing(JobStore(tmp_path / "other" / "jobs.db")) as copied:
        assert kept(copied) == 5


async def test_damage_is_reported_and_the_good_copy_stays(
    tmp_path: Path, store: JobStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(60):
        store.submit(Submission("x" * 3000))
    await rounds(store, clock)
    good = copy_of(tmp_path / "jobs.db").read_bytes()
    store.database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (tmp_path / "jobs.db").open("r+b") as file:
        file.seek(20 * 4096)
        file.write(os.urandom(20 * 4096))
    clock.now += DAY + 1
    await rounds(store, clock)
    assert "no_upkeep" in caplog.text
    assert "is damaged" in caplog.text
    assert "copy" in (store.damage or "")
    assert copy_of(tmp_path / "jobs.db").read_bytes() == good


async def test_a_round_that_fails_is_logged_and_the_next_one_runs(
    store: JobStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended(store, 2)
    prune, failures = store.limits.prune, [ZeroDivisionError("oh")]

    def fails_once(**more: Any) -> int:
        if failures:
            raise failures.pop()
        return prune(**more)

    monkeypatch.setattr(store.limits, "prune", fails_once)
    await rounds(store, clock, number=2, keep_jobs=1)
    assert kept(store) == 1
    assert "upkeep_broke" in caplog.text


async def test_an_hourly_round_keeps_the_tokens_of_the_days(store: JobStore, clock: FakeClock) -> None:
    store.spend([Spent(name, "m", Usage(10, 5, 1)) for name in ("master", "worker-1", "worker-2")])
    await rounds(store, clock, ROUNDS_AN_HOUR + 1)
    assert len(store.accounts.of_day()) == 3
