"""Time that does not jump: how many seconds hubs have run with one job database."""

from __future__ import annotations

from pibot.contracts import Clock


class RunningTime:
    """Seconds that hubs have run with this database, this one included.

    The wall clock of a Pi starts in the past and jumps when the network tells it the time. This goes on by the
    monotonic clock while a hub runs, and from where it was when one is started again.

    Args:
        before: the seconds that earlier hubs ran.
        monotonic: seconds from any point, never going back.
    """

    def __init__(self, before: float, monotonic: Clock) -> None:
        self._monotonic = monotonic
        self._offset = before - monotonic()

    def __call__(self) -> float:
        return self._offset + self._monotonic()
