"""Steps whose worker, or whose model, can't do them: they wait for another one, and no attempt is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pibot.contracts import Fault, NoWorkerKind, TaskRequest, TaskResult, TaskState, Usage
from pibot.errors import LLMAway, LLMRejected
from pibot.master_components.dispatch.model_outage import MAX_SPARED
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
        return ok(worker_id, request) if worker_id == "worker-4" else faulty(worker_id, request, fault)

    pool = FakePool(answer, workers=4)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert job.state is JobState.COMPLETED
        assert [(a.number, a.worker_id, a.error) for a in job.steps[0].attempts] == [(1, "worker-4", None)]
        assert len({request.task_id for _, request in pool.asked}) == 4
        assert job.usage == Usage(12, 12, 4)  # what the others used is not lost
        told = [event.worker_id for event in store.queries.events(50) if event.kind == "attempt_spared"]
        assert len(told) == (0 if fault is Fault.MODEL else 3)


async def test_a_step_that_makes_every_worker_sick_is_spared_by_three_and_then_fails(tmp_path: Path) -> None:
    pool = FakePool(lambda worker_id, request: faulty(worker_id, request, Fault.WORKER), workers=9)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("poison", ()))
        assert job.state is JobState.FAILED
        assert "can't" in (job.error or "")
        assert len(pool.asked) == MAX_SPARED + MAX_ATTEMPTS
        assert [attempt.number for attempt in job.steps[0].attempts] == [1, 2, 3]
        assert job.usage.llm_calls == len(pool.asked) + 1  # the planner's


async def test_a_setting_that_one_worker_has_wrong_waits_for_a_worker_that_is_offline(tmp_path: Path) -> None:
    def answer(worker_id: str, request: TaskRequest) -> Any:
        if worker_id == "worker-1":
            pool.no_candidate = True  # the other one is offline for now
            return faulty(worker_id, request, Fault.SETTING)
        return ok(worker_id, request)

    pool = FakePool(answer, workers=2)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert job.state is JobState.COMPLETED


async def test_one_workers_word_that_the_provider_is_away_sets_only_that_worker_aside(tmp_path: Path) -> None:
    seen: list[Any] = []

    def answer(worker_id: str, request: TaskRequest) -> Any:
        seen.append(dispatcher.waits_for_model)
        return faulty(worker_id, request, Fault.MODEL) if worker_id == "worker-1" else ok(worker_id, request)

    pool = FakePool(answer)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        for n in range(2):  # the answer between is the other workers'
            assert (await ended(dispatcher, store, Submission(f"x{n}", ()))).state is JobState.COMPLETED
        assert set(seen) == {None}
        assert set(pool.sick) == {"worker-1"}


async def test_a_task_that_failed_after_the_model_answered_it_ends_the_outage(tmp_path: Path) -> None:
    def answer(worker_id: str, request: TaskRequest) -> Any:
        if worker_id != "worker-3":
            return faulty(worker_id, request, Fault.MODEL)
        seen.append(dispatcher.waits_for_model is None)
        return TaskResult(request.task_id, worker_id, TaskState.FAILED, error="its own", usage=Usage(3, 3, 1))

    seen: list[bool] = []
    async with dispatching(tmp_path, FakePool(answer)) as (dispatcher, store):
        assert (await ended(dispatcher, store, Submission("x", ()))).error == "its own"
        assert seen == [False]
        assert dispatcher.waits_for_model is None


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
    outage = [True] * 5
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
        assert [reason and (reason.kind, str(reason)) for reason in seen[:3]] == [
            None,
            None,  # one worker's word
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
