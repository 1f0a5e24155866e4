"""Attempts that fail, leases that are renewed or lost, and steps that get no worker."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pibot.contracts import (
    TaskRequest,
    TaskResult,
    TaskState,
)
from pibot.errors import (
    WorkerBusy,
    WorkerNotReached,
    WorkerRejected,
    WorkerUnreachable,
)
from pibot.master_components.dispatch.late_results import ASK_AGAIN
from pibot.master_components.dispatch.timing import NO_WORKER_CHECKS, DispatchTiming
from pibot.master_components.store.records import Submission
from pibot.master_components.store.states import MAX_ATTEMPTS, JobState
from tests.master_components.dispatch.dispatching import FakePool, Sleeps, begun, dispatching, ended, hang, ok, until


async def test_another_worker_replaces_a_lost_one_and_each_attempt_keeps_its_error(tmp_path: Path) -> None:
    def answer(worker_id: str, request: TaskRequest) -> Any:
        return ok(worker_id, request) if worker_id == "worker-3" else WorkerUnreachable(worker_id, "no answer")

    pool, sleeps = FakePool(answer), Sleeps()
    timing = DispatchTiming(lease=60.0, sleep=sleeps, jitter=lambda: 0.0)
    async with dispatching(tmp_path, pool, timing=timing) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert job.state is JobState.COMPLETED
        assert [(a.worker_id, a.error) for a in job.steps[0].attempts] == [
            ("worker-1", "worker-1: no answer"),
            ("worker-2", "worker-2: no answer"),
            ("worker-3", None),
        ]
        assert sleeps.seconds == [1.0, 2.0]
        assert len({request.task_id for _, request in pool.asked}) == 3


async def test_after_the_last_attempt_the_step_fails(tmp_path: Path) -> None:
    pool = FakePool(lambda worker_id, request: WorkerRejected(worker_id, "unknown skill 'x'"), workers=2)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert job.state is JobState.FAILED
        assert "unknown skill 'x'" in (job.error or "")
        assert len(pool.asked) == MAX_ATTEMPTS
        assert sorted(pool.free) == ["worker-1", "worker-2"]


async def test_a_busy_worker_is_no_attempt(tmp_path: Path) -> None:
    busy = [True] * 5

    def answer(worker_id: str, request: TaskRequest) -> Any:
        return WorkerBusy("other") if busy and busy.pop() else ok(worker_id, request)

    async with dispatching(tmp_path, FakePool(answer)) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert job.state is JobState.COMPLETED
        assert [a.number for a in job.steps[0].attempts] == [1]


async def test_a_worker_that_could_not_be_reached_is_no_attempt(tmp_path: Path) -> None:
    unreached = 5

    def answer(worker_id: str, request: TaskRequest) -> Any:
        nonlocal unreached
        unreached -= 1
        return WorkerNotReached(worker_id, "no route") if unreached >= 0 else ok(worker_id, request)

    async with dispatching(tmp_path, FakePool(answer)) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert (job.state, [a.number for a in job.steps[0].attempts]) == (JobState.COMPLETED, [1])


async def test_a_task_that_its_worker_cancelled_runs_on_another_worker(tmp_path: Path) -> None:
    def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        if worker_id == "worker-1":
            return TaskResult(request.task_id, worker_id, TaskState.CANCELLED, error="worker-1 was stopped")
        return ok(worker_id, request)

    async with dispatching(tmp_path, FakePool(answer)) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert (job.state, job.steps[0].worker_id) == (JobState.COMPLETED, "worker-2")


class SleepingClock:
    """A monotonic clock that each sleep moves on. A sleep takes one turn of the event loop."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


async def test_a_lease_is_renewed_while_its_worker_works(tmp_path: Path) -> None:
    release = asyncio.Event()
    beats = 0

    async def beat(seconds: float) -> None:
        nonlocal beats
        assert seconds == 10.0
        beats += 1
        if beats == 3:
            release.set()
        await asyncio.sleep(0)

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await release.wait()
        return ok(worker_id, request)

    pool = FakePool(lambda w, r: answer(w, r))
    async with dispatching(tmp_path, pool, timing=DispatchTiming(lease=30.0, sleep=beat)) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert job.state is JobState.COMPLETED
        assert beats >= 3


