"""What a hub does with the jobs and tasks that another hub left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from pibot.contracts import (
    TaskRequest,
    TaskResult,
)
from pibot.errors import (
    WorkerBusy,
    WorkerNotReached,
    WorkerUnreachable,
)
from pibot.master_components.dispatch.model_outage import ModelOutage
from pibot.master_components.dispatch.step_runner import StepRunner
from pibot.master_components.dispatch.timing import DispatchTiming
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Submission
from pibot.master_components.store.states import JobState
from pibot.master_components.store.thread import StoreThread
from tests.master_components.dispatch.dispatching import FakePool, begun, dispatching, hang, ok, until
from tests.support.clocks import FakeClock
from tests.support.planners import FakePlanner, plan


async def test_a_restart_resumes_a_job_and_first_asks_its_worker_for_the_result(tmp_path: Path) -> None:
    def first(worker_id: str, request: TaskRequest) -> Any:
        return ok(worker_id, request) if request.description == "a" else hang(worker_id, request)

    before = FakePool(first)
    async with dispatching(tmp_path, before, FakePlanner(plan(a=(), b=("a",)))) as (dispatcher, store):
        job_id = store.submit(Submission("x")).job_id
        dispatcher.notify(job_id)
        await begun(before, 2)
    assert before.cancelled == []  # the task goes on on its worker

    after, planner = FakePool(ok), FakePlanner(AssertionError("it is planned already"))
    async with dispatching(tmp_path, after, planner) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        job = store.queries.job(job_id)
        assert job.state is JobState.COMPLETED
        # The same task goes to the same worker under the same id, so it does not run twice there.
        assert after.asked == [before.asked[1]]
        assert [len(s.attempts) for s in job.steps] == [1, 1]


async def test_after_a_restart_each_worker_stays_reserved_for_its_task(tmp_path: Path) -> None:
    before = FakePool(hang, workers=2)
    async with dispatching(tmp_path, before) as (dispatcher, store):
        ids = [store.submit(Submission(text, ())).job_id for text in ("a", "b")]
        for job_id in ids:
            dispatcher.notify(job_id)
        await begun(before, 2)
        waiting = store.submit(Submission("urgent", (), priority=9)).job_id
    may_end = asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        if request.description != "urgent":
            await may_end.wait()
        return ok(worker_id, request)

    after = FakePool(lambda w, r: answer(w, r), workers=2)
    async with dispatching(tmp_path, after, jobs_at_once=1) as (dispatcher, store):
        await begun(after, 2)
        assert sorted(after.asked, key=str) == sorted(before.asked, key=str)
        assert after.asked_first == [True, True]
        may_end.set()
        assert await dispatcher.wait(waiting, 20)
        assert sorted(after.free) == ["worker-1", "worker-2"]
        assert sorted(after.released[:2]) == ["worker-1", "worker-2"]
        assert {len(store.queries.job(job_id).steps[0].attempts) for job_id in ids} == {1}


async def test_a_new_job_does_not_get_a_worker_that_has_a_task_from_before_a_restart(tmp_path: Path) -> None:
    before = FakePool(hang, workers=1)
    async with dispatching(tmp_path, before) as (dispatcher, store):
        dispatcher.notify(store.submit(Submission("old", ())).job_id)
        await begun(before)
    after = FakePool(hang, workers=1)
    store = JobStore(tmp_path / "jobs.db")
    timing = DispatchTiming()
    runner = StepRunner(store, StoreThread(), after, timing, ModelOutage(timing))
    runner.resume(store.queries.leases())
    assert after.free == []
    store.close()


async def test_a_worker_that_left_while_the_hub_was_down_counts_as_an_attempt(tmp_path: Path) -> None:
    before = FakePool(hang)
    async with dispatching(tmp_path, before) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(before)

    def left(worker_id: str, request: TaskRequest) -> Any:
        if worker_id == "worker-1":
            return WorkerNotReached(worker_id, "it is none of this master's workers any more")
        return ok(worker_id, request)

    after = FakePool(left)
    after.free.remove("worker-1")
    async with dispatching(tmp_path, after) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        first, second = store.queries.job(job_id).steps[0].attempts
        assert (first.worker_id, second.worker_id) == ("worker-1", "worker-2")
        assert "none of this master's workers" in (first.error or "")


async def test_a_worker_that_is_busy_with_another_task_after_a_restart_counts_as_an_attempt(tmp_path: Path) -> None:
    before = FakePool(hang)
    async with dispatching(tmp_path, before) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(before)
    after = FakePool(lambda w, r: WorkerBusy("another's") if w == "worker-1" else ok(w, r))
    async with dispatching(tmp_path, after) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        first, second = store.queries.job(job_id).steps[0].attempts
        assert (first.number, first.worker_id, second.number, second.worker_id) == (1, "worker-1", 2, "worker-2")
        assert "lost while the hub was down, and it is busy" in (first.error or "")


async def test_after_a_restart_another_worker_gets_the_task_of_a_lost_one(tmp_path: Path) -> None:
    before = FakePool(hang)
    async with dispatching(tmp_path, before) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(before)

    def gone(worker_id: str, request: TaskRequest) -> Any:
        return WorkerUnreachable(worker_id, "gone") if worker_id == "worker-1" else ok(worker_id, request)

    async with dispatching(tmp_path, FakePool(gone)) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        assert [a.worker_id for a in store.queries.job(job_id).steps[0].attempts] == ["worker-1", "worker-2"]


async def test_a_task_from_before_a_restart_can_be_cancelled(tmp_path: Path) -> None:
    before = FakePool(hang)
    async with dispatching(tmp_path, before) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(before)
    after = FakePool(hang)
    async with dispatching(tmp_path, after) as (dispatcher, store):
        await begun(after)
        await dispatcher.cancel(job_id)
        assert store.queries.job(job_id).state is JobState.CANCELLED
        assert after.cancelled == [("worker-1", before.asked[0][1].task_id)]
        assert sorted(after.free) == ["worker-1", "worker-2", "worker-3"]


async def test_a_job_cancelled_before_a_restart_does_not_run_after_it(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.db")
    job_id = store.submit(Submission("x", ())).job_id
    store.request_cancel(job_id)
    store.close()
    pool = FakePool(ok)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        assert (store.queries.job(job_id).state, pool.asked) == (JobState.CANCELLED, [])


async def test_a_job_cancelled_just_before_a_restart_is_cancelled_on_its_worker_after_it(tmp_path: Path) -> None:
    before = FakePool(hang)
    async with dispatching(tmp_path, before) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(before)
    store = JobStore(tmp_path / "jobs.db")
    store.request_cancel(job_id)
    store.close()
    after = FakePool(ok)
    async with dispatching(tmp_path, after) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        assert after.cancelled == [("worker-1", before.asked[0][1].task_id)]
        assert (store.queries.job(job_id).state, after.asked) == (JobState.CANCELLED, [])
        await until(lambda: len(after.free) == 3)  # the waiter wakes a moment before the worker is released


async def test_a_job_that_timed_out_before_a_restart_is_cancelled_on_its_worker(tmp_path: Path) -> None:
    before, monotonic = FakePool(hang), FakeClock(500.0)
    async with dispatching(tmp_path, before, monotonic=monotonic) as (dispatcher, store):
        job_id = store.submit(Submission("x", (), timeout=30.0)).job_id
        dispatcher.notify(job_id)
        await begun(before)
        monotonic.now += 60.0  # the hub was suspended, and stopped before it ended the job
    after = FakePool(hang)
    async with dispatching(tmp_path, after, monotonic=monotonic) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        assert store.queries.job(job_id).error == "the job's 30 seconds were up"
        assert after.cancelled == [("worker-1", before.asked[0][1].task_id)]
        await until(lambda: len(after.free) == 3)  # the waiter wakes a moment before the worker is released


async def test_a_job_in_the_queue_times_out_after_a_restart(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.db")
    for text in ("has the worker", "waits for it"):
        store.submit(Submission(text, (), priority=1))
    job_id = store.submit(Submission("waits in the store", (), timeout=0.05)).job_id
    store.close()
    pool = FakePool(hang, workers=1)
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 5)
        assert store.queries.job(job_id).error == "the job's 0.05 seconds were up"
