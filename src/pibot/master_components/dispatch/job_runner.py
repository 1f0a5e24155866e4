"""Brings one job from where it is to its end: plans it, has its subtasks run, makes one answer of the results."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from pibot.contracts import SubTask, TaskPlan, TaskResult, TaskState, Usage
from pibot.errors import IllegalTransition, LLMError, StoreError
from pibot.logs import event
from pibot.master_components.dispatch.running_job import RUNNING_JOB
from pibot.master_components.dispatch.step_runner import Standing, StepRunner
from pibot.master_components.planner import with_results
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Job, StepRecord
from pibot.master_components.store.states import ENDED_JOBS, JobState, StepState
from pibot.master_components.store.thread import StoreThread

log = logging.getLogger("pibot.dispatcher")


class Planner(Protocol):
    """Plans jobs and sums up their results."""

    async def analyze(self, description: str) -> tuple[TaskPlan, Usage]: ...

    async def compose(self, description: str, results: Sequence[tuple[SubTask, TaskResult]]) -> tuple[str, Usage]: ...


class JobRunner:
    """What it knows of a job is in the store, so that it can be killed at any point.

    Args:
        store: the jobs.
        on_disk: where the store's calls are made.
        planner: plans them.
        steps: runs their subtasks.
    """

    def __init__(self, store: JobStore, on_disk: StoreThread, planner: Planner, steps: StepRunner) -> None:
        self._store = store
        self._on_disk = on_disk
        self._planner = planner
        self._steps = steps

    async def run(self, job: Job, standing: Standing) -> None:
        """Bring a job from where it is to its end.

        Args:
            standing: kept up to date meanwhile.
        """
        RUNNING_JOB.set(job.job_id)
        if job.plan is None:
            await self._on_disk(self._store.start_planning, job.job_id)
            try:
                plan, usage = await self._planner.analyze(job.description)
            except LLMError as exc:
                await self.end(job.job_id, JobState.FAILED, f"the job could not be planned: {exc}")
                return
            await self._on_disk(lambda: self._store.save_plan(job.job_id, plan, usage))
            event(log, "job_planned", job=job.job_id, steps=len(plan.subtasks), note=plan.note or None)
            job = await self._on_disk(self._store.queries.job, job.job_id)
        assert job.plan is not None
        if job.plan.handle_locally:
            answer = job.plan.answer
            await self._on_disk.to_the_end(lambda: self._store.finish(job.job_id, JobState.COMPLETED, answer=answer))
            return
        await self._run_steps(job, standing)
        await self._conclude(job.job_id)

    async def end(self, job_id: str, state: JobState, reason: str) -> None:
        """End a job before its time; what of it still waits or runs is over. It has ended when this returns."""
        try:
            await self._on_disk.to_the_end(lambda: self._store.finish(job_id, state, error=reason))
        except IllegalTransition:
            return  # it had ended just before
        except StoreError as exc:
            event(log, "job_not_ended", level=logging.ERROR, job=job_id, error=str(exc))
            return
        event(log, "job_finished", job=job_id, status=state.value, error=reason)

    async def _run_steps(self, job: Job, standing: Standing) -> None:
        """Run the subtasks as their dependencies allow, until none is left that could be run."""
        single = len(job.steps) == 1
        rank = (-float(job.priority), job.accepted_run)
        steps: dict[asyncio.Task[None], str] = {}
        try:
            while True:
                current = job if not steps else await self._on_disk(self._store.queries.job, job.job_id)
                begun = set(steps.values())
                for record in current.steps:
                    if record.state in (StepState.READY, StepState.LEASED) and record.task_id not in begun:
                        subtask = self._with_needed(record, current)
                        run = self._steps.run(
                            job.job_id, subtask, record, finish_job=single, rank=rank, standing=standing
                        )
                        steps[asyncio.ensure_future(run)] = record.task_id
                if not steps:
                    return
                standing.work_on(len(steps))
                done, _ = await asyncio.wait(steps, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del steps[task]
                    task.result()
                if single:
                    return
                job = await self._on_disk(self._store.queries.job, job.job_id)
        finally:
            for task in steps:
                task.cancel()
            if steps:
                await asyncio.wait(steps)

    @staticmethod
    def _with_needed(record: StepRecord, job: Job) -> SubTask:
        results = {other.task_id: other for other in job.steps}
        needed = [(results[name].step, results[name].result) for name in record.step.depends_on]
        # A step may take what its job was given; the job's own end cuts it. The whole of that and not what is left,
        # for after a restart the same task must be sent again.
        step = replace(record.step, timeout=record.step.timeout or job.timeout)
        return with_results(step, [(done, result) for done, result in needed if result is not None])

    async def _conclude(self, job_id: str) -> None:
        """End a job whose subtasks have all ended: one answer of what they came to."""
        job = await self._on_disk(self._store.queries.job, job_id)
        if job.state in ENDED_JOBS:
            return
        results = [(record.step, _result_of(record)) for record in job.steps]
        answer, usage = await self._planner.compose(job.description, results)
        failed = [step for step in job.steps if step.state is not StepState.COMPLETED]
        state = JobState.FAILED if failed else JobState.COMPLETED
        error = "; ".join(f"step {step.task_id!r} {step.state.value}: {step.error}" for step in failed) or None
        await self._on_disk.to_the_end(
            lambda: self._store.finish(job_id, state, answer=answer or None, error=error, usage=usage)
        )
        event(log, "job_finished", job=job_id, status=state.value, error=error)


def _result_of(record: StepRecord) -> TaskResult:
    """The subtask's result; one that says why where there is none."""
    if record.result is not None:
        return record.result
    return TaskResult(record.task_id, record.worker_id, TaskState.FAILED, error=record.error or record.state.value)
