"""Submit jobs, wait for them, cancel them and decide their tool calls, from the threads of the HTTP server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from pibot.background import BackgroundLoop
from pibot.contracts import Decision, NoWorkerKind, NoWorkerReason
from pibot.errors import ShuttingDown, TooManyRequests
from pibot.master_components import Dispatcher, JobStore
from pibot.master_components.store.records import Approval, Job, Submission
from pibot.master_components.store.states import ENDED_STEPS, JobState
from pibot.master_components.workers.pool import WorkerPool
from pibot.tool_registry import SkillLibrary

log = logging.getLogger("pibot.hub")

T = TypeVar("T")

CANCELS_AT_ONCE = 6
"""Cancels in progress. Each holds one of the server's threads until the workers answer, up to half a minute."""

CANCEL_AGAIN = 5
"""Seconds after which a caller should repeat a cancel that was refused."""


class JobControl:
    """What callers may do to jobs. Methods block, and may be called from any thread but the loop's.

    Args:
        store: the jobs.
        dispatcher: runs them in ``loop``.
        library: the skills that a job may name.
        loop: the process's asyncio loop.
        pool: the workers.
    """

    def __init__(
        self,
        store: JobStore,
        dispatcher: Dispatcher,
        library: SkillLibrary,
        loop: BackgroundLoop,
        pool: WorkerPool,
    ) -> None:
        self._pool = pool
        self._store = store
        self._dispatcher = dispatcher
        self._library = library
        self._loop = loop
        self._cancels = threading.BoundedSemaphore(CANCELS_AT_ONCE)
        self._stopping = threading.Event()

    @property
    def stopping(self) -> bool:
        """Whether the hub is stopping and refuses changes."""
        return self._stopping.is_set()

    @property
    def store_problem(self) -> str | None:
        """Why jobs can't be written now; None if they can."""
        return self._store.trouble or self._dispatcher.store_trouble

    def why_waits(self, skills: Collection[str] = ()) -> NoWorkerReason:
        """Return why no worker runs a step with these skills now."""
        reason = self._pool.why_none(skills)
        if reason.kind in (NoWorkerKind.NONE_KNOWN, NoWorkerKind.NO_SKILL):  # the model's return would not help
            return reason
        return self._dispatcher.waits_for_model or reason

    @property
    def waits_for_model(self) -> NoWorkerReason | None:
        """Why every step and plan waits for the model; None if none does."""
        return self._dispatcher.waits_for_model

    def why_not_planned(self, job: Job) -> str | None:
        """Return why a job is not planned yet, or its plan not looked at again after its steps; None where it is."""
        reason = self._dispatcher.waits_for_model
        steps_ended = job.state is JobState.RUNNING and all(step.state in ENDED_STEPS for step in job.steps)
        waits = (job.state is JobState.PLANNING or steps_ended) and not job.cancel_requested
        return reason.detail if waits and reason is not None else None

    def refuse_changes(self) -> None:
        """Refuse new jobs, cancels and decisions from now on; waiting callers get their answers at once."""
        self._stopping.set()

    def submit(self, submission: Submission) -> Job:
        """Accept a job; it is on disk when this returns.

        Raises:
            UnknownSkill: it names a skill that does not exist.
            TaskConflict: a job of this id was submitted before, with another body.
            QueueFull: too many jobs have not ended yet.
            ShuttingDown: the hub is stopping.
        """
        self._refuse_when_stopping()
        if submission.skills is not None:
            self._library.check(submission.skills)
        job = self._store.submit(submission)
        self._loop.call_soon(self._dispatcher.notify, job.job_id, job.priority, job.timeout)
        return job

    def wait(self, job_id: str, seconds: float) -> Job:
        """Return the job once it has ended, or as it is after ``seconds``.

        Raises:
            JobNotFound: no job has this id.
        """
        if seconds > 0 and not self.stopping:
            try:
                self._run(self._dispatcher.wait(job_id, seconds))
            except (CancelledError, RuntimeError):
                log.info("stopped waiting for job=%s: the hub is stopping", job_id)
        return self._store.queries.job(job_id)

    def cancel(self, job_id: str) -> Job:
        """End a job and its tasks on the workers; a job that has ended stays as it is.

        Raises:
            JobNotFound: no job has this id.
            TooManyRequests: :data:`CANCELS_AT_ONCE` cancels are in progress; the other threads are for other requests.
            ShuttingDown: the hub is stopping.
        """
        self._refuse_when_stopping()
        if not self._cancels.acquire(blocking=False):
            raise TooManyRequests(
                f"{CANCELS_AT_ONCE} cancels are waiting for workers to end their tasks; send this one again in "
                f"{CANCEL_AGAIN} s",
                retry_after=CANCEL_AGAIN,
            )
        try:
            self._run(self._dispatcher.cancel(job_id))
        finally:
            self._cancels.release()
        return self._store.queries.job(job_id)

    def decide(self, approval_id: str, decision: Decision, by: str) -> Approval:
        """Approve or refuse a tool call that waits for the owner.

        Args:
            by: the name of the key that the decision came with.

        Raises:
            ApprovalNotFound, ApprovalConflict, ApprovalOver: the call is unknown, differs from what the caller saw, or
                no longer waits.
            ShuttingDown: the hub is stopping.
        """
        self._refuse_when_stopping()
        return self._run(self._dispatcher.approvals.decide(approval_id, decision, by))

    def _refuse_when_stopping(self) -> None:
        if self.stopping:
            raise ShuttingDown("the hub is stopping; send it again when the hub is back")

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._loop.run(coroutine).result()
