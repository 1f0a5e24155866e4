"""The job store: what was accepted is on disk, and outlives a power cut."""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from pibot.contracts import Clock, SubTask, TaskComplexity, TaskPlan, TaskResult, Usage
from pibot.errors import IllegalTransition, LeaseLost, QueueFull, StoreError, TaskConflict
from pibot.logs import event
from pibot.master_components.store.accounts import Accounts
from pibot.master_components.store.approvals import ApprovalStore
from pibot.master_components.store.database import Database
from pibot.master_components.store.queries import JobQueries
from pibot.master_components.store.records import Job, Lease, Submission
from pibot.master_components.store.spending import Spent
from pibot.master_components.store.states import (
    ENDED_JOBS,
    MAX_ATTEMPTS,
    UNFINISHED_JOBS,
    JobState,
    StepState,
    listed,
)
from pibot.master_components.store.tables import Tables

log = logging.getLogger("pibot.store")

MB = 1_000_000

SINGLE_STEP = "step-1"
"""The id of the one step of a job that is not planned."""


class JobStore:
    """Changes the job database. Its methods block for as long as the disk takes, and may be called from any thread.

    Args:
        path: the file; its folder must exist. It belongs to this process until :meth:`close`.
        clock: seconds since the epoch, for the times that are shown.
        monotonic: seconds that never go back, for the times that are counted.
        max_queued: how many unfinished jobs there may be; None for any number.
        queue_bytes: how many bytes the unfinished jobs may take when another one comes; None for any number.

    Raises:
        StoreError: another hub has the file, or it can't be opened, is damaged, or comes from a newer release; the
            message says what to do.

    Attributes:
        queries: read the jobs, the steps and the events.
        approvals: the tool calls that wait for the owner.
        accounts: what the model calls used.
        database: the open file.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock = time.time,
        monotonic: Clock = time.monotonic,
        max_queued: int | None = None,
        queue_bytes: int | None = None,
    ) -> None:
        self._clock = clock
        self._max_queued = max_queued
        self._queue_bytes = queue_bytes
        self.database = Database(path, clock=clock)
        self._transaction = self.database.transaction
        try:
            with self.database.reading() as db:
                self._tables = Tables(db, clock, monotonic)
                self.queries = JobQueries(self.database, self._tables)
                self.approvals = ApprovalStore(self.database, self._tables, clock)
        except StoreError:
            self.database.close()
            raise
        self.accounts = Accounts(self.database, clock)
        self._used = Usage()
        self._closed = False

    def close(self) -> None:
        """Close the file. Calling it twice is fine."""
        if self._closed:
            return
        self._closed = True
        try:
            self.keep_time()
        except StoreError as exc:  # the next hub counts on from the last stored time
            event(log, "time_not_kept", level=logging.WARNING, error=str(exc))
        finally:
            self.database.close()

    @property
    def trouble(self) -> str | None:
        """Why the file can't be written now, as on a full disk; None if the last write succeeded."""
        return self.database.trouble

    @property
    def damage(self) -> str | None:
        """What was found damaged in the open file, and what to do; None if it is sound."""
        return self.database.damage

    # --- jobs ---

    def submit(self, submission: Submission) -> Job:
        """Accept a job; it is on disk when this returns. A job with ``skills`` gets its plan of one step at once.

        A job that was accepted before is returned as it is now.

        Raises:
            TaskConflict: a job with this id was accepted before with another body.
            QueueFull: ``max_queued`` jobs have not ended, or they take ``queue_bytes``, and this one is new.
            StoreUnwritable: the job can't be written; it is not accepted.
        """
        skills = None if submission.skills is None else list(submission.skills)
        # Without the description, which has its own column.
        body: list[object] = [None, skills, submission.timeout, submission.priority]
        with self._transaction() as db:
            job_id = submission.job_id or self._tables.new_id()
            known = db.execute("SELECT body, description FROM job WHERE job_id = ?", (job_id,)).fetchone()
            if known is not None:
                before = json.loads(known["body"])
                if before[:1] != [None]:  # a release before wrote it
                    body[0] = submission.description
                if before != body or known["description"] != submission.description:
                    raise TaskConflict(f"job {job_id!r} was sent before with another body; choose another job_id")
                return self._tables.job(job_id)
            self._refuse_when_full(len(submission.description.encode()))
            db.execute(
                "INSERT INTO job (job_id, body, description, state, priority, timeout, created_at, accepted_run)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job_id,
                    json.dumps(body),
                    submission.description,
                    JobState.QUEUED.value,
                    submission.priority,
                    submission.timeout,
                    self._clock(),
                    self._tables.running_time(),
                ),
            )
            self._tables.event("job_accepted", job_id, message=submission.description[:200])
            if submission.skills is not None:
                step = SubTask(SINGLE_STEP, submission.description, submission.skills)
                self._tables.insert_plan(job_id, TaskPlan(TaskComplexity.SIMPLE, False, (step,)))
            return self._tables.job(job_id)

    @property
    def used(self) -> Usage:
        """Tokens of all jobs' model calls since the file was opened."""
        return self._used

    def spend(self, calls: Sequence[Spent]) -> None:
        """Store model calls that the gateway passed on; see :meth:`Accounts.add`."""
        self.accounts.add(calls)
        for call in calls:
            if call.job_id is not None:
                self._count(call.usage)

    def keep_good_copy(self) -> None:
        """Copy the file, as at a start, if it is sound and the last good copy is a day old.

        Raises:
            StoreError: the file is damaged, or can't be read; the message says what to do.
        """
        self.database.keep_good_copy()

    def keep_time(self) -> None:
        """Store how long hubs have run. After a kill, the jobs' time goes on from the last call."""
        with self._transaction():
            self._tables.keep_time()

    def request_cancel(self, job_id: str) -> Job:
        """Mark a job as to be cancelled, cancel its steps that no worker has, and return it.

        Raises:
            JobNotFound: no job has that id.
        """
        with self._transaction() as db:
            job = self._tables.job(job_id)
            if job.state in ENDED_JOBS or job.cancel_requested:
                return job
            db.execute("UPDATE job SET cancel_requested = 1 WHERE job_id = ?", (job_id,))
            self._tables.cancel_steps(job_id, (StepState.WAITING, StepState.READY), "the job was cancelled")
            self._tables.event("cancel_requested", job_id)
            return self._tables.job(job_id)

    def finish(
        self,
        job_id: str,
        state: JobState,
        *,
        answer: str | None = None,
        error: str | None = None,
        usage: Usage | None = None,
    ) -> None:
        """End a job. Its steps that have not ended are cancelled, and their leases are lost.

        Raises:
            IllegalTransition: the job has ended before.
        """
        with self._transaction():
            self._tables.finish(job_id, state, answer, error)
            self._tables.add_usage(job_id, usage)
        self._count(usage)

    def prune(
        self, *, keep_seconds: float, keep_jobs: int, keep_bytes: int | None = None, limit: int | None = None
    ) -> int:
        """Delete ended jobs: the oldest beyond ``keep_jobs`` and ``keep_bytes``, and those older than ``keep_seconds``.

        Args:
            keep_seconds: seconds in which a hub ran.
            keep_jobs: how many ended jobs to keep.
            keep_bytes: how many bytes of ended jobs to keep, and at least the job that ended last; None for any number.
            limit: how many to delete at most, so that other callers do not wait long for the file.

        Returns:
            How many jobs were deleted.
        """
        ended = f"state IN {listed(ENDED_JOBS)}"
        found = f"SELECT seq FROM job INDEXED BY job_ended WHERE {ended}"  # nosec B608 # an enum's values
        with self._transaction() as db:

            def delete(which: str, *values: float) -> int:
                return db.execute(f"DELETE FROM job WHERE seq IN ({which})", values).rowcount  # nosec B608 # one of the two statements below

            (number,) = db.execute(f"SELECT coalesce(sum(number), 0) FROM tally WHERE {ended}").fetchone()  # nosec B608 # an enum's values
            at_once = number if limit is None else limit
            beyond = delete(f"{found} ORDER BY finished_run, seq LIMIT ?", min(max(0, number - keep_jobs), at_once))  # nosec B608 # see found
            oldest_kept = self._tables.running_time() - keep_seconds
            old = delete(f"{found} AND finished_run < ? LIMIT ?", oldest_kept, at_once - beyond)
            left = min(at_once, number - 1) - beyond - old
            return beyond + old + (0 if keep_bytes is None else self._prune_to(db, keep_bytes, left))

    def _prune_to(self, db: sqlite3.Connection, keep_bytes: int, limit: int) -> int:
        """Delete up to ``limit`` of the oldest ended jobs, until the others take at most ``keep_bytes``."""
        excess = self.queries.stored().ended - keep_bytes
        if excess <= 0 or limit <= 0:
            return 0
        oldest = db.execute(
            "SELECT seq, bytes FROM job INDEXED BY job_ended CROSS JOIN size USING (job_id)"
            f" WHERE state IN {listed(ENDED_JOBS)} ORDER BY finished_run, seq LIMIT ?",  # nosec B608 # an enum's values
            (limit,),
        ).fetchall()
        gone = []
        for row in oldest:
            if excess <= 0:
                break
            gone.append((row["seq"],))
            excess -= row["bytes"]
        db.executemany("DELETE FROM job WHERE seq = ?", gone)
        return len(gone)

    # --- plans ---

    def start_planning(self, job_id: str) -> None:
        """Record that a job is being planned.

        Raises:
            IllegalTransition: the job has a plan, or has ended.
        """
        with self._transaction():
            self._tables.move_job(job_id, JobState.PLANNING)

    def save_plan(self, job_id: str, plan: TaskPlan, usage: Usage | None = None) -> Job:
        """Store a job's plan, before any step of it runs, and return the job, which is running then.

        Raises:
            IllegalTransition: the job has a plan, or has ended.
        """
        with self._transaction():
            self._tables.move_job(job_id, JobState.RUNNING)
            self._tables.insert_plan(job_id, plan)
            self._tables.add_usage(job_id, usage)
            self._tables.event("job_planned", job_id, message=_planned(plan))
            job = self._tables.job(job_id)
        self._count(usage)
        return job

    # --- leases ---

    def lease(self, job_id: str, task_id: str, worker_id: str, seconds: float) -> Lease:
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

    def complete(self, lease: Lease, result: TaskResult, *, finish_job: bool = False) -> None:
        """Record the result of a leased step, once, and only for the holder of the lease.

        Args:
            result: of any state. If the step did not complete, the steps that need it are skipped.
            finish_job: end the job with this result too, in the same commit; for a job of one step.

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
                if finish_job:
                    self._tables.finish(lease.job_id, JobState(state.value), result.output, result.error)
        if late:
            raise LeaseLost(f"{lease.worker_id} lost its lease of {lease.task_id!r} of {lease.job_id}")
        self._count(more)

    def fail_attempt(
        self, lease: Lease, error: str, *, final: bool, count: bool = True, usage: Usage | None = None
    ) -> None:
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

    def spare_attempt(self, lease: Lease, usage: Usage, error: str = "") -> None:
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

    def give_up(self, job_id: str, task_id: str, error: str) -> None:
        """Fail a ready step for which there is no worker. A step that is not ready stays as it is."""
        with self._transaction():
            if self._tables.move_step(job_id, task_id, StepState.READY, StepState.FAILED, "error = ?", (error,)):
                self._tables.event("subtask_failed", job_id, task_id, message=error)
                self._tables.move_on(job_id)

    # --- recent activity ---

    def note(self, kind: str, *, worker_id: str | None = None, message: str = "") -> None:
        """Add an event that is about no job to the recent activity."""
        with self._transaction():
            self._tables.event(kind, worker_id=worker_id, message=message)

    # --- helpers ---

    def _refuse_when_full(self, more: int) -> None:
        """Refuse another job with ``more`` bytes if there is no room for it."""
        taken = self.queries.stored().unfinished
        if self._queue_bytes is not None and taken + more > self._queue_bytes:
            raise QueueFull(
                f"the queue is full: the jobs that have not ended take {taken / MB:.1f} MB, and PIBOT_QUEUE_MB on the "
                f"master allows {self._queue_bytes // MB}; send it again when some have ended"
            )
        counts = self.queries.counts()
        waiting = sum(counts[state] for state in UNFINISHED_JOBS)
        if self._max_queued is not None and waiting >= self._max_queued:
            raise QueueFull(
                f"the queue is full: {waiting} jobs have not ended, and PIBOT_MAX_QUEUED on the master allows "
                f"{self._max_queued}; send it again when some have"
            )

    def _count(self, usage: Usage | None) -> None:
        if usage is not None:
            self._used += usage


def _planned(plan: TaskPlan) -> str:
    steps = len(plan.subtasks)
    what = "the master answers by itself." if plan.handle_locally else f"{steps} step{'' if steps == 1 else 's'}."
    return f"{what} {plan.note}".strip()


_STEP_STATE = {
    "completed": StepState.COMPLETED,
    "failed": StepState.FAILED,
    "timeout": StepState.FAILED,
    "cancelled": StepState.CANCELLED,
}
