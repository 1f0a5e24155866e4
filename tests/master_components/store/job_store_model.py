"""A model of the job store in memory. The real store must do what it does."""

from __future__ import annotations

from dataclasses import dataclass, field

from pibot.contracts import TaskState
from pibot.master_components.store.records import Lease
from pibot.master_components.store.states import (
    ENDED_JOBS,
    ENDED_STEPS,
    MAX_ATTEMPTS,
    JobState,
    StepState,
)

ENDS = {
    TaskState.COMPLETED: StepState.COMPLETED,
    TaskState.FAILED: StepState.FAILED,
    TaskState.TIMEOUT: StepState.FAILED,
    TaskState.CANCELLED: StepState.CANCELLED,
}


@dataclass
class ModelAttempt:
    """One lease and its outcome."""

    token: str
    worker_id: str
    error: str | None = None
    is_over: bool = False
    late_output: str | None = None


@dataclass
class ModelStep:
    """One step."""

    needs: tuple[str, ...]
    state: StepState
    attempts: list[ModelAttempt] = field(default_factory=list)
    token: str | None = None
    output: str | None = None


@dataclass
class ModelJob:
    """One job."""

    priority: int = 0
    state: JobState = JobState.QUEUED
    cancel_requested: bool = False
    steps: dict[str, ModelStep] = field(default_factory=dict)
    answer: str | None = None

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED_JOBS


class Model:
    """The jobs in the order in which they were accepted; ``ended`` in the order in which they ended."""

    def __init__(self) -> None:
        self.jobs: dict[str, ModelJob] = {}
        self.ended: list[str] = []

    def submit(self, job_id: str, priority: int, *, single: bool) -> None:
        job = self.jobs[job_id] = ModelJob(priority)
        if single:
            self.add_steps(job, {"step-1": ()})

    def plan(self, job_id: str, needs: dict[str, tuple[str, ...]]) -> None:
        self.jobs[job_id].state = JobState.RUNNING
        self.add_steps(self.jobs[job_id], needs)

    @staticmethod
    def add_steps(job: ModelJob, needs: dict[str, tuple[str, ...]]) -> None:
        for task_id, needed in needs.items():
            job.steps[task_id] = ModelStep(needed, StepState.WAITING if needed else StepState.READY)

    def lease(self, lease: Lease) -> None:
        job = self.jobs[lease.job_id]
        job.state = JobState.RUNNING
        step = job.steps[lease.task_id]
        step.state, step.token = StepState.LEASED, lease.token
        step.attempts.append(ModelAttempt(lease.token, lease.worker_id))

    def holds(self, lease: Lease) -> bool:
        """Return whether this is the step's lease."""
        job = self.jobs.get(lease.job_id)
        return job is not None and job.steps[lease.task_id].token == lease.token

    def complete(self, lease: Lease, state: TaskState, output: str, error: str | None, *, finish_job: bool) -> None:
        job = self.jobs[lease.job_id]
        step = job.steps[lease.task_id]
        step.state, step.token, step.output = ENDS[state], None, output
        step.attempts[-1].error, step.attempts[-1].is_over = error, True
        self._move_on(job)
        if finish_job:
            self.finish(lease.job_id, JobState(ENDS[state].value), output)

    def too_late(self, lease: Lease, output: str) -> None:
        job = self.jobs.get(lease.job_id)
        for attempt in job.steps[lease.task_id].attempts if job else ():
            if attempt.token == lease.token and attempt.late_output is None:
                attempt.late_output = output

    def fail_attempt(self, lease: Lease, error: str, *, final: bool, count: bool) -> None:
        job = self.jobs[lease.job_id]
        step = job.steps[lease.task_id]
        step.token = None
        if count:
            step.attempts[-1].error, step.attempts[-1].is_over = error, True
            final = final or len(step.attempts) >= MAX_ATTEMPTS
        else:
            step.attempts.pop()
        step.state = StepState.FAILED if final else StepState.READY
        self._move_on(job)

    def give_up(self, job_id: str, task_id: str) -> None:
        job = self.jobs[job_id]
        if job.steps[task_id].state is StepState.READY:
            job.steps[task_id].state = StepState.FAILED
            self._move_on(job)

    def cancel(self, job_id: str) -> None:
        job = self.jobs[job_id]
        if job.has_ended or job.cancel_requested:
            return
        job.cancel_requested = True
        self._cancel_steps(job, (StepState.WAITING, StepState.READY))

    def finish(self, job_id: str, state: JobState, answer: str | None = None) -> None:
        job = self.jobs[job_id]
        job.state, job.answer = state, answer
        self._cancel_steps(job, [s for s in StepState if s not in ENDED_STEPS])
        self.ended.append(job_id)

    def prune(self, number: int) -> None:
        for job_id in self.ended[:number]:
            del self.jobs[job_id]
        del self.ended[:number]

    @staticmethod
    def _cancel_steps(job: ModelJob, states: object) -> None:
        for step in job.steps.values():
            if step.state in states:  # type: ignore[operator]
                step.state, step.token = StepState.CANCELLED, None

    @staticmethod
    def _move_on(job: ModelJob) -> None:
        never = {StepState.FAILED, StepState.CANCELLED, StepState.SKIPPED}
        for _ in job.steps:
            for step in job.steps.values():
                if step.state is not StepState.WAITING:
                    continue
                needed = [job.steps[name].state for name in step.needs]
                if never & set(needed):
                    step.state = StepState.SKIPPED
                elif set(needed) == {StepState.COMPLETED}:
                    step.state = StepState.READY
