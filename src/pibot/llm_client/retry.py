"""When to ask the model's server again, and the loop that does it: exponential backoff with full jitter.

The jitter comes on top of the wait that the server asked for. Full jitter as in Marc Brooker, "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015: three workers that were turned away together do not come back together.
"""

from __future__ import annotations

import logging
import random as random_module
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from typing import Callable, TypeVar

from pibot.contracts import Clock
from pibot.errors import LLMAway, LLMError
from pibot.logs import event

T = TypeVar("T")

# docs/decisions.md, D130
LONG_WAIT = 60.0
"""The longest wait in seconds that is a retry. Who is asked for a longer one gives up, and the model rests meanwhile.
openai-python too waits for no longer Retry-After."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often to retry, and how long to wait before each retry.

    Args:
        retries: attempts after the first.
        base: upper bound in seconds of the wait before the first retry. It doubles with each retry.
        cap: seconds at which the doubling stops.
        retry_after_cap: longest time in seconds that a server may ask to wait for a retry.
    """

    retries: int = 4
    base: float = 0.5
    cap: float = 20.0
    retry_after_cap: float = LONG_WAIT

    def wait(self, attempt: int, retry_after: float | None, random: Callable[[], float]) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            attempt: number of the attempt that failed, from 1.
            retry_after: seconds that the server asked for, if it did.
            random: returns a number from 0 to 1.
        """
        jitter = random() * min(self.cap, self.base * 2.0 ** min(attempt - 1, 30))
        return min(retry_after or 0.0, self.retry_after_cap) + jitter


@dataclass(frozen=True)
class Failure:
    """One failed attempt at a model call.

    Args:
        error: the error to raise if there is no further attempt.
        may_pass: whether a further attempt may succeed.
        retry_after: seconds that the server asked to wait.
        by_gateway: the fleet's gateway refused, and no provider.
        attempts: how many attempts were made; set by :class:`RetryLoop`.
        cut_short: whether retries were left but too little time for the next wait; set by :class:`RetryLoop`.
    """

    error: LLMError
    may_pass: bool = False
    retry_after: float | None = None
    by_gateway: bool = False
    attempts: int = 1
    cut_short: bool = False

    @property
    def rest(self) -> float | None:
        """Seconds for which the model should not be asked; None if no time was named, or the failure will not pass."""
        return self.retry_after if isinstance(self.error, LLMAway) else None

    @property
    def rests(self) -> bool:
        """Whether the model must rest for longer than a retry may wait, or than this call has time."""
        return self.rest is not None and (self.rest > LONG_WAIT or self.cut_short)

    def final_error(self) -> LLMError:
        """Return the error. If a retry could have helped, its message says how many attempts there were."""
        if isinstance(self.error, LLMAway):
            self.error.rest = self.rest
        if not self.may_pass:
            return self.error
        times = "once" if self.attempts == 1 else f"{self.attempts} times"
        more = ""
        if self.rest is not None and self.rest > LONG_WAIT:
            more = f", and it asks for {in_words(self.rest)}"
        elif self.cut_short:
            more = ", and the time left is shorter than the wait for another attempt"
            if self.retry_after:
                more += f" (it asks for {in_words(self.retry_after)})"
        self.error.args = (f"{self.error} (asked {times}{more})",)
        return self.error


def in_words(seconds: float) -> str:
    """Return a time for people: ``30 seconds``, ``12 min``, ``5 h 30 min``."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{minutes} min" if not hours else f"{hours} h {minutes} min" if minutes else f"{hours} h"


async def _sleep(seconds: float) -> None:
    import asyncio

    await asyncio.sleep(seconds)


@dataclass(frozen=True)
class RetryLoop:
    """Repeats a model call until it succeeds, cannot succeed, or has no attempt or time left.

    Both the worker's client and the hub's gateway use this loop.

    Args:
        policy: how often, and how long to wait in between.
        sleep: waits some seconds.
        random: returns a number from 0 to 1, for the jitter.
        clock: seconds, for durations.
        wall_clock: seconds since the epoch, for dates that a server sends.
    """

    policy: RetryPolicy = field(default_factory=RetryPolicy)
    sleep: Callable[[float], Awaitable[None]] = _sleep
    random: Callable[[], float] = random_module.random
    clock: Clock = time.monotonic
    wall_clock: Clock = time.time

    async def run(
        self, attempt: Callable[[float], Awaitable[T]], deadline: float, *, log: logging.Logger, retry_event: str
    ) -> T:
        """Return what the last attempt returned.

        Failures are returned and not raised, so that the error raised in the end has no other error as its context.

        Args:
            attempt: makes one attempt. Gets the seconds left, and returns a :class:`Failure` or a result.
            deadline: time on the clock at which no further attempt starts.
            log: where retries are logged.
            retry_event: the name under which they are logged.
        """
        attempts = 0
        while True:
            attempts += 1
            outcome = await attempt(deadline - self.clock())
            if not isinstance(outcome, Failure):
                return outcome
            wait = self.policy.wait(attempts, outcome.retry_after, self.random)
            retries_left = attempts <= self.policy.retries
            too_long = (outcome.retry_after or 0.0) > self.policy.retry_after_cap
            if not outcome.may_pass or not retries_left or too_long or self.clock() + wait >= deadline:
                return replace(outcome, attempts=attempts, cut_short=outcome.may_pass and retries_left)
            event(log, retry_event, level=logging.WARNING, attempt=attempts, wait=round(wait, 2), error=outcome.error)
            await self.sleep(wait)


def parse_retry_after(value: str | None, date: str | None, wall_clock: Clock) -> float | None:
    """Return the seconds that a Retry-After header (RFC 9110, 10.2.3) asks for; None if it cannot be read.

    Args:
        value: the header: seconds, or a date.
        date: the answer's Date header, which a Retry-After date is compared with if possible: a Pi has no hardware
            clock, and may be years off before it has reached a time server.
        wall_clock: seconds since the epoch, used if there is no Date header.
    """
    if value is None:
        return None
    value = value.strip()
    try:
        seconds = float(value)
    except ValueError:
        until = timestamp(value)
        if until is None:
            return None
        since = timestamp(date)
        seconds = until - (wall_clock() if since is None else since)
    return max(0.0, seconds) if seconds < float("inf") else None


def timestamp(value: str | None) -> float | None:
    """Return the seconds since the epoch of a date in a header; None if it is none."""
    from datetime import timezone
    from email.utils import parsedate_to_datetime

    if value is None:
        return None
    try:
        date = parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
    except (TypeError, ValueError, OverflowError):  # Python 3.9 raises TypeError for text that is no date
        return None
