"""How many calls run at once, and who is next."""

from __future__ import annotations

import asyncio
from collections import deque


class Places:
    """So many places, given in the order of asking. Within one event loop.

    Args:
        number: how many there are.
    """

    def __init__(self, number: int) -> None:
        self._free = number
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self, seconds: float) -> bool:
        """Whether a place came free within so many seconds; it must be given back then."""
        if self._free and not self._waiting:
            self._free -= 1
            return True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait([turn], timeout=seconds)
        except asyncio.CancelledError:
            if turn.done():
                self.give_back()
            raise
        finally:
            if not turn.done():
                self._waiting.remove(turn)
        return turn.done()

    def give_back(self) -> None:
        """Somebody else may have the place."""
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._free += 1
