"""What the pool knows of one worker, with the circuit breaker that sets it aside."""

from __future__ import annotations

from collections.abc import Collection

from pibot.contracts import WorkerAddress, WorkerReport, WorkerState, WorkerStatus
from pibot.errors import WorkerUnreachable

BUSY_DELAY = 1.0
"""Seconds before the pool tries a worker again that was busy with another master's task."""

OFFLINE_DELAY = 2.0
MAX_OFFLINE_DELAY = 30.0
"""Seconds before the pool tries an offline worker again: ``OFFLINE_DELAY`` first, doubled at each failure."""

FAILURES = 3
"""Tasks in a row that a worker must lose before it is set aside."""

ASIDE = 30.0
MAX_ASIDE = 600.0
"""Seconds that a worker is set aside: ``ASIDE`` first, doubled with each further loss."""

SICK_ASIDE = 10.0
"""Seconds that a worker is set aside at first which says itself that it can't do its tasks. It is certain, so there is
no need to lose three; and it may pass soon, as when a network comes back. Doubled with each further task."""


class Breaker:
    """The circuit breaker of one worker. It counts lost tasks, not missed health polls (docs/decisions.md, D34).

    When its time is over, the worker gets one task as a trial, since it runs one at a time. If it loses that task too,
    it is set aside for twice as long; a result resets the breaker.

    Attributes:
        until: monotonic seconds until which the worker gets no task.
        reason: how it lost its last task; empty after a result.
        sick: whether it said itself why it could not do its last task.
    """

    def __init__(self) -> None:
        self.until = 0.0
        self.reason = ""
        self.sick = False
        self._failures = 0
        self._sick_tasks = 0

    def failed(self, reason: str, now: float) -> bool:
        """Count a lost task. Returns True if the worker is set aside for it."""
        self._failures += 1
        self.reason, self.sick = reason, False
        if self._failures < FAILURES:
            return False
        self.until = now + min(MAX_ASIDE, ASIDE * 2.0 ** min(self._failures - FAILURES, 20))
        return True

    def cannot_work(self, reason: str, now: float, seconds: float = 0.0) -> None:
        """Set the worker aside at once: it says that it can't do tasks, and why.

        Args:
            seconds: for how long at least.
        """
        aside = max(seconds, min(MAX_ASIDE, SICK_ASIDE * 2.0 ** min(self._sick_tasks, 20)))
        self.until = max(self.until, now + aside)
        self._sick_tasks += 1
        self.reason, self.sick = reason, True

    def succeeded(self) -> None:
        """Reset the breaker: the worker gave a result, even if that is a failed task."""
        if self.reason:
            self.until, self.reason, self.sick, self._failures, self._sick_tasks = 0.0, "", False, 0, 0


class WorkerRecord:
    """What is known of one worker. Times are monotonic seconds, except for ``last_seen``.

    Args:
        address: where it listens.
        now: the time; it counts as the worker's first sign of life.
        registered: it registered by itself and is in no inventory.
    """

    def __init__(self, address: WorkerAddress, now: float, *, registered: bool = False) -> None:
        self.address = address
        self.registered = registered
        self.state = WorkerState.IDLE
        self.current_task: str | None = None
        self.reserved = False
        self.last_seen: float | None = None  # seconds since the epoch
        self.last_answer = now
        self.error: str | None = None
        self.breaker = Breaker()
        self.set_aside_until = 0.0  # the breaker's time in seconds since the epoch
        self.drained = False
        self.leaving = False
        self.report: WorkerReport | None = None
        self.name_problem: str | None = None
        self.unfit_reasons: dict[str, str] = {}  # by the kind of reason; the text is for people
        self.throttled_at = 0.0
        self.burden = 0
        self._unanswered = 0
        self._not_before = 0.0

    @property
    def free_at(self) -> float:
        """Monotonic seconds from which it may get a task, if it is not reserved."""
        return max(self._not_before, self.breaker.until)

    @property
    def unfit(self) -> str | None:
        """Why it gets no task although it answers; None where it is fit."""
        return "; ".join(self.unfit_reasons.values()) or None

    def has(self, skills: Collection[str]) -> bool:
        """Return whether it has these skills. A worker that has not reported its skills counts as having all."""
        known = None if self.report is None else self.report.skills
        return known is None or all(skill in known for skill in skills)

    def suits(self, skills: Collection[str]) -> bool:
        """Return whether it may run a task with these skills once it is free."""
        return not (self.drained or self.leaving or self.unfit_reasons) and self.has(skills)

    def answered(self, epoch: float, now: float) -> None:
        """Note an answer. Whatever it says, it is a sign of life (docs/decisions.md, D26)."""
        self.last_seen = epoch
        self.last_answer = now
        self._unanswered = 0
        self.error = None
        self._not_before = 0.0
        if self.state is WorkerState.OFFLINE:
            self.state = WorkerState.BUSY if self.reserved else WorkerState.IDLE

    def runs(self, task_id: str | None, now: float) -> None:
        """Note which task it reports; one that the pool has reserved runs the pool's own."""
        if self.reserved:
            return
        if task_id is None:
            self.idle()
        else:
            self.busy_elsewhere(now)
        self.current_task = task_id

    def busy_elsewhere(self, now: float) -> None:
        """Note that it runs another master's task."""
        self.state = WorkerState.BUSY
        self._not_before = now + BUSY_DELAY

    def idle(self) -> None:
        """Note that it runs nothing."""
        self.state = WorkerState.IDLE
        self.current_task = None

    def release(self) -> None:
        """End its reservation."""
        self.reserved = False
        self.current_task = None
        if self.state is WorkerState.BUSY and not self._not_before:
            self.state = WorkerState.IDLE

    def unreachable(self, exc: WorkerUnreachable, now: float) -> bool:
        """Mark it offline and delay the next try. Returns True if it was online before."""
        was_online = self.state is not WorkerState.OFFLINE
        self.state = WorkerState.OFFLINE
        self.error = exc.problem
        self._unanswered += 1
        self._not_before = now + min(MAX_OFFLINE_DELAY, OFFLINE_DELAY * 2.0 ** min(self._unanswered - 1, 20))
        return was_online

    def lost_task(self, reason: str, epoch: float, now: float) -> bool:
        """Count a lost task. Returns True if the worker is set aside for it."""
        aside = self.breaker.failed(reason, now)
        if aside:
            self.set_aside_until = round(epoch + self.breaker.until - now)
        return aside

    def cannot_work(self, reason: str, epoch: float, now: float, seconds: float = 0.0) -> None:
        """Set it aside: it says that it can't do its tasks, and why; for at least so many seconds."""
        self.breaker.cannot_work(reason, now, seconds)
        self.set_aside_until = round(epoch + self.breaker.until - now)

    def status(self, now: float) -> WorkerStatus:
        """Return a snapshot for people and other threads."""
        aside = self.breaker.until > now
        return WorkerStatus(
            address=self.address,
            state=self.state,
            current_task=self.current_task,
            last_seen=self.last_seen,
            # What a worker says that it can't do is shown until it has done it.
            error=self.error or (self.breaker.reason if aside or self.breaker.sick else self.name_problem),
            report=self.report,
            unfit=self.unfit,
            set_aside_until=self.set_aside_until if aside else None,
            draining=self.drained or self.leaving,
            registered=self.registered,
        )
