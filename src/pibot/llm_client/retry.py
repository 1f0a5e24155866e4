"""When to ask again: exponential backoff with full jitter, on top of what the server asked for.

Full jitter as in Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: three workers that were
turned away together don't come back together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from pibot.contracts import Clock


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and how long to wait before.

    Args:
        retries: attempts after the first.
        base: seconds; the most to wait before the first retry. It doubles with each.
        cap: seconds; where the doubling ends.
        retry_after_cap: seconds; the most that a server's Retry-After is heeded for.
    """

    retries: int = 4
    base: float = 0.5
    cap: float = 20.0
    retry_after_cap: float = 60.0

    def wait(self, attempt: int, retry_after: float | None, random: Callable[[], float]) -> float:
        """Seconds to wait after the ``attempt``-th attempt (from 1) failed.

        Args:
            attempt: the number of the attempt that failed.
            retry_after: seconds that the server asked for, if it did.
            random: a number from 0 to 1.
        """
        jitter = random() * min(self.cap, self.base * 2.0 ** min(attempt - 1, 30))
        return min(retry_after or 0.0, self.retry_after_cap) + jitter


def parse_retry_after(value: str | None, date: str | None, wall_clock: Clock) -> float | None:
    """Seconds that a Retry-After header (RFC 9110, 10.2.3) asks for; None where there is none that can be read.

    Args:
        value: the header: seconds, or a date.
        date: the answer's Date header. A date is counted from there where it can be: a Pi has no clock of its own, and
            may be years off before it has found a time server.
        wall_clock: seconds since the epoch, where there is no Date.
    """
    if value is None:
        return None
    value = value.strip()
    try:
        seconds = float(value)
    except ValueError:
        until = _timestamp(value)
        if until is None:
            return None
        since = _timestamp(date)
        seconds = until - (wall_clock() if since is None else since)
    return max(0.0, seconds) if seconds < float("inf") else None


def _timestamp(value: str | None) -> float | None:
    from email.utils import parsedate_to_datetime

    if value is None:
        return None
    try:
        return parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, OverflowError):  # Python 3.9 raises TypeError for what is no date
        return None
