"""Slots that callers share: each caller can count on one, whatever the others do."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable

PLANNER = ""
"""The name of the hub's own planning among the callers. No key has it."""

FEWEST_WITH_PLANNERS = 3
"""With fewer slots none is kept for the planner: the workers would have to work one by one."""


# docs/decisions.md, D96
class Shares:
    """Decides which caller may take another of a number of slots.

    A caller's first slot needs one that is free. For each further one, more slots must be free than there are other
    callers that hold none. So a caller with any number of calls leaves a slot for each of the others. One of three or
    more slots is the planner's.

    Args:
        slots: how many slots there are.
        callers: the names of those for whom a slot is kept free.
    """

    def __init__(self, slots: int, callers: Iterable[str] = ()) -> None:
        self._slots = slots
        self._callers = frozenset(callers)
        self._held: Counter[str] = Counter()

    def take(self, caller: str) -> bool:
        """Give the caller a slot if it may have one now, and return whether it may."""
        if self._slots - sum(self._held.values()) <= self._kept_from(caller):
            return False
        self._held[caller] += 1
        return True

    def give_back(self, caller: str) -> None:
        """Take back a slot of the caller's."""
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]

    def _kept_from(self, caller: str) -> int:
        """Return how many of the free slots are kept for others."""
        idle = self._callers - self._held.keys() - {caller}
        if self._held[caller]:
            return len(idle)
        return int(PLANNER in idle and self._slots >= FEWEST_WITH_PLANNERS)


class Threads:
    """The server threads that model calls may occupy, shared between the callers. Any thread may use it.

    Args:
        shares: how they are shared.
    """

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._lock = threading.Lock()

    def take(self, caller: str) -> bool:
        """Give the caller a thread if it may have one now. Never waits."""
        with self._lock:
            return self._shares.take(caller)

    def give_back(self, caller: str) -> None:
        """Take back a thread of the caller's."""
        with self._lock:
            self._shares.give_back(caller)


class Slots:
    """The model calls that may run at the providers, shared between the callers. Use it within one event loop.

    The callers that wait take turns, and a caller's own calls go in the order of their arrival.

    Args:
        shares: how they are shared.
    """

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # the next to be served first

    async def take(self, caller: str, seconds: float) -> bool:
        """Wait for a slot, and return whether the caller got one in time. It gives the slot back."""
        if caller not in self._waiting and self._shares.take(caller):
            return True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await asyncio.wait([turn], timeout=seconds)
        except asyncio.CancelledError:
            if turn.done():
                self.give_back(caller)
            raise
        finally:
            if not turn.done():
                self._leave(caller, turn)
        return turn.done()

    def give_back(self, caller: str) -> None:
        """Take back a slot of the caller's, and hand out what is free to those that wait."""
        self._shares.give_back(caller)
        while self._serve_one():
            pass

    def _serve_one(self) -> bool:
        """Hand a slot to the next waiting caller that may have one, and return whether there was such a caller."""
        for caller in self._waiting:
            if self._shares.take(caller):
                turn = self._waiting[caller][0]
                self._leave(caller, turn)
                if caller in self._waiting:
                    self._waiting.move_to_end(caller)
                turn.set_result(None)
                return True
        return False

    def _leave(self, caller: str, turn: asyncio.Future[None]) -> None:
        self._waiting[caller].remove(turn)
        if not self._waiting[caller]:
            del self._waiting[caller]
