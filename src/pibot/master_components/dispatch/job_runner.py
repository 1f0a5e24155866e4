"""Brings one job from where it is to its end: plans it, runs its steps, makes one answer of their results."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import replace
from typing import Callable, TypeVar

from pibot.contracts import SubTask, Usage, rest_of
from pibot.errors import IllegalTransition, LLMAway, LLMError, LLMUnreachable, StoreError
from pibot.logs import event
from pibot.master_components.dispatch.job_activity import JobActivity
from pibot.master_components.dispatch.model_outage import ModelOutage, Patience
from pibot.master_components.dispatch.plan_review import PlanReview
from pibot.master_components.dispatch.protocols import Planner, PlannerFor
from pibot.master_components.dispatch.step_runner import StepRunner
from pibot.master_components.dispatch.timing import DispatchTiming
from pibot.master_components.planner import with_results
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Job, StepRecord
from pibot.master_components.store.states import JobState, StepState
from pibot.master_components.store.thread import StoreThread

log = logging.getLogger("pibot.dispatcher")

T = TypeVar("T")


class JobRunner:
    """Runs jobs. The state of a job is in the store, so that this can be killed at any point.

    Args:
        store: the jobs.
        on_disk: runs the store's calls.
        planner_for: makes the planner of a job.
        steps: runs the steps.
        timing: how long it waits for what.
        outage: what is known of the model's provider.
        replans: how often the plan of one job may be changed.
    """

    def __init__(
        self,
        store: JobStore,
        on_disk: StoreThread,
        planner_for: PlannerFor,
        steps: StepRunner,
        timing: DispatchTiming,
        outage: ModelOutage,
        replans: int = 0,
    ) -> None:
        self._timing = timing
        self._outage = outage
        self._store = store
        self._on_disk = on_disk
        self._planner_for = planner_for
        self._steps = steps
        self._review = PlanReview(store, on_disk, replans)

    async def run(self, job: Job, activity: JobActivity) -> None:
        """Bring a job from where it is to its end.

        Args:
            activity: counts what the job's steps do meanwhile.
        """
        if job.plan is None:
            await self._on_disk(self._store.start_planning, job.job_id)
            try:
                planner = self._planner_for(job.job_id)
                plan, usage = await self._patiently(planner, lambda p: p.analyze(job.description), activity)
            except LLMError as exc:
                await self.end(job.job_id, JobState.FAILED, f"the job could not be planned: {exc}")
                return
            job = await self._on_disk(self._store.save_plan, job.job_id, plan, usage)
            event(log, "job_planned", job=job.job_id, steps=len(plan.subtasks), note=plan.note or None)
        assert job.plan is not None
        if job.plan.handle_locally:
            answer = job.plan.answer
            await self._on_disk.shielded(lambda: self._store.finish(job.job_id, JobState.COMPLETED, answer=answer))
            return
        await self._run_to_end(job, activity)

    async def _run_to_end(self, job: Job, activity: JobActivity) -> None:
        """Run a planned job's steps, and the further ones that its plan gets, until it has ended."""
        planner = self._planner_for(job.job_id)
        unended: Job | None = job
        while unended is not None:
            ended = await self._run_steps(unended, activity)
            unended = await self._review.look(ended, planner, lambda call: self._patiently(planner, call, activity))

    async def _patiently(
        self, planner: Planner, call: Callable[[Planner], Awaitable[tuple[T, Usage]]], activity: JobActivity
    ) -> tuple[T, Usage]:
        """Make a call of a planner. While the model's provider is away, wait for it, as a step waits for a worker.

        Raises:
            LLMError: the model call failed, and waiting would not help or took too long.
        """
        patience = Patience(self._outage, self._timing)
        away: LLMError | None = None
        while True:
            if away is not None or self._outage.rests:
                await self._wait_for_model(patience, activity, away)
            began = patience.try_began()
            try:
                planned = await call(planner)
            except (LLMAway, LLMUnreachable) as exc:
                self._outage.failed(str(exc), rest=rest_of(exc))
                if patience.own_fault(began, rest_of(exc)):
                    raise
                used_up = patience.used_up()
                if used_up is not None:
                    raise LLMAway(f"{exc}; {used_up}") from exc
                away = exc
            else:
                self._outage.answered(began)
                return planned

    async def _wait_for_model(self, patience: Patience, activity: JobActivity, away: LLMError | None) -> None:
        """Wait until the model may be asked again.

        Args:
            away: why it could not be asked before, if it was.

        Raises:
            LLMAway: it took too long.
        """
        activity.set_steps(1)  # so that a more urgent job may have this one's place
        try:
            with activity.step_waits():
                too_late = await patience.wait_for_model()
        finally:
            activity.set_steps(0)
        if too_late is not None:
            raise LLMAway(too_late if away is None else f"{away}; {too_late}")

    async def end(self, job_id: str, state: JobState, reason: str) -> None:
        """End a job early, with all of its steps that have not ended. The end is on disk when this returns."""
        try:
            await self._on_disk.shielded(lambda: self._store.finish(job_id, state, error=reason))
        except IllegalTransition:
            return  # it had ended just before
        except StoreError as exc:
            event(log, "job_not_ended", level=logging.ERROR, job=job_id, error=str(exc))
            return
        event(log, "job_finished", job=job_id, status=state.value, error=reason)

    async def _run_steps(self, job: Job, activity: JobActivity) -> Job:
        """Run the steps as their dependencies allow, until no step can run; return the job as it is then.

        The job is read once a turn: after steps have ended, to find those that became ready.
        """
        single, changeable = len(job.steps) == 1, self._review.may_change(job)
        queue_key = (-float(job.priority), job.accepted_run)
        running: dict[asyncio.Task[None], str] = {}
        try:
            while True:
                for record in job.steps:
                    if record.state in (StepState.READY, StepState.LEASED) and record.task_id not in running.values():
                        step = _with_needed(record, job)
                        run = self._steps.run(
                            job.job_id,
                            step,
                            record,
                            finish_job=single,
                            look_again=changeable,
                            queue_key=queue_key,
                            activity=activity,
                        )
                        running[asyncio.ensure_future(run)] = record.task_id
                if not running:
                    return job
                activity.set_steps(len(running))
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del running[task]
                    task.result()
                job = await self._on_disk(self._store.queries.job, job.job_id)
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)


def _with_needed(record: StepRecord, job: Job) -> SubTask:
    """Return a stored step with its time limit, and with the results that it needs in its description."""
    records = {other.task_id: other for other in job.steps}
    needed = [(records[name].step, records[name].result) for name in record.step.depends_on]
    # A step may take as long as its job, whose own end cuts it. It gets the job's whole timeout and not what is left,
    # because after a restart the same task must be sent again.
    step = replace(record.step, timeout=record.step.timeout or job.timeout)
    return with_results(step, [(done, result) for done, result in needed if result is not None])
