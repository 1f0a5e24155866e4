"""Steps whose worker, or whose model, can't do them: they wait for another one, and no attempt is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pibot.contracts import Fault, NoWorkerKind, TaskRequest, TaskResult, TaskState, Usage
from pibot.errors import LLMAway, LLMRejected
from pibot.master_components.dispatch.timing import DispatchTiming
from pibot.master_components.store.records import Submission
from pibot.master_components.store.states import MAX_ATTEMPTS, JobState
from tests.master_components.dispatch.dispatching import FakePool, Sleeps, dispatching, ended, ok
from tests.support.clocks import FakeClock
from tests.support.planners import FakePlanner, plan


def faulty(worker_id: str, request: TaskRequest, fault: Fault) -> TaskResult:
    return TaskResult(request.task_id, worker_id, TaskState.FAILED, error="can't", usage=Usage(3, 3, 1), fault=fault)


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_workers_fault_costs_no_attempt_and_another_worker_does_the_step(tmp_path: Path, fault: Fault) -> None:
    def answer(worker_id: str, request: TaskRequest) -> Any:
        return ok(worker_id, request) if worker_id == "worker-5" else faulty(worker_id, request, fault)

    pool = FakePool(answer, workers=5)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert job.state is JobState.COMPLETED
        assert [(a.number, a.worker_id, a.error) for a in job.steps[0].attempts] == [(1, "worker-5", None)]
        assert len({request.task_id for _, request in pool.asked}) == 5
        assert job.usage == Usage(15, 15, 5)  # what the others used is not lost
        told = [event.worker_id for event in store.queries.events(50) if event.kind == "attempt_spared"]
        assert len(told) == (0 if fault is Fault.MODEL else 4)


async def test_a_setting_that_every_worker_has_wrong_fails_the_job_once_each_was_tried(tmp_path: Path) -> None:
    pool = FakePool(lambda worker_id, request: faulty(worker_id, request, Fault.SETTING), workers=2)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert (job.state, job.error) == (JobState.FAILED, "can't")
        assert [worker for worker, _ in pool.asked] == ["worker-1", "worker-2"]


@pytest.mark.parametrize("fault", [Fault.WORKER, Fault.MODEL])
async def test_a_fault_that_does_not_pass_fails_the_step_after_the_time_to_wait_for_a_worker(
    tmp_path: Path, fault: Fault
) -> None:
    now = FakeClock(0.0)

    def answer(worker_id: str, request: TaskRequest) -> Any:
        now.now += 10.0
        return faulty(worker_id, request, fault)

    timing = DispatchTiming(sleep=Sleeps(), jitter=lambda: 0.0, monotonic=now, no_worker=55.0)
    pool = FakePool(answer, workers=1)
    async with dispatching(tmp_path, pool, timing=timing) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert job.error == "can't; not done within 55 seconds (PIBOT_NO_WORKER_SECONDS)"
        assert len(pool.asked) == 7
        assert len(job.steps[0].attempts) == 1


async def test_a_step_waits_longer_and_longer_for_a_provider_that_is_away(tmp_path: Path) -> None:
    outage = [True] * 4
    seen: list[Any] = []

    def answer(worker_id: str, request: TaskRequest) -> Any:
        seen.append(dispatcher.waits_for_model)
        return faulty(worker_id, request, Fault.MODEL) if outage and outage.pop() else ok(worker_id, request)

    now = FakeClock(0.0)
    sleeps = Sleeps()

    async def sleep(seconds: float) -> None:
        await sleeps(seconds)
        now.now += seconds

    timing = DispatchTiming(sleep=sleep, jitter=lambda: 0.0, monotonic=now)
    async with dispatching(tmp_path, FakePool(answer), timing=timing) as (dispatcher, store):
        assert (await ended(dispatcher, store, Submission("x", ()))).state is JobState.COMPLETED
        assert sleeps.seconds == [1.0, 2.0, 4.0, 8.0]
        assert [reason and (reason.kind, str(reason)) for reason in seen[:2]] == [
            None,
            (NoWorkerKind.MODEL_AWAY, "for the model: can't"),
        ]
        assert dispatcher.waits_for_model is None


async def test_a_step_on_which_the_provider_fails_while_it_answers_others_does_not_wait_for_ever(
    tmp_path: Path,
) -> None:
    others: list[str] = []

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        if request.description == "poison":
            others.append(store.submit(Submission(f"other {len(others)}", ())).job_id)
            dispatcher.notify(others[-1])
            assert await dispatcher.wait(others[-1], 20)
            return faulty(worker_id, request, Fault.MODEL)
        return ok(worker_id, request)

    async with dispatching(tmp_path, FakePool(answer)) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("poison", ()))
        assert job.error == "can't; it answers other tasks meanwhile"
        assert len(others) == MAX_ATTEMPTS


class LatePlanner(FakePlanner):
    """Plans after the model has failed this often."""

    def __init__(self, failures: int) -> None:
        super().__init__(plan(a=()))
        self.failures = failures

    async def analyze(self, description: str) -> Any:
        if self.planned < self.failures:
            self.planned += 1
            raise LLMAway("the model's server answered 502")
        return await super().analyze(description)


async def test_planning_waits_for_a_provider_that_is_away(tmp_path: Path) -> None:
    planner = LatePlanner(5)
    async with dispatching(tmp_path, FakePool(ok), planner) as (dispatcher, store):
        assert (await ended(dispatcher, store, Submission("x"))).state is JobState.COMPLETED
        assert planner.planned == 6


async def test_planning_gives_up_where_waiting_does_not_help(tmp_path: Path) -> None:
    planner = FakePlanner(LLMRejected("no such key", status=401))
    async with dispatching(tmp_path, FakePool(ok), planner) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x"))
        assert (job.error, planner.planned) == ("the job could not be planned: no such key", 1)


async def test_planning_gives_up_after_the_time_to_wait_for_a_worker(tmp_path: Path) -> None:
    now = FakeClock(0.0)

    async def sleep(seconds: float) -> None:
        now.now += max(seconds, 1.0)

    timing = DispatchTiming(sleep=sleep, jitter=lambda: 0.0, monotonic=now, no_worker=60.0)
    planner = FakePlanner(LLMAway("the model's server answered 502"))
    async with dispatching(tmp_path, FakePool(ok), planner, timing) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x"))
        assert "PIBOT_NO_WORKER_SECONDS" in (job.error or "")
        assert planner.planned > MAX_ATTEMPTS
