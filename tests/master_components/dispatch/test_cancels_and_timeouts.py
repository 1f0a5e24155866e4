"""Jobs that are cancelled or time out, whether they run or wait."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pibot.contracts import (
    TaskRequest,
    TaskResult,
)
from pibot.errors import (
    JobNotFound,
    WorkerUnreachable,
)
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Submission
from pibot.master_components.store.states import JobState, StepState
from pibot.master_components.store.thread import StoreThread
from tests.master_components.dispatch.dispatching import FakePool, begun, dispatching, ended, hang, ok, until
from tests.support.clocks import FakeClock
from tests.support.planners import FakePlanner, plan


async def test_cancelling_a_job_cancels_its_tasks_on_workers_and_its_waiting_steps(tmp_path: Path) -> None:
    pool = FakePool(hang)
    async with dispatching(tmp_path, pool, FakePlanner(plan(a=(), b=("a",)))) as (dispatcher, store):
        job_id = store.submit(Submission("x")).job_id
        dispatcher.notify(job_id)
        await begun(pool)
        await dispatcher.cancel(job_id)
        job = store.queries.job(job_id)
        assert (job.state, job.error) == (JobState.CANCELLED, "the job was cancelled")
        assert {s.state for s in job.steps} == {StepState.CANCELLED}
        assert pool.cancelled == [("worker-1", pool.asked[0][1].task_id)]
        assert sorted(pool.free) == ["worker-1", "worker-2", "worker-3"]
        await dispatcher.cancel(job_id)  # a second cancel does nothing
        assert len(pool.cancelled) == 1


async def test_each_cancel_of_a_job_waits_until_its_workers_have_ended_the_task(tmp_path: Path) -> None:
    pool = FakePool(hang)
    asked, may_end = asyncio.Event(), asyncio.Event()

    async def slowly(worker_id: str, task_id: str) -> None:
        asked.set()
        await may_end.wait()
        pool.cancelled.append((worker_id, task_id))

    pool.cancel = slowly  # type: ignore[method-assign]  # the same pool with slower workers
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(pool)
        calls = [asyncio.ensure_future(dispatcher.cancel(job_id)) for _ in range(2)]
        await asked.wait()
        calls.append(asyncio.ensure_future(dispatcher.cancel(job_id)))
        # The store's calls run in order in one thread, so those of the three cancels are done when this one is.
        assert not await dispatcher.wait(job_id, 0.05)
        assert not any(call.done() for call in calls)
        may_end.set()
        await asyncio.gather(*calls)
        assert (store.queries.job(job_id).state, len(pool.cancelled)) == (JobState.CANCELLED, 1)


async def test_a_job_that_has_only_just_begun_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with dispatching(tmp_path, FakePool(hang)) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        write = StoreThread.once

        async def write_and_begin(thread: StoreThread, *arguments: Any) -> Any:
            written = await write(thread, *arguments)
            dispatcher.notify(job_id)  # the job's task has not started when the cancel goes on
            return written

        monkeypatch.setattr(StoreThread, "once", write_and_begin)
        await dispatcher.cancel(job_id)
        assert store.queries.job(job_id).state is JobState.CANCELLED
        assert dispatcher._running == {}


async def test_a_cancel_returns_if_the_hub_stops_before_the_job_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dispatching(tmp_path, FakePool(hang)) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        write = StoreThread.once
        stopping = []

        async def write_stop_and_begin(thread: StoreThread, *arguments: Any) -> Any:
            written = await write(thread, *arguments)
            stopping.append(asyncio.ensure_future(dispatcher.stop()))
            dispatcher.notify(job_id)
            return written

        monkeypatch.setattr(StoreThread, "once", write_stop_and_begin)
        await asyncio.wait_for(dispatcher.cancel(job_id), 10)
        await stopping[0]
        assert store.queries.job(job_id).cancel_requested  # the next hub ends it


async def test_cancelling_a_job_in_the_queue_ends_it_and_wakes_its_waiters(tmp_path: Path) -> None:
    pool = FakePool(hang)
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        first, second = (store.submit(Submission(text, ())).job_id for text in ("1", "2"))
        for job_id in (first, second):
            dispatcher.notify(job_id)
        await begun(pool)
        waiting = asyncio.ensure_future(dispatcher.wait(second, 20))
        await dispatcher.cancel(second)
        assert await waiting
        assert store.queries.job(second).state is JobState.CANCELLED
        with pytest.raises(JobNotFound):
            await dispatcher.cancel("nope")


async def test_a_job_that_waits_for_a_worker_can_be_cancelled(tmp_path: Path) -> None:
    pool = FakePool(hang, workers=1)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        first, second = (store.submit(Submission(text, ())).job_id for text in ("1", "2"))
        for job_id in (first, second):
            dispatcher.notify(job_id)
        await begun(pool)
        await until(lambda: len(pool.queue_keys) >= 2)
        await dispatcher.cancel(second)
        assert store.queries.job(second).state is JobState.CANCELLED
        assert (pool.cancelled, pool.waiters) == ([], [])


async def test_a_worker_that_could_not_be_reached_gets_the_cancel_when_it_is_back(tmp_path: Path) -> None:
    pool, cancelled = FakePool(hang), asyncio.Event()

    async def unreachable(worker_id: str, task_id: str) -> None:
        pool.cancelled.append((worker_id, task_id))
        if len(pool.cancelled) == 1:
            raise WorkerUnreachable(worker_id, "no answer")
        cancelled.set()

    pool.cancel = unreachable  # type: ignore[method-assign]  # the same pool; its worker can't be reached at first
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(pool)
        await dispatcher.cancel(job_id)
        assert store.queries.job(job_id).state is JobState.CANCELLED
        await cancelled.wait()
        assert len(set(pool.cancelled)) == 1


async def test_a_job_that_times_out_fails_and_its_tasks_are_cancelled(tmp_path: Path) -> None:
    pool = FakePool(hang)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", (), timeout=0.1))
        assert (job.state, job.error) == (JobState.FAILED, "the job's 0.1 seconds were up")
        assert len(pool.cancelled) == len(pool.asked)
        assert {s.state for s in job.steps} == {StepState.CANCELLED}


async def test_a_step_without_a_timeout_gets_that_of_its_job(tmp_path: Path) -> None:
    pool = FakePool(ok)
    async with dispatching(tmp_path, pool, FakePlanner(plan(a=()))) as (dispatcher, store):
        await ended(dispatcher, store, Submission("given skills", (), timeout=3600.0))
        await ended(dispatcher, store, Submission("planned", timeout=1800.0))
        await ended(dispatcher, store, Submission("no time named", ()))
        assert [request.timeout for _, request in pool.asked] == [3600.0, 1800.0, None]


async def test_a_job_that_waits_for_a_worker_times_out(tmp_path: Path) -> None:
    pool = FakePool(hang, workers=1)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        dispatcher.notify(store.submit(Submission("1", ())).job_id)
        await begun(pool)
        job = await ended(dispatcher, store, Submission("2", (), timeout=0.05))
        assert (job.state, job.error) == (JobState.FAILED, "the job's 0.05 seconds were up")
        assert (pool.cancelled, pool.waiters) == ([], [])


async def test_a_job_in_the_queue_times_out(tmp_path: Path) -> None:
    pool = FakePool(hang, workers=1)
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        for text in ("has the worker", "waits for it"):
            dispatcher.notify(store.submit(Submission(text, (), priority=1)).job_id, 1)
        await until(lambda: len(pool.queue_keys) >= 2)
        job_id = store.submit(Submission("waits in the store", (), timeout=0.05)).job_id
        dispatcher.notify(job_id, 0, 0.05)
        assert await dispatcher.wait(job_id, 20)
        assert store.queries.job(job_id).error == "the job's 0.05 seconds were up"
        assert len(pool.queue_keys) == 2


async def test_a_job_that_began_before_its_notify_gets_its_timeout(tmp_path: Path) -> None:
    async with dispatching(tmp_path, FakePool(hang)) as (dispatcher, store):
        job_id = store.submit(Submission("x", (), timeout=1000.0)).job_id
        dispatcher._begin(job_id)
        dispatcher.notify(job_id, 0, 1000.0)
        assert set(dispatcher._deadlines) == {job_id}  # the job may have to wait in the store again
        await dispatcher.cancel(job_id)
        assert dispatcher._deadlines == {}


async def test_a_jump_of_the_wall_clock_ends_no_job(tmp_path: Path) -> None:
    wall = FakeClock(3600.0)  # 1970, as on a Pi without a clock
    pool, may_end = FakePool(lambda w, r: answer(w, r)), asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    async with dispatching(tmp_path, pool, clock=wall, jobs_at_once=1) as (dispatcher, store):
        ids = [store.submit(Submission(text, (), timeout=60.0)).job_id for text in ("running", "queued")]
        for job_id in ids:
            dispatcher.notify(job_id)
        await begun(pool)
        wall.now = 1_800_000_000.0
        may_end.set()
        for job_id in ids:
            assert await dispatcher.wait(job_id, 20)
        assert [store.queries.job(job_id).state for job_id in ids] == [JobState.COMPLETED] * 2


async def test_a_timeout_counts_only_the_time_in_which_hubs_ran(tmp_path: Path) -> None:
    monotonic = FakeClock(500.0)
    pool = FakePool(hang)
    store = JobStore(tmp_path / "jobs.db", monotonic=monotonic)
    first, second = (store.submit(Submission("x", (), timeout=60.0)).job_id for _ in range(2))
    monotonic.now += 59.9
    store.close()
    monotonic.now = 3.0  # after a restart of the machine
    async with dispatching(tmp_path, pool, monotonic=monotonic) as (dispatcher, store):
        assert store.queries.time_left(store.queries.job(second)) == pytest.approx(0.1)
        assert await dispatcher.wait(first, 20)
        assert store.queries.job(first).error == "the job's 60 seconds were up"
