"""A plan that met a failure, or whose answer lacks something, gets further steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pibot.contracts import Fault, SubTask, TaskComplexity, TaskPlan, TaskRequest, TaskResult, TaskState, Usage
from pibot.errors import IllegalTransition, LLMUnavailable, WorkerUnreachable
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Job, Submission
from pibot.master_components.store.states import JobState, StepState
from tests.master_components.dispatch.dispatching import FakePool, dispatching, ended, ok, until
from tests.support.planners import FakePlanner, Further, plan

NOTHING_HELPS = TaskPlan(TaskComplexity.SIMPLE, True, (), "It can't be done: no disk.")


def failing(*names: str, fault: Fault | None = None) -> FakePool:
    def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        if request.description.split("\n")[0] in names:
            return TaskResult(request.task_id, worker_id, TaskState.FAILED, error="no disk", fault=fault)
        return ok(worker_id, request)

    return FakePool(answer)


def states(job: Job) -> Mapping[str, tuple[int, StepState]]:
    return {record.task_id: (record.version, record.state) for record in job.steps}


async def run(tmp_path: Path, pool: FakePool, planner: FakePlanner, replans: int = 2) -> Job:
    async with dispatching(tmp_path, pool, planner, replans=replans) as (dispatcher, store):
        return await ended(dispatcher, store, Submission("x"))


async def test_after_a_failure_the_further_steps_run_and_the_finished_ones_stay(tmp_path: Path) -> None:
    pool = failing("b")
    planner = FakePlanner(plan(a=(), b=("a",), c=("b",)), [plan(d=("a",), e=("d",))])
    job = await run(tmp_path, pool, planner)
    assert (job.state, job.error) == (JobState.COMPLETED, None)
    assert states(job) == {
        "a": (1, StepState.COMPLETED),
        "b": (1, StepState.FAILED),
        "c": (1, StepState.SKIPPED),
        "d": (2, StepState.COMPLETED),
        "e": (2, StepState.COMPLETED),
    }
    (change,) = job.changes
    assert (change.version, change.why) == (2, "step 'b' failed: no disk")
    assert job.plan is not None
    assert [step.task_id for step in job.plan.subtasks] == ["a", "b", "c"]  # the plan as it was first made
    assert planner.replanned == [("", {"a": "did a", "b": "no disk", "c": "it needs 'b', which did not complete"})]
    assert [request.description.split("\n")[0] for _, request in pool.asked] == ["a", "b", "d", "e"]
    assert '"did a"' in pool.asked[2][1].description  # the finished step's result is handed on
    assert "c=" not in (job.answer or "")
    assert job.usage == Usage(1 + 4 + 2 + 9, 1 + 4 + 2 + 9, 6)


async def test_a_job_of_one_step_that_failed_is_looked_at_again(tmp_path: Path) -> None:
    planner = FakePlanner(plan(a=()), [plan(b=())])
    job = await run(tmp_path, failing("a"), planner)
    assert (job.state, job.error) == (JobState.COMPLETED, None)
    assert states(job) == {"a": (1, StepState.FAILED), "b": (2, StepState.COMPLETED)}


async def test_a_planner_that_sees_no_way_ends_the_job_with_its_answer(tmp_path: Path) -> None:
    planner = FakePlanner(plan(a=()), [NOTHING_HELPS])
    job = await run(tmp_path, failing("a"), planner)
    assert (job.state, job.answer, job.error) == (JobState.FAILED, "It can't be done: no disk.", "no disk")
    assert (job.changes, planner.composed) == ((), 0)


@pytest.mark.parametrize(("replans", "tries"), [(0, 0), (1, 1), (2, 2)])
async def test_a_plan_is_changed_as_often_as_the_owner_allows(tmp_path: Path, replans: int, tries: int) -> None:
    further: list[Further] = [plan(b=()), plan(c=())]
    planner = FakePlanner(plan(a=()), further)
    job = await run(tmp_path, failing("a", "b", "c"), planner, replans)
    assert job.state is JobState.FAILED
    assert len(planner.replanned) == tries
    assert [change.version for change in job.changes] == list(range(2, 2 + tries))
    assert "no disk" in (job.error or "")


async def test_success_costs_no_further_model_call(tmp_path: Path) -> None:
    planner = FakePlanner(plan(a=(), b=()))
    assert (await run(tmp_path, failing(), planner)).state is JobState.COMPLETED
    single = FakePlanner(plan(a=()))
    (tmp_path / "single").mkdir()
    assert (await run(tmp_path / "single", failing(), single)).answer == "did a"
    assert (planner.replanned, planner.composed) == ([], 1)
    assert (single.replanned, single.composed) == ([], 0)


async def test_a_job_that_came_with_its_skills_is_not_planned_after_a_failure_either(tmp_path: Path) -> None:
    planner = FakePlanner(plan(a=()))
    async with dispatching(tmp_path, failing("x"), planner, replans=2) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
    assert (job.state, job.error, planner.replanned) == (JobState.FAILED, "no disk", [])


async def test_a_model_or_a_setting_that_fails_is_no_reason_for_another_plan(tmp_path: Path) -> None:
    pool, planner = failing("a", fault=Fault.SETTING), FakePlanner(plan(a=(), b=()))
    job = await run(tmp_path, pool, planner)
    assert (job.state, planner.replanned) == (JobState.FAILED, [])


async def test_a_step_that_loses_every_worker_is_a_reason_for_another_plan(tmp_path: Path) -> None:
    def answer(worker_id: str, request: TaskRequest) -> object:
        return ok(worker_id, request) if request.description == "b" else WorkerUnreachable(worker_id, "out of memory")

    planner = FakePlanner(plan(a=()), [plan(b=())])
    job = await run(tmp_path, FakePool(answer), planner)
    assert (job.state, states(job)["a"]) == (JobState.COMPLETED, (1, StepState.FAILED))


async def test_what_an_answer_lacks_gets_one_more_round(tmp_path: Path) -> None:
    planner = FakePlanner(plan(a=(), b=()), [plan(c=())], ["the price"])
    job = await run(tmp_path, failing(), planner)
    assert (job.state, job.answer) == (JobState.COMPLETED, "a=did a; b=did b; c=did c")
    assert planner.replanned == [("the price", {"a": "did a", "b": "did b"})]
    assert job.changes[0].why == "the answer lacked: the price"


async def test_an_answer_says_what_it_lacks_where_no_round_is_left(tmp_path: Path) -> None:
    planner = FakePlanner(plan(a=(), b=()), [plan(c=())], ["the price", "the price"])
    job = await run(tmp_path, failing(), planner, 1)
    assert (job.state, len(planner.replanned)) == (JobState.COMPLETED, 1)
    assert (job.answer or "").endswith("\n\n⚠ the price")


@pytest.mark.parametrize("further", [None, LLMUnavailable("budget")], ids=["unusable", "no model"])
async def test_without_a_usable_change_the_job_ends_as_it_would_have(tmp_path: Path, further: Further) -> None:
    planner = FakePlanner(plan(a=(), b=()), [further])
    job = await run(tmp_path, failing("b"), planner)
    assert (job.state, job.answer) == (JobState.FAILED, "a=did a; b=no disk")
    assert (job.error or "").startswith("step 'b' failed: no disk; the ")


async def test_a_hub_that_was_killed_before_the_change_was_stored_asks_again_and_stores_it_once(tmp_path: Path) -> None:
    class Killed(FakePlanner):
        async def replan(self, *args: object, **more: object) -> tuple[TaskPlan | None, Usage]:
            self.replanned.append(("", {}))
            await until(lambda: False)
            raise AssertionError

    killed = Killed(plan(a=(), b=("a",)))
    async with dispatching(tmp_path, failing("b"), killed, replans=1) as (dispatcher, store):
        job_id = store.submit(Submission("x")).job_id
        dispatcher.notify(job_id)
        await until(lambda: bool(killed.replanned))
    pool, planner = failing("b"), FakePlanner(LLMUnavailable("not again"), [plan(c=("a",))])
    async with dispatching(tmp_path, pool, planner, replans=1) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        job = store.queries.job(job_id)
    assert (job.state, len(job.changes)) == (JobState.COMPLETED, 1)
    assert [request.description.split("\n")[0] for _, request in pool.asked] == ["c"]


async def test_a_hub_that_was_killed_after_the_change_was_stored_runs_its_steps(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.db")
    job_id = store.submit(Submission("x")).job_id
    store.start_planning(job_id)
    store.save_plan(job_id, plan(a=()))
    lease = store.leases.grant(job_id, "a", "worker-1", 60)
    store.leases.complete(lease, TaskResult("a", "worker-1", TaskState.FAILED, error="no"), look_again=True)
    store.change_plan(job_id, 2, [SubTask("b", "b")], why="a failed", usage=Usage())
    store.close()
    planner = FakePlanner(LLMUnavailable("not again"))
    async with dispatching(tmp_path, failing(), planner, replans=2) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        assert store.queries.job(job_id).answer == "b=did b"


def test_a_change_is_stored_once_and_only_when_nothing_runs(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.db")
    job_id = store.submit(Submission("x")).job_id
    store.start_planning(job_id)
    store.save_plan(job_id, plan(a=(), b=()))
    with pytest.raises(IllegalTransition, match="has steps to run"):
        store.change_plan(job_id, 2, [SubTask("c", "c")], why="", usage=Usage())
    for name in "ab":
        lease = store.leases.grant(job_id, name, "worker-1", 60)
        store.leases.complete(lease, TaskResult(name, "worker-1", TaskState.FAILED, error="no"))
    before = store.queries.stored().unfinished
    job = store.change_plan(job_id, 2, [SubTask("c", "c")], why="a and b failed", reasoning="c!", usage=Usage(1, 1, 1))
    assert states(job)["c"] == (2, StepState.READY)
    assert store.queries.stored().unfinished == before + len("a and b failed") + len("c!") + len("c")
    with pytest.raises(IllegalTransition, match="it gets no 2"):
        store.change_plan(job_id, 2, [SubTask("d", "d")], why="", usage=Usage())
    store.finish(job_id, JobState.FAILED)
    with pytest.raises(IllegalTransition, match="is failed"):
        store.change_plan(job_id, 3, [SubTask("d", "d")], why="", usage=Usage())
    store.close()
