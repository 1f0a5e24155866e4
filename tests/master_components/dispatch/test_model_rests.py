"""A provider that asked to be left alone until some time: steps and plans wait until then. No attempt is counted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pibot.contracts import Fault, NoWorkerKind, TaskRequest, TaskResult, TaskState, Usage
from pibot.errors import LLMAway
from pibot.master_components.dispatch.model_outage import MAX_REST, MAX_TOLD_REST, ModelOutage
from pibot.master_components.dispatch.timing import DispatchTiming
from pibot.master_components.store.records import Submission
from pibot.master_components.store.states import MAX_ATTEMPTS, JobState
from tests.master_components.dispatch.dispatching import FakePool, dispatching, ended, ok, until
from tests.support.clocks import FakeClock
from tests.support.planners import FakePlanner, plan

HALF_A_DAY = 43200.0
NOON = 1_792_584_000.0  # 2026-10-21 12:00:00 UTC
MIDNIGHT = "2026-10-22 00:00:00 UTC"


class Passing:
    """A clock that goes on by the sleeps. The heartbeat's sleep never returns."""

    def __init__(self) -> None:
        self.now = FakeClock(1000.0)
        self.wall = FakeClock(NOON)
        self.slept: list[float] = []
        self.passes = asyncio.Event()
        self.passes.set()

    async def sleep(self, seconds: float) -> None:
        if seconds == 20.0:
            await asyncio.Event().wait()
        self.slept.append(seconds)
        await self.passes.wait()
        self.now.now += seconds
        self.wall.now += seconds
        await asyncio.sleep(0)

    def timing(self, **more: Any) -> DispatchTiming:
        return DispatchTiming(sleep=self.sleep, jitter=lambda: 0.0, monotonic=self.now, wall=self.wall, **more)


def resting(worker_id: str, request: TaskRequest, seconds: float = HALF_A_DAY) -> TaskResult:
    failed = TaskResult(request.task_id, worker_id, TaskState.FAILED, error="5-hour quota", usage=Usage(3, 3, 1))
    return replace(failed, fault=Fault.MODEL, model_rest=seconds)


async def test_a_step_waits_until_the_rest_is_over_and_goes_on_by_itself(tmp_path: Path) -> None:
    answers = [resting, ok]
    seen: list[Any] = []
    time = Passing()

    def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        seen.append(dispatcher.waits_for_model)
        return answers.pop(0)(worker_id, request)

    pool = FakePool(answer, workers=1)
    original = time.sleep

    async def sleep(seconds: float) -> None:
        if seconds > 100:
            seen.append(dispatcher.waits_for_model)
        await original(seconds)

    async with dispatching(tmp_path, pool, timing=replace(time.timing(), sleep=sleep)) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))

    assert job.state is JobState.COMPLETED
    assert len(job.steps[0].attempts) == 1
    assert time.slept == [HALF_A_DAY]
    assert [waits and (waits.kind, str(waits)) for waits in seen] == [
        None,
        (NoWorkerKind.MODEL_RESTS, f"for the model, which rests until {MIDNIGHT}: 5-hour quota"),
        (NoWorkerKind.MODEL_AWAY, "for the model: 5-hour quota"),  # it is being tried
    ]
    assert dispatcher.waits_for_model is None


async def test_where_there_are_several_workers_one_is_set_aside_and_two_are_believed_for_an_hour(
    tmp_path: Path,
) -> None:
    time = Passing()
    rest = [True] * 2

    def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        return resting(worker_id, request) if rest and rest.pop() else ok(worker_id, request)

    pool = FakePool(answer, workers=3)
    async with dispatching(tmp_path, pool, timing=time.timing()) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))

    assert job.state is JobState.COMPLETED
    assert pool.set_aside == [("worker-1", HALF_A_DAY)]
    assert time.slept == [MAX_TOLD_REST]


async def test_no_step_is_given_out_during_a_rest_even_if_it_already_waited_for_a_worker(tmp_path: Path) -> None:
    time = Passing()
    began: list[float] = []
    first = asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        began.append(time.now.now)
        if len(began) == 1:
            await first.wait()
            return resting(worker_id, request)
        return ok(worker_id, request)

    pool = FakePool(answer, workers=1)
    async with dispatching(tmp_path, pool, timing=time.timing()) as (dispatcher, store):
        jobs = [store.submit(Submission(f"x{n}", ())).job_id for n in range(3)]
        for job_id in jobs:
            dispatcher.notify(job_id)
        await until(lambda: len(pool.waiters) == 2)  # the others wait for the only worker
        time.passes.clear()
        first.set()
        await until(lambda: len(time.slept) == 3 or len(began) > 1)
        assert len(began) == 1
        time.passes.set()
        for job_id in jobs:
            assert await dispatcher.wait(job_id, 20)
        assert {store.queries.job(job_id).state for job_id in jobs} == {JobState.COMPLETED}

    assert len(began) == 4