async def test_a_silent_worker_loses_its_lease_and_its_late_result_is_kept_as_evidence(tmp_path: Path) -> None:
    def answer(worker_id: str, request: TaskRequest) -> Any:
        return hang(worker_id, request) if worker_id == "worker-1" else ok(worker_id, request)

    pool, clock, back = FakePool(answer), SleepingClock(), asyncio.Event()
    pool.silent["worker-1"] = float("inf")

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        if seconds == ASK_AGAIN:  # before the first question to the silent worker
            await back.wait()

    timing = DispatchTiming(lease=60.0, sleep=sleep, monotonic=clock.monotonic, jitter=lambda: 1.0)
    async with dispatching(tmp_path, pool, timing=timing) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert (job.state, job.steps[0].worker_id) == (JobState.COMPLETED, "worker-2")
        error = job.steps[0].attempts[0].error or ""
        assert "no sign of life for 60 s (PIBOT_LEASE_SECONDS)" in error
        assert [worker for worker, _ in pool.lost] == ["worker-1"]
        late = pool.asked[0][1].task_id
        pool.late[late] = TaskResult(late, "worker-1", TaskState.COMPLETED, "too late")
        pool.silent["worker-1"] = 0.0
        back.set()
        await until(lambda: "late_result" in [happened.kind for happened in store.queries.events()])
        after = store.queries.job(job.job_id)
        first = after.steps[0].attempts[0]
        assert first.late_result is not None
        assert first.late_result.output == "too late"
        assert (after.answer, after.steps[0].result) == (job.answer, job.steps[0].result)


async def test_a_worker_that_answers_keeps_its_lease_however_long_its_task_takes(tmp_path: Path) -> None:
    clock, may_end = SleepingClock(), asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        if clock.now > 600:
            may_end.set()

    pool = FakePool(lambda w, r: answer(w, r))
    pool.silent["worker-1"] = 39.0
    timing = DispatchTiming(lease=60.0, sleep=sleep, monotonic=clock.monotonic)
    async with dispatching(tmp_path, pool, timing=timing) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert [a.error for a in job.steps[0].attempts] == [None]


async def test_a_suspended_hub_does_not_take_the_leases_of_its_workers(tmp_path: Path) -> None:
    clock, may_end = SleepingClock(), asyncio.Event()
    pool = FakePool(hang)
    stops = [500.0]

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    async def sleep(seconds: float) -> None:
        if stops:
            pool.silent["worker-1"] = stops[0]  # the suspended hub could not hear the worker
            clock.now += stops.pop()
        elif pool.silent["worker-1"]:
            pool.silent["worker-1"] = 0.0  # the worker is heard again
        else:
            may_end.set()
        await clock.sleep(seconds)

    pool.answer = lambda w, r: answer(w, r)
    timing = DispatchTiming(lease=60.0, sleep=sleep, monotonic=clock.monotonic)
    async with dispatching(tmp_path, pool, timing=timing) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert [a.worker_id for a in job.steps[0].attempts] == ["worker-1"]
        assert pool.lost == []


async def test_a_step_without_a_worker_in_time_fails_and_says_why(tmp_path: Path) -> None:
    timing = DispatchTiming(no_worker=0.01)
    pool = FakePool(hang, workers=1)
    async with dispatching(tmp_path, pool, timing=timing) as (dispatcher, store):
        dispatcher.notify(store.submit(Submission("x", ())).job_id)
        await begun(pool)
        job_id = store.submit(Submission("y", ())).job_id
        dispatcher.notify(job_id)
        await until(lambda: len(pool.queue_keys) > 3)  # it goes on waiting behind the tasks of others
        pool.no_candidate = True
        assert await dispatcher.wait(job_id, 20)
        assert "no worker could take it within 0.01 seconds: every worker is busy" in (
            store.queries.job(job_id).error or ""
        )


async def test_a_moment_without_a_candidate_fails_no_step(tmp_path: Path) -> None:
    candidates = [False] * (NO_WORKER_CHECKS - 1) + [True] + [False] * (NO_WORKER_CHECKS - 1) + [True]
    may_end = asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    def has_candidate(skills: Collection[str] = (), avoid: Collection[str] = ()) -> bool:
        answer = candidates.pop(0) if candidates else True
        if not candidates:
            may_end.set()
        return answer

    pool = FakePool(lambda w, r: answer(w, r), workers=1)
    pool.has_candidate = has_candidate  # type: ignore[method-assign]
    async with dispatching(tmp_path, pool, timing=DispatchTiming(no_worker=0.01)) as (dispatcher, store):
        ids = [store.submit(Submission(text, ())).job_id for text in "xy"]
        for job_id in ids:
            dispatcher.notify(job_id)
        for job_id in ids:
            assert await dispatcher.wait(job_id, 20)
        assert [store.queries.job(job_id).state for job_id in ids] == [JobState.COMPLETED] * 2
