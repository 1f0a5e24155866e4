"""Sets a worker aside whose tasks fail again and again, for a growing time."""

from __future__ import annotations

FAILURES = 3
"""Tasks in a row that a worker must lose before it is set aside."""

ASIDE = 30.0
MAX_ASIDE = 600.0
"""Seconds that it is set aside: the first time, doubled with each task that it loses then, to the second."""


class Breaker:
    """One worker's. After its time it lets one task through as a trial, since a worker has one at a time; another loss
    sets it aside for twice as long, a result brings it back for good.

    Attributes:
        until: monotonic seconds; the worker gets no task before.
        reason: what it did last; empty where nothing is held against it.
    """

    def __init__(self) -> None:
        self.until = 0.0
        self.reason = ""
        self._failures = 0

    def failed(self, reason: str, now: float) -> bool:
        """Note a lost task; whether the worker is set aside for it."""
        self._failures += 1
        self.reason = reason
        if self._failures < FAILURES:
            return False
        self.until = now + min(MAX_ASIDE, ASIDE * 2.0 ** min(self._failures - FAILURES, 20))
        return True

    def succeeded(self) -> None:
        """Note a task's result, whatever it says."""
        if self._failures:
            self.until, self.reason, self._failures = 0.0, "", 0
