"""Bound the memory of all tool calls that run at once in one worker."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

MEMORY_MB = 48
"""Memory in MB for all tool calls of a worker, whose unit has 160 MB (``pibot_worker_memory_max``)."""

CALL_MB = 3
"""Memory in MB that a call may take whose skill says nothing in ``MEMORY_MB``: 16 of them run at once."""


class MemoryRoom:
    """Lets calls in while their memory fits, first come, first served.

    Args:
        size: MB for all calls together. A call that wants more has the room to itself.
    """

    def __init__(self, size: int = MEMORY_MB) -> None:
        self._size = size
        self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def hold(self, wanted: int) -> AsyncIterator[None]:
        """Wait until ``wanted`` MB are free, and hold them for the block."""
        wanted = min(wanted, self._size)
        await self._enter(wanted)
        try:
            yield
        finally:
            self._free += wanted
            self._admit()

    async def _enter(self, wanted: int) -> None:
        import asyncio

        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free += wanted  # it was admitted, but never ran
            self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            wanted, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= wanted
                turn.set_result(None)
