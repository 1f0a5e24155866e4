"""Look at a job whose steps have all ended: make its answer, or get further steps (docs/decisions.md, D141)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from typing import Callable, Optional

from pibot.contracts import SubTask, TaskPlan, TaskResult, TaskState, Usage
from pibot.errors import LLMError
from pibot.logs import event
from pibot.master_components.dispatch.protocols import Planner
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Job, StepRecord
from pibot.master_components.store.states import ENDED_JOBS, JobState, StepState
from pibot.master_components.store.thread import StoreThread

log = logging.getLogger("pibot.dispatcher")

Results = Sequence[tuple[SubTask, TaskResult]]
AskPlanner = Callable[
    [Callable[[Planner], Awaitable[tuple[Optional[TaskPlan], Usage]]]], Awaitable[tuple[Optional[TaskPlan], Usage]]
]
"""Makes a call of the job's planner, and waits for a model that is away."""


class PlanReview:
    """Ends jobs whose steps have ended, or changes their plans. What it decides is stored in one transaction.

    Args:
        store: the jobs.
        on_disk: runs the store's calls.
        replans: how often the plan of one job may be changed.
    """

    def __init__(self, store: JobStore, on_disk: StoreThread, replans: int) -> None:
        self._store = store
        self._on_disk = on_disk
        self._replans = replans

    def may_change(self, job: Job) -> bool:
        """Return whether the plan of a job may still be changed."""
        return job.planned and job.version <= self._replans

    async def look(self, job: Job, planner: Planner, ask: AskPlanner) -> Job | None:
        """Look at a job whose steps have all ended.

        Args:
            planner: the job's.
            ask: makes the calls that may wait for the model.

        Returns:
            The job with further steps; None if it has ended.
        """
        if job.state in ENDED_JOBS:
            return None
        failed = [r for r in job.steps if r.version == job.version and r.state is not StepState.COMPLETED]
        if not failed:
            return await self._answer(job, planner, ask)
        problem, usage = "", Usage()
        if self.may_change(job) and all(map(_failed_by_itself, failed)):
            why = "; ".join(f"step {r.task_id!r} failed: {r.error}" for r in failed if r.state is StepState.FAILED)
            plan, usage, problem = await self._further(job, ask, "")
            if plan is not None and plan.subtasks:
                return await self._change(job, plan, why, usage)
            if plan is not None:
                await self._finish(job, failed, plan.answer or "", usage)
                return None
        answer, more = await planner.compose(job.description, _results(job, failed))
        await self._finish(job, failed, answer, usage + more, problem)
        return None

    async def _answer(self, job: Job, planner: Planner, ask: AskPlanner) -> Job | None:
        """Make the answer of a job whose steps have all completed; if it lacks something, get further steps."""
        results = _results(job, ())
        if not (job.planned and self._replans):
            answer, usage = await planner.compose(job.description, results)
            await self._finish(job, (), answer, usage)
            return None
        answer, missing, usage = await planner.judge(job.description, results)
        if missing and self.may_change(job):
            plan, more, _ = await self._further(job, ask, missing)
            usage += more
            if plan is not None and plan.subtasks:
                return await self._change(job, plan, f"the answer lacked: {missing}", usage)
        await self._finish(job, (), f"{answer}\n\n⚠ {missing}" if missing else answer, usage)
        return None

    async def _further(self, job: Job, ask: AskPlanner, missing: str) -> tuple[TaskPlan | None, Usage, str]:
        """Ask for further steps; return them, the tokens, and why there is no answer."""
        results = [(record.step, _result_of(record)) for record in job.steps]
        try:
            plan, usage = await ask(lambda planner: planner.replan(job.description, results, missing))
        except LLMError as exc:
            event(log, "not_replanned", level=logging.WARNING, job=job.job_id, error=str(exc))
            return None, Usage(), f"the plan could not be changed: {exc}"
        return plan, usage, "" if plan else "the model's plan of what to do instead could not be used twice"

    async def _change(self, job: Job, plan: TaskPlan, why: str, usage: Usage) -> Job:
        changed = await self._on_disk(
            lambda: self._store.change_plan(
                job.job_id, job.version + 1, plan.subtasks, why=why, reasoning=plan.reasoning, usage=usage
            )
        )
        event(log, "job_replanned", job=job.job_id, version=changed.version, steps=len(plan.subtasks), why=why)
        return changed

    async def _finish(
        self, job: Job, failed: Sequence[StepRecord], answer: str, usage: Usage, problem: str = ""
    ) -> None:
        state = JobState.FAILED if failed else JobState.COMPLETED
        errors = [f"step {record.task_id!r} {record.state.value}: {record.error}" for record in failed]
        if len(job.steps) == 1 and failed and failed[0].result is not None:
            errors = [failed[0].error or ""]  # as a job of one step that is not looked at again
        error = "; ".join(filter(None, (*errors, problem))) or None
        await self._on_disk.shielded(
            lambda: self._store.finish(job.job_id, state, answer=answer or None, error=error, usage=usage)
        )
        event(log, "job_finished", job=job.job_id, status=state.value, error=error)


def _failed_by_itself(record: StepRecord) -> bool:
    """Return whether another plan may help: not after a cancel, without a worker, or with the model away."""
    if record.state is StepState.SKIPPED:
        return True  # it needs one that failed
    if record.state is not StepState.FAILED or not record.attempts:
        return False
    return record.result is None or record.result.fault is None


def _results(job: Job, failed: Sequence[StepRecord]) -> Results:
    """Return what the answer is made of: the completed steps of every plan, and what failed of the newest one."""
    return [(r.step, _result_of(r)) for r in job.steps if r.state is StepState.COMPLETED or r in failed]


def _result_of(record: StepRecord) -> TaskResult:
    """Return a step's result, or a failed one that says why there is none."""
    if record.result is not None:
        return record.result
    return TaskResult(record.task_id, record.worker_id, TaskState.FAILED, error=record.error or record.state.value)
