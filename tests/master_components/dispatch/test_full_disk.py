"""Jobs while the job database can be neither written nor read."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Callable

import pytest

from pibot.contracts import (
    TaskRequest,
    TaskResult,
    TaskState,
)
from pibot.errors import (
    LLMUnavailable,
    StoreError,
    StoreUnwritable,
)
from pibot.master_components.dispatch.timing import DispatchTiming
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Submission
from pibot.master_components.store.states import JobState, StepState
from tests.master_components.dispatch.dispatching import FakePool, begun, dispatching, hang, ok, until
from tests.support.planners import FakePlanner, plan


class FullDisk:
    """Makes SQLite report a full disk; its ``sleep`` makes room at the third call."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.store: JobStore | None = None
        self.states: list[JobState] = []
        self.is_woken: Callable[[], bool] = lambda: False
        self.woken_early = False

    def limit(self, pages: int) -> None:
        assert self.store is not None
        self.store.database.connection.execute(f"PRAGMA max_page_count = {pages}")

    def fill(self, store: JobStore) -> None:
        self.store = store
        self.limit(1)  # SQLite takes the size of the file as the least
        for size in (1000, 100, 0):
            with contextlib.suppress(StoreUnwritable):
                while True:
                    store.note("worker_online", message="x" * size)

    async def sleep(self, seconds: float) -> None:
        if seconds == 20.0:  # the heartbeat
            await asyncio.Event().wait()
        assert self.store is not None
        self.seconds.append(seconds)
        self.states += [job.state for job in self.store.queries.jobs()]
        self.woken_early = self.woken_early or self.is_woken()
        await asyncio.sleep(0)
        if len(self.seconds) == 3:
            self.limit(1_000_000)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (ok, (JobState.COMPLETED, None)),
        (
            lambda w, r: TaskResult(r.task_id, w, TaskState.FAILED, error="no such file"),
            (JobState.FAILED, "no such file"),
        ),
        (lambda w, r: ZeroDivisionError("oh"), (JobState.FAILED, "a defect in the hub: ZeroDivisionError: oh")),
    ],
)
async def test_a_job_ends_for_its_waiters_only_when_a_full_disk_has_room_for_the_end(
    tmp_path: Path, answer: Callable[[str, TaskRequest], Any], expected: tuple[JobState, str | None]
) -> None:
    disk, may_end = FullDisk(), asyncio.Event()

    async def answer_later(worker_id: str, request: TaskRequest) -> Any:
        await may_end.wait()
        return answer(worker_id, request)

    timing = DispatchTiming(lease=60.0, sleep=disk.sleep)
    pool = FakePool(lambda w, r: answer_later(w, r))
    async with dispatching(tmp_path, pool, timing=timing) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(pool)
        waiting = asyncio.ensure_future(dispatcher.wait(job_id, 20))
        disk.is_woken = waiting.done
        disk.fill(store)
        assert "free some space" in (store.trouble or "")
        may_end.set()
        assert await waiting
        job = store.queries.job(job_id)
        assert (job.state, job.error) == expected
        assert (disk.seconds, disk.woken_early) == ([1.0, 2.0, 4.0], False)
        assert set(disk.states) == {JobState.RUNNING}
        assert store.trouble is None
        assert store.used == job.usage  # counted once, despite several tries to write it
        assert len(pool.asked) == 1


async def test_a_cancel_on_a_full_disk_is_refused_and_the_job_goes_on(tmp_path: Path) -> None:
    disk, may_end = FullDisk(), asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    pool = FakePool(lambda w, r: answer(w, r))
    async with dispatching(tmp_path, pool, timing=DispatchTiming(lease=60.0, sleep=disk.sleep)) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(pool)
        disk.fill(store)
        with pytest.raises(StoreUnwritable, match="free some space"):
            await dispatcher.cancel(job_id)
        disk.limit(1_000_000)
        may_end.set()
        assert await dispatcher.wait(job_id, 20)
        assert store.queries.job(job_id).state is JobState.COMPLETED


