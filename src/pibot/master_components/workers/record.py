"""One worker, as far as the pool knows."""

from __future__ import annotations

from collections.abc import Collection

from pibot.contracts import WorkerAddress, WorkerReport, WorkerState, WorkerStatus
from pibot.errors import WorkerUnreachable
from pibot.master_components.workers.breaker import Breaker

BUSY_DELAY = 1.0
"""Seconds until a worker is asked again that was busy with somebody else's task."""

OFFLINE_DELAY = 2.0
MAX_OFFLINE_DELAY = 30.0
"""Seconds until a worker is tried again that did not answer: the first, doubled at each failure, to the second."""


class Worker:
    """What is known of one worker. Times are monotonic seconds but for ``last_seen``.

    Args:
        address: where it is.
        now: the time; it counts as heard of from then on.
        registered: it came by itself, and is in no inventory.
    """

    def __init__(self, address: WorkerAddress, now: float, *, registered: bool = False) -> None:
        self.address = address
        self.registered = registered
        self.state = WorkerState.IDLE
        self.current_task: str | None = None
        self.reserved = False
        self.last_seen: float | None = None  # seconds since the epoch
        self.heard = now
        self.error: str | None = None
        self.breaker = Breaker()
        self.set_aside_until = 0.0  # the breaker's time in seconds since the epoch
        self.drained = False
        self.leaving = False
        self.report: WorkerReport | None = None
        self.ailments: dict[str, str] = {}
        self.throttled_at = 0.0
        self.burden = 0
        self._unanswered = 0
        self._not_before = 0.0

    @property
    def free_at(self) -> float:
        """When it may be given a task, if nobody has reserved it."""
        return max(self._not_before, self.breaker.until)

    @property
    def resting(self) -> str | None:
        """Why it gets no task although it answers."""
        return "; ".join(self.ailments.values()) or None

    def has(self, skills: Collection[str]) -> bool:
        """Whether it has these skills, as far as is known."""
        known = None if self.report is None else self.report.skills
        return known is None or all(skill in known for skill in skills)

    def suits(self, skills: Collection[str]) -> bool:
        """Whether it may have a task with these skills, were it free."""
        return not (self.drained or self.leaving or self.ailments) and self.has(skills)

    def seen(self, epoch: float, now: float) -> None:
        """It answered."""
        self.last_seen = epoch
        self.heard = now
        self._unanswered = 0
        self.error = None
        self._not_before = 0.0

    def busy_elsewhere(self, now: float) -> None:
        """It runs a task that is not ours."""
        self.state = WorkerState.BUSY
        self._not_before = now + BUSY_DELAY

    def idle(self) -> None:
        """It runs nothing."""
        self.state = WorkerState.IDLE
        self.current_task = None

    def let_go(self) -> None:
        """Whoever had reserved it needs it no more."""
        self.reserved = False
        self.current_task = None
        if self.state is WorkerState.BUSY and not self._not_before:
            self.state = WorkerState.IDLE

    def lost(self, exc: WorkerUnreachable, now: float) -> bool:
        """It did not answer, and is tried again after a growing delay; whether it was there before."""
        was_there = self.state is not WorkerState.OFFLINE
        self.state = WorkerState.OFFLINE
        self.error = exc.problem
        self._unanswered += 1
        self._not_before = now + min(MAX_OFFLINE_DELAY, OFFLINE_DELAY * 2.0 ** min(self._unanswered - 1, 20))
        return was_there

    def failed(self, reason: str, epoch: float, now: float) -> bool:
        """It lost a task; whether it is set aside for that."""
        aside = self.breaker.failed(reason, now)
        if aside:
            self.set_aside_until = round(epoch + self.breaker.until - now)
        return aside

    def status(self, now: float) -> WorkerStatus:
        """What is shown of it."""
        aside = self.breaker.until > now
        return WorkerStatus(
            address=self.address,
            state=self.state,
            current_task=self.current_task,
            last_seen=self.last_seen,
            error=self.error or (self.breaker.reason if aside else None),
            report=self.report,
            resting=self.resting,
            set_aside_until=self.set_aside_until if aside else None,
            draining=self.drained or self.leaving,
            registered=self.registered,
        )
