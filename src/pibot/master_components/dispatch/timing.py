"""How long dispatch waits for what."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Callable

from pibot.contracts import Clock

LEASE_SECONDS = 60.0
"""A lease lasts this long without a sign of life from its worker: twice as long as the pool waits for an answer, so
that a short loss of Wi-Fi costs nothing."""

HEARTBEATS = 3
"""How often within a lease the worker's signs of life are checked."""

MAX_RESULT_WAIT = 20.0
"""Longest time in seconds that one request waits at a worker for a result."""

BACKOFF = 1.0
MAX_BACKOFF = 30.0
"""Seconds before the second attempt, and the most before a later one. Each attempt doubles the pause; jitter shortens
it by up to a half."""

NO_WORKER_CHECKS = 20
"""How often within ``no_worker`` seconds a waiting step checks whether a worker may come. Every check must fail before
the step does, so that one short loss of Wi-Fi fails nothing."""

WORKER_MARGIN = 15.0
"""Seconds beyond a task's timeout that its worker gets to report the timeout."""

CANCEL_SECONDS = 35.0
"""How long we wait for a worker to confirm a cancel, in seconds; it may need 30 s to kill the processes."""


@dataclass(frozen=True)
class DispatchTiming:
    """The time limits of dispatch, with its clock and its sleep.

    Args:
        lease: seconds without a sign of life from a worker after which its step goes to another.
        backoff: seconds before the second attempt.
        no_worker: seconds without hope of a worker after which a step fails; None to wait for ever.
        sleep: waits some seconds.
        jitter: returns a number from 0 to 1.
        monotonic: seconds that never go back.
        wall: seconds since the epoch, for people.
    """

    lease: float = LEASE_SECONDS
    backoff: float = BACKOFF
    no_worker: float | None = None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random
    monotonic: Clock = time.monotonic
    wall: Clock = time.time

    @property
    def heartbeat(self) -> float:
        """Seconds between two checks of a worker's signs of life."""
        return self.lease / HEARTBEATS

    def pause_after(self, attempt: int) -> float:
        """Seconds between a failed attempt and the next one.

        Args:
            attempt: number of the failed one, from 1.
        """
        full = min(MAX_BACKOFF, self.backoff * 2 ** (attempt - 1))
        return float(full * (1 - self.jitter() / 2))
