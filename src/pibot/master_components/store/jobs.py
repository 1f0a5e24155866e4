"""The job store: what was accepted is on disk, and outlives a power cut."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from pibot.contracts import Clock, SubTask, TaskComplexity, TaskPlan, Usage
from pibot.errors import StoreError, TaskConflict
from pibot.logs import event
from pibot.master_components.store.accounts import Accounts
from pibot.master_components.store.approvals import ApprovalStore
from pibot.master_components.store.database import Database
from pibot.master_components.store.leases import LeaseStore
from pibot.master_components.store.limits import StoreLimits
from pibot.master_components.store.queries import JobQueries
from pibot.master_components.store.records import Job, PlanChange, Submission
from pibot.master_components.store.spending import Spent
from pibot.master_components.store.states import ENDED_JOBS, JobState, StepState
from pibot.master_components.store.tables import Tables

log = logging.getLogger("pibot.store")

MAX_WHY_CHARS = 2_000
"""Characters that are kept of why a plan was changed."""

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
        leases: which worker has which step, and how attempts ended.
        limits: refuses jobs when the file is full, and deletes old ones.
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
        self.database = Database(path, clock=clock)
        self._transaction = self.database.transaction
        try:
            with self.database.reading() as db:
                self._tables = Tables(db, clock, monotonic)
                self.queries = JobQueries(self.database, self._tables)
                self.approvals = ApprovalStore(self.database, self._tables, clock)
                self.leases = LeaseStore(self.database, self._tables, clock, self._count)
                self.limits = StoreLimits(self.database, self._tables, self.queries, max_queued, queue_bytes)
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
            self.limits.refuse_when_full(len(submission.description.encode()))
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

    def change_plan(
        self, job_id: str, version: int, steps: Sequence[SubTask], *, why: str, reasoning: str = "", usage: Usage
    ) -> Job:
        """Store further steps of a job whose steps have all ended, before any of them runs, and return the job.

        Args:
            version: the number of the plan with these steps: one more than the job's, so that it is stored once.
            why: what failed, or what the answer lacked.
            usage: what the model calls for it used.

        Raises:
            IllegalTransition: the job does not run, has steps that have not ended, or has this version already.
        """
        change = PlanChange(version, self._clock(), why[:MAX_WHY_CHARS], reasoning[:MAX_WHY_CHARS])
        with self._transaction():
            self._tables.change_plan(job_id, change, steps)
            self._tables.add_usage(job_id, usage)
            number = f"{len(steps)} further step{'' if len(steps) == 1 else 's'}"
            self._tables.event("job_replanned", job_id, message=f"{number}, since {change.why}")
            job = self._tables.job(job_id)
        self._count(usage)
        return job

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

    def _count(self, usage: Usage | None) -> None:
        if usage is not None:
            self._used += usage


def _planned(plan: TaskPlan) -> str:
    steps = len(plan.subtasks)
    what = "the master answers by itself." if plan.handle_locally else f"{steps} step{'' if steps == 1 else 's'}."
    return f"{what} {plan.note}".strip()