async def test_planning_waits_until_the_rest_is_over_and_a_later_plan_is_not_tried_before(tmp_path: Path) -> None:
    time = Passing()
    resting = LLMAway("5-hour quota")
    resting.rest = HALF_A_DAY

    class Planner(FakePlanner):
        began: list[float] = []  # noqa: RUF012  # one planner

        async def analyze(self, description: str) -> Any:
            self.began.append(time.now.now)
            if len(self.began) == 1:
                raise resting
            return await super().analyze(description)

    planner = Planner(plan(a=()))
    time.passes.clear()
    async with dispatching(tmp_path, FakePool(ok), planner, time.timing()) as (dispatcher, store):
        jobs = []
        for number in range(2):
            jobs.append(store.submit(Submission(f"x{number}")).job_id)
            dispatcher.notify(jobs[-1])
            await until(lambda: len(time.slept) == len(jobs) or len(planner.began) > 1)
        assert planner.began == [1000.0]
        time.passes.set()
        for job_id in jobs:
            assert await dispatcher.wait(job_id, 20)
            assert store.queries.job(job_id).state is JobState.COMPLETED
    assert len(planner.began) == 3


async def test_a_step_that_meets_a_quota_again_and_again_while_others_are_answered_goes_on_waiting(
    tmp_path: Path,
) -> None:
    time = Passing()
    tries: list[str] = []

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        if request.description != "unlucky":
            return ok(worker_id, request)
        tries.append(store.submit(Submission(f"lucky {len(tries)}", ())).job_id)
        dispatcher.notify(tries[-1])
        assert await dispatcher.wait(tries[-1], 20)
        return resting(worker_id, request, 120.0) if len(tries) <= 2 * MAX_ATTEMPTS else ok(worker_id, request)

    async with dispatching(tmp_path, FakePool(answer), timing=time.timing()) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("unlucky", ()))
    assert (job.state, len(job.steps[0].attempts)) == (JobState.COMPLETED, 1)


@pytest.mark.parametrize("planned", [False, True])
async def test_a_rest_beyond_the_time_to_wait_for_a_worker_fails_the_job_then(tmp_path: Path, planned: bool) -> None:
    time = Passing()
    away = LLMAway("5-hour quota")
    away.rest = HALF_A_DAY
    pool = FakePool(resting, workers=1)
    timing = time.timing(no_worker=3600.0)
    async with dispatching(tmp_path, pool, FakePlanner(away), timing) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", None if planned else ()))

    assert job.state is JobState.FAILED
    assert "not done within 3600 seconds (PIBOT_NO_WORKER_SECONDS)" in (job.error or "")
    assert f"rests until {MIDNIGHT}: 5-hour quota" in (job.error or "")
    assert time.slept == [3600.0]


def test_a_rest_is_bounded_kept_by_what_was_asked_before_and_ended_by_a_later_answer() -> None:
    time = Passing()
    outage = ModelOutage(time.timing())
    outage.failed("used up", rest=1e9)
    assert outage.rests
    time.now.now += 10.0
    outage.answered(began=999.0)  # it was asked before
    outage.failed("502")
    assert outage.rests
    assert "used up" in str(outage.waits)
    time.now.now += MAX_REST - 10.0
    assert not outage.rests
    outage.failed("used up", rest=60.0)
    time.now.now += 30.0
    outage.seen_to_answer(time.now.now - 1.0)
    assert outage.waits is None


async def test_an_answer_that_the_gateway_sees_wakes_the_steps_that_wait() -> None:
    outage = ModelOutage(DispatchTiming(monotonic=FakeClock(1000.0)))
    outage.failed("used up", rest=HALF_A_DAY)
    waiting = asyncio.ensure_future(outage.over_or_next_try())
    await asyncio.sleep(0)
    outage.seen_to_answer(1000.5)
    await asyncio.wait_for(waiting, 5)


async def test_the_gateways_sight_counts_as_the_fleets_and_one_callers_calls_alone_do_not(tmp_path: Path) -> None:
    async with dispatching(tmp_path, FakePool(ok, workers=3), timing=Passing().timing()) as (dispatcher, _):
        dispatcher.provider_away("500", rest=None, caller="worker-1")
        dispatcher.provider_away("500", rest=None, caller="worker-1")
        assert dispatcher.waits_for_model is None
        dispatcher.provider_away("500", rest=None, caller="worker-2")
        assert str(dispatcher.waits_for_model) == "for the model: 500"
        dispatcher.provider_answered(0.0)
        assert dispatcher.waits_for_model is None
        dispatcher.provider_away("can't be reached", rest=None, caller=None)
        assert str(dispatcher.waits_for_model) == "for the model: can't be reached"
