"""Leases: which worker has a step, until when, and how its attempt ended."""

from __future__ import annotations

import json
import secrets
from typing import Callable

from pibot.contracts import Clock, TaskResult, Usage
from pibot.errors import IllegalTransition, LeaseLost
from pibot.master_components.store.database import Database
from pibot.master_components.store.records import Lease
from pibot.master_components.store.states import MAX_ATTEMPTS, JobState, StepState
from pibot.master_components.store.tables import Tables


class LeaseStore:
    """Leases the steps in the job database. Methods block for as long as the disk takes; any thread may call them.

    Args:
        file: the open database.
        tables: the statements on it.
        clock: seconds since the epoch.
        count: called with the tokens of an ended attempt that the gateway has not counted.
    """

    def __init__(self, file: Database, tables: Tables, clock: Clock, count: Callable[[Usage], None]) -> None:
        self._transaction = file.transaction
        self._tables = tables
        self._clock = clock
        self._count = count

    def grant(self, job_id: str, task_id: str, worker_id: str, seconds: float) -> Lease:
        """Lease a ready step to a worker for ``seconds``.

        Raises:
            IllegalTransition: the step is not ready.
        """
        now = self._clock()
        token = secrets.token_hex(12)
        with self._transaction() as db:
            done = self._tables.move_step(
                job_id,
                task_id,
                StepState.READY,
                StepState.LEASED,
                "worker_id = ?, token = ?, attempt = attempt + 1, expires_at = ?",
                (worker_id, token, now + seconds),
            )
            if not done:
                raise IllegalTransition(f"step {task_id!r} of {job_id} is not ready")
            (attempt,) = db.execute(
                "SELECT attempt FROM subtask WHERE job_id = ? AND task_id = ?", (job_id, task_id)
            ).fetchone()
            db.execute(
                "INSERT INTO attempt (job_id, task_id, number, worker_id, started_at, token) VALUES (?, ?, ?, ?, ?, ?)",
                (job_id, task_id, attempt, worker_id, now, token),
            )
            if self._tables.row(job_id)["state"] != JobState.RUNNING.value:
                self._tables.move_job(job_id, JobState.RUNNING)
            self._tables.event("subtask_started", job_id, task_id, worker_id)
        return Lease(job_id, task_id, worker_id, token, attempt, now + seconds)

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """Extend a lease to ``seconds`` from now.

        Raises:
            LeaseLost: the step has another lease, or none.
        """
        expires_at = self._clock() + seconds
        with self._transaction():
            self._tables.hold(lease, expires_at)
        return Lease(lease.job_id, lease.task_id, lease.worker_id, lease.token, lease.attempt, expires_at)

    def complete(self, lease: Lease, result: TaskResult, *, finish_job: bool = False, look_again: bool = False) -> None:
        """Record the result of a leased step, once, and only for the holder of the lease.

        Args:
            result: of any state. If the step did not complete, the steps that need it are skipped.
            finish_job: end the job with this result too, in the same commit; for a job of one step.
            look_again: do not end the job with a failure, since its plan may be changed.

        Raises:
            LeaseLost: the step has another lease, or none. The result is kept with the attempt as evidence.
        """
        late, more = False, Usage()
        state = _STEP_STATE[result.state.value]
        with self._transaction():
            try:
                self._tables.end_lease(
                    lease, state, "result = ?, error = ?", (json.dumps(result.to_json()), result.error)
                )
            except LeaseLost:
                self._tables.keep_late(lease, result)
                late = True
            else:
                self._tables.end_attempt(lease, result.error)
                more = self._tables.uncounted(lease, result.usage)
                self._tables.add_usage(lease.job_id, more)
                self._tables.event(
                    f"subtask_{state.value}", lease.job_id, lease.task_id, lease.worker_id, result.error or ""
                )
                self._tables.move_on(lease.job_id)
                if finish_job and (state is StepState.COMPLETED or not look_again):
                    self._tables.finish(lease.job_id, JobState(state.value), result.output, result.error)
        if late:
            raise LeaseLost(f"{lease.worker_id} lost its lease of {lease.task_id!r} of {lease.job_id}")
        self._count(more)

    def fail(self, lease: Lease, error: str, *, final: bool, count: bool = True, usage: Usage | None = None) -> None:
        """End a lease without a result. The step is ready again, or failed if this was its last attempt.

        Args:
            error: why the attempt failed; kept with it.
            final: make no other attempt.
            count: False if it was no attempt, as on a busy worker; the attempt is deleted then.
            usage: what the worker reports to have used; its tokens stay with the job.

        Raises:
            LeaseLost: the step has another lease, or none.
        """
        final = final or (count and lease.attempt >= MAX_ATTEMPTS)
        state = StepState.FAILED if final else StepState.READY
        with self._transaction():
            self._tables.end_lease(
                lease, state, "error = ?, attempt = attempt - ?", (error if final else None, 0 if count else 1)
            )
            if not count:
                self._tables.delete_attempt(lease)
                return
            more = self._tables.uncounted(lease, usage or Usage())
            self._tables.add_usage(lease.job_id, more)
            self._tables.end_attempt(lease, error)
            self._tables.event("attempt_failed", lease.job_id, lease.task_id, lease.worker_id, error)
            if final:
                self._tables.move_on(lease.job_id)
        self._count(more)

    def spare(self, lease: Lease, usage: Usage, error: str = "") -> None:
        """End a lease whose worker could not do the step, through no fault of the step's. The step is ready again.

        The attempt does not count and is deleted; its tokens stay with the job.

        Args:
            usage: what the worker reports to have used.
            error: why, for the recent activity; empty for no entry there.

        Raises:
            LeaseLost: the step has another lease, or none.
        """
        with self._transaction():
            self._tables.end_lease(lease, StepState.READY, "error = NULL, attempt = attempt - 1", ())
            more = self._tables.uncounted(lease, usage)
            self._tables.add_usage(lease.job_id, more)
            self._tables.delete_attempt(lease)
            if error:
                self._tables.event("attempt_spared", lease.job_id, lease.task_id, lease.worker_id, error)
        self._count(more)


_STEP_STATE = {
    "completed": StepState.COMPLETED,
    "failed": StepState.FAILED,
    "timeout": StepState.FAILED,
    "cancelled": StepState.CANCELLED,
}
