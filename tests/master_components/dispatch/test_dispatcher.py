"""How jobs run from their plan to their answer, in which order, and how many at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pibot.contracts import (
    TaskComplexity,
    TaskPlan,
    TaskRequest,
    TaskResult,
    TaskState,
    Usage,
)
from pibot.errors import (
    JobNotFound,
    LLMUnavailable,
)
from pibot.master_components.store.records import Job, Submission
from pibot.master_components.store.states import JobState, StepState
from tests.master_components.dispatch.dispatching import FakePool, begun, dispatching, ended, hang, ok, until
from tests.support.planners import FakePlanner, plan


async def test_a_job_is_planned_run_and_answered(tmp_path: Path) -> None:
    pool = FakePool(ok)
    async with dispatching(tmp_path, pool, FakePlanner(plan(a=(), b=()))) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("the job"))
        assert (job.state, job.answer, job.error) == (JobState.COMPLETED, "a=did a; b=did b", None)
        assert job.usage == Usage(1 + 2 + 6, 1 + 2 + 6, 4)
        assert {s.state for s in job.steps} == {StepState.COMPLETED}
        assert {worker for worker, _ in pool.asked} == {"worker-1", "worker-2"}
        assert sorted(pool.free) == ["worker-1", "worker-2", "worker-3"]


async def test_a_job_with_skills_needs_no_model_call_for_its_plan_or_its_answer(tmp_path: Path) -> None:
    planner = FakePlanner(LLMUnavailable("down"))
    async with dispatching(tmp_path, FakePool(ok), planner) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("list files", ("shell_exec",)))
        assert (job.state, job.answer, planner.planned) == (JobState.COMPLETED, "did list files", 0)


async def test_a_job_that_the_master_answers_itself_needs_no_worker(tmp_path: Path) -> None:
    planner = FakePlanner(TaskPlan(TaskComplexity.SIMPLE, True, (), "4"))
    pool = FakePool(ok, workers=0)
    async with dispatching(tmp_path, pool, planner) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("what is 2+2?"))
        assert (job.state, job.answer, pool.asked) == (JobState.COMPLETED, "4", [])


async def test_independent_steps_run_at_the_same_time_and_a_step_gets_the_results_that_it_needs(tmp_path: Path) -> None:
    together = asyncio.Event()

    async def both(worker_id: str, request: TaskRequest) -> TaskResult:
        if request.description in ("a", "b"):
            if len(pool.asked) == 2:
                together.set()
            await together.wait()
        return ok(worker_id, request)

    pool = FakePool(both)
    async with dispatching(tmp_path, pool, FakePlanner(plan(a=(), b=(), c=("a",)))) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x"))
        assert job.state is JobState.COMPLETED
        last = pool.asked[-1][1].description
        assert last.startswith("c\n\nResults of earlier steps")
        assert '"did a"' in last
        assert "did b" not in last


async def test_a_failed_step_is_named_and_the_other_results_are_kept(tmp_path: Path) -> None:
    def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        if request.description == "a":
            return TaskResult(request.task_id, worker_id, TaskState.FAILED, error="no such file")
        return ok(worker_id, request)

    pool = FakePool(answer)
    async with dispatching(tmp_path, pool, FakePlanner(plan(a=(), b=("a",), c=()))) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x"))
        assert job.state is JobState.FAILED
        assert "step 'a' failed: no such file" in (job.error or "")
        assert "step 'b' skipped: it needs 'a'" in (job.error or "")
        assert "c=did c" in (job.answer or "")
        assert len(pool.asked) == 2  # a task that the agent failed is not tried again


async def test_a_job_that_cannot_be_planned_fails_with_the_error_of_the_model_call(tmp_path: Path) -> None:
    async with dispatching(tmp_path, FakePool(ok), FakePlanner(LLMUnavailable("set VOLC_API_KEY"))) as (d, store):
        job = await ended(d, store, Submission("x"))
        assert (job.state, job.error) == (JobState.FAILED, "the job could not be planned: set VOLC_API_KEY")


async def test_a_job_without_any_worker_fails_and_says_what_to_set(tmp_path: Path) -> None:
    async with dispatching(tmp_path, FakePool(ok, workers=0)) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert job.state is JobState.FAILED
        assert "WORKER_1_IP" in (job.error or "")


async def test_a_job_is_read_from_the_store_once_a_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with dispatching(tmp_path, FakePool(ok), FakePlanner(plan(a=(), b=("a",), c=("b",)))) as (dispatcher, store):
        reads, read = [], store.queries.job

        def counted(job_id: str) -> Job:
            reads.append(job_id)
            return read(job_id)

        monkeypatch.setattr(store.queries, "job", counted)
        job_id = store.submit(Submission("x")).job_id
        dispatcher.notify(job_id)
        await until(lambda: store.queries.counts()[JobState.COMPLETED] == 1)
        assert len(reads) == 4  # once to begin, and once after each of the three steps


async def test_a_defect_fails_its_job_and_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def answer(worker_id: str, request: TaskRequest) -> Any:
        return ZeroDivisionError("oh") if request.description == "bad" else ok(worker_id, request)

    async with dispatching(tmp_path, FakePool(answer)) as (dispatcher, store):
        bad = await ended(dispatcher, store, Submission("bad", ()))
        assert (bad.state, bad.error) == (JobState.FAILED, "a defect in the hub: ZeroDivisionError: oh")
        assert "Traceback" in caplog.text
        assert (await ended(dispatcher, store, Submission("good", ()))).state is JobState.COMPLETED


async def test_wait_returns_false_when_its_time_is_up(tmp_path: Path) -> None:
    async with dispatching(tmp_path, FakePool(hang)) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        assert await dispatcher.wait(job_id, 0.01) is False
        with pytest.raises(JobNotFound):
            await dispatcher.wait("nope", 1)


async def test_stop_wakes_the_waiters(tmp_path: Path) -> None:
    async with dispatching(tmp_path, FakePool(hang)) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        waiting = asyncio.ensure_future(dispatcher.wait(job_id, 60))
        await asyncio.sleep(0)
    assert await waiting


async def test_jobs_run_by_priority_then_by_age(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await release.wait()
        return ok(worker_id, request)

    pool = FakePool(lambda w, r: answer(w, r))
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        submissions = [Submission("first", ()), Submission("low", (), priority=-1), Submission("high", (), priority=1)]
        ids = [store.submit(s).job_id for s in submissions]
        for job_id in ids:
            dispatcher.notify(job_id)
        await begun(pool)
        release.set()
        for job_id in ids:
            assert await dispatcher.wait(job_id, 20)
        assert [request.description for _, request in pool.asked] == ["first", "high", "low"]


async def test_a_new_job_does_not_overtake_a_more_urgent_one_that_waits(tmp_path: Path) -> None:
    may_end = asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    pool = FakePool(lambda w, r: answer(w, r))
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        first, urgent, late = (
            store.submit(s).job_id
            for s in (Submission("first", ()), Submission("urgent", (), priority=1), Submission("late", ()))
        )
        dispatcher.notify(first)
        await begun(pool)
        dispatcher.notify(urgent)
        may_end.set()
        assert await dispatcher.wait(first, 20)
        dispatcher.notify(late)  # there is room now, but the store's answer on the next job is not there yet
        assert await dispatcher.wait(urgent, 20)
        assert await dispatcher.wait(late, 20)
        assert [request.description for _, request in pool.asked] == ["first", "urgent", "late"]


def describe(pool: FakePool) -> list[str]:
    return [request.description for _, request in pool.asked]


async def test_jobs_that_only_wait_for_a_worker_make_room_for_a_more_urgent_one(tmp_path: Path) -> None:
    may_end = asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    pool = FakePool(lambda w, r: answer(w, r), workers=1)
    async with dispatching(tmp_path, pool, jobs_at_once=2) as (dispatcher, store):
        ids = [store.submit(Submission(f"job {n}", ())).job_id for n in range(5)]
        for job_id in ids:
            dispatcher.notify(job_id)
        await begun(pool)
        await until(lambda: len(pool.queue_keys) >= 3)  # two more jobs wait for the worker, the others in the store
        urgent = store.submit(Submission("urgent", (), priority=9)).job_id
        dispatcher.notify(urgent, 9)
        await until(lambda: pool.queue_keys[-1][0] == -9)
        may_end.set()
        for job_id in (*ids, urgent):
            assert await dispatcher.wait(job_id, 20)
            assert store.queries.job(job_id).state is JobState.COMPLETED
        assert describe(pool) == ["job 0", "urgent", "job 1", "job 2", "job 3", "job 4"]


async def test_jobs_that_have_a_worker_leave_room_for_others(tmp_path: Path) -> None:
    pool = FakePool(hang, workers=5)
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        for n in range(5):
            dispatcher.notify(store.submit(Submission(str(n), ())).job_id)
        await begun(pool, 5)
        assert sorted(worker for worker, _ in pool.asked) == [f"worker-{n}" for n in range(1, 6)]


async def test_a_job_that_was_put_back_can_be_cancelled_and_only_its_end_wakes_its_waiter(tmp_path: Path) -> None:
    pool = FakePool(hang, workers=1)
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        first, second = (store.submit(Submission(text, ())).job_id for text in ("1", "2"))
        for job_id in (first, second):
            dispatcher.notify(job_id)
        await begun(pool)
        await until(lambda: len(pool.queue_keys) >= 2)
        waiting = asyncio.ensure_future(dispatcher.wait(second, 20))
        dispatcher.notify(store.submit(Submission("urgent", (), priority=1)).job_id, 1)
        await until(lambda: len(pool.queue_keys) >= 3)
        assert not waiting.done()
        await dispatcher.cancel(second)
        assert await waiting
        assert store.queries.job(second).state is JobState.CANCELLED
