"""How often somebody may do something: a bucket for each, in bounded memory."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from typing import Callable

MAX_BUCKETS = 4096
"""About 1 MB. Beyond it the bucket that was used longest ago is forgotten."""


class Buckets:
    """A bucket of ``per_minute`` tokens for each name, which fills up again within a minute.

    A full bucket is like none, so only the names of the last minute are kept.

    Args:
        per_minute: tokens.
        most: buckets that are kept.
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
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, when; last used last

    def take(self, name: str) -> int:
        """Take a token; 0 where there was one, else the whole seconds until there will be."""
        now = self._clock()
        with self._lock:
            tokens = self._tokens(name, now)
            if tokens < 1:
                return self._until_one(tokens)
            self._buckets[name] = (tokens - 1, now)
            self._buckets.move_to_end(name)
            self._forget(now)
            return 0

    def wait(self, name: str) -> int:
        """The whole seconds until there is a token; 0 where there is one. Takes none."""
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

    def _forget(self, now: float) -> None:
        """Drop what is full again, which the oldest are first, and what is too much."""
        while self._buckets:
            _, at = next(iter(self._buckets.values()))
            if now - at < 60 and len(self._buckets) <= self._most:
                break
            self._buckets.popitem(last=False)