async def test_a_cancel_does_not_replace_an_end_that_waits_for_a_full_disk(tmp_path: Path) -> None:
    disk, sleeping = FullDisk(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        sleeping.set()
        await asyncio.Event().wait()

    planner, timing = FakePlanner(LLMUnavailable("down")), DispatchTiming(sleep=sleep)
    async with dispatching(tmp_path, FakePool(hang), planner, timing=timing) as (
        dispatcher,
        store,
    ):
        job_id = store.submit(Submission("x")).job_id
        disk.fill(store)
        dispatcher.notify(job_id)
        await sleeping.wait()  # the job has failed in planning, and its end can't be written
        disk.limit(1_000_000)
        waiting = asyncio.ensure_future(dispatcher.wait(job_id, 20))
        await dispatcher.cancel(job_id)
        assert await waiting
        job = store.queries.job(job_id)
        assert (job.state, job.error) == (JobState.FAILED, "the job could not be planned: down")


@pytest.mark.parametrize(
    ("skills", "expected"),
    [
        ((), (JobState.COMPLETED, "did x", None)),
        (None, (JobState.FAILED, None, "the job's 0.3 seconds were up")),
    ],
)
async def test_a_result_in_time_counts_even_if_the_full_disk_takes_it_only_after_the_timeout(
    tmp_path: Path, skills: tuple[str, ...] | None, expected: tuple[JobState, str | None, str | None]
) -> None:
    disk = FullDisk()

    async def sleep(seconds: float) -> None:
        if seconds == 20.0:  # the heartbeat
            await asyncio.Event().wait()
        late = asyncio.get_running_loop().time() + 0.35  # after the timeout
        await until(lambda: asyncio.get_running_loop().time() > late)
        disk.limit(1_000_000)

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        if request.description != "b":
            disk.fill(store)
        return ok(worker_id, request) if request.description != "b" else await hang(worker_id, request)

    pool = FakePool(lambda w, r: answer(w, r))
    planner = FakePlanner(plan(x=(), b=("x",)))
    async with dispatching(tmp_path, pool, planner, DispatchTiming(lease=60.0, sleep=sleep)) as (dispatcher, store):
        job_id = store.submit(Submission("x", skills, timeout=0.3)).job_id
        dispatcher.notify(job_id)
        assert await dispatcher.wait(job_id, 20)
        job = store.queries.job(job_id)
        assert (job.state, job.answer, job.error) == expected
        assert job.steps[0].state is StepState.COMPLETED


async def test_a_hub_that_stops_on_a_full_disk_leaves_its_jobs_to_the_next_hub(tmp_path: Path) -> None:
    disk, sleeping = FullDisk(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        sleeping.set()
        await asyncio.Event().wait()

    async with dispatching(tmp_path, FakePool(ok), timing=DispatchTiming(sleep=sleep)) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        disk.fill(store)
        dispatcher.notify(job_id)
        await sleeping.wait()
    async with dispatching(tmp_path, FakePool(ok)) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        assert store.queries.job(job_id).state is JobState.COMPLETED


async def test_waiting_jobs_run_after_the_store_was_unreadable_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pibot.master_components.dispatch.dispatcher.RETRY_SECONDS", 0.0)
    may_end = asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    pool = FakePool(lambda w, r: answer(w, r), workers=1)
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        ids = [store.submit(Submission(text, ())).job_id for text in "abc"]
        for job_id in ids:
            dispatcher.notify(job_id)
        await begun(pool)
        await until(lambda: not dispatcher._filling)
        unfinished, failures = store.queries.unfinished, [StoreError("can't be read: disk I/O error")]

        def unreadable(limit: int) -> tuple[str, ...]:
            if failures:
                raise failures.pop()
            return unfinished(limit)

        monkeypatch.setattr(store.queries, "unfinished", unreadable)
        may_end.set()
        assert all([await dispatcher.wait(job_id, 5) for job_id in ids])
