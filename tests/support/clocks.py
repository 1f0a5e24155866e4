"""Clocks whose time is their test's."""

from __future__ import annotations


class FakeClock:
    """Seconds that pass when its test says so."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
