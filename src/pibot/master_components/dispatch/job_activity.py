"""Counts what the steps of one job do, so that the dispatcher can share out its places among the jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Callable


class JobActivity:
    """How many steps of a job wait, and how many have a worker.

    Args:
        place_free: called when the job may have freed its place: it got its first worker, or only waits.

    Attributes:
        steps: how many steps are run now.
        waiting: how many of them wait, for a worker or before another attempt.
        with_worker: how many of them have a worker.
    """

    def __init__(self, place_free: Callable[[], None]) -> None:
        self.steps = 0
        self.waiting = 0
        self.with_worker = 0
        self._place_free = place_free

    @property
    def only_waits(self) -> bool:
        """Whether the job has steps, and every one of them waits."""
        return 0 < self.steps == self.waiting

    def set_steps(self, number: int) -> None:
        """Record that ``number`` steps are run from now on."""
        self.steps = number
        if number == self.waiting:  # the steps that had a worker have ended
            self._place_free()

    @contextlib.contextmanager
    def step_waits(self) -> Iterator[None]:
        """Count a step as waiting inside the ``with`` block."""
        self.waiting += 1
        if not self.with_worker:
            self._place_free()
        try:
            yield
        finally:
            self.waiting -= 1

    @contextlib.contextmanager
    def step_has_worker(self) -> Iterator[None]:
        """Count a step as having a worker inside the ``with`` block."""
        self.with_worker += 1
        if self.with_worker == 1:
            self._place_free()
        try:
            yield
        finally:
            self.with_worker -= 1
