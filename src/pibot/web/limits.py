"""Rate limits: a token bucket for each name, in bounded memory. See docs/decisions.md, D17."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from typing import Callable

MAX_BUCKETS = 4096
"""About 1 MB. Beyond it, the bucket that was used longest ago is evicted."""


# docs/decisions.md, D17
class Buckets:
    """A bucket of ``per_minute`` tokens for each name, which refills within a minute.

    A full bucket is as good as none, so only the names of the last minute are kept.

    Args:
        per_minute: tokens in a full bucket.
        most: buckets to keep.
        clock: seconds, monotonic.
    """

    def __init__(
        self, per_minute: int, *, most: int = MAX_BUCKETS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size = float(per_minute)
        self._rate = per_minute / 60.0
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = (
            OrderedDict()
        )  # tokens, time of use; the last used at the end

    def take(self, name: str) -> int:
        """Take a token. Returns 0, or without a token the whole seconds until there is one."""
        now = self._clock()
        with self._lock:
            tokens = self._tokens(name, now)
            if tokens < 1:
                return self._until_one(tokens)
            self._buckets[name] = (tokens - 1, now)
            self._buckets.move_to_end(name)
            self._evict(now)
            return 0

    def wait(self, name: str) -> int:
        """Return the whole seconds until there is a token, 0 if there is one. Takes none."""
        if name not in self._buckets:
            return 0
        with self._lock:
            tokens = self._tokens(name, self._clock())
        return 0 if tokens >= 1 else self._until_one(tokens)

    def __len__(self) -> int:
        return len(self._buckets)

    def _tokens(self, name: str, now: float) -> float:
        tokens, at = self._buckets.get(name, (self._size, now))
        return min(self._size, tokens + (now - at) * self._rate)

    def _until_one(self, tokens: float) -> int:
        return max(1, math.ceil((1 - tokens) / self._rate))

    def _evict(self, now: float) -> None:
        """Evict refilled buckets, oldest first, then any above the cap."""
        while self._buckets:
            _, at = next(iter(self._buckets.values()))
            if now - at < 60 and len(self._buckets) <= self._most:
                break
            self._buckets.popitem(last=False)
