"""Clocks that a test sets."""

from __future__ import annotations


class FakeClock:
    """A clock whose seconds pass only when the test sets ``now``."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
