"""The one thread in which an event loop has the job store's calls made, so that it never waits for the disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, TypeVar

from pibot.errors import StoreUnwritable
from pibot.logs import event

log = logging.getLogger("pibot.store")

T = TypeVar("T")

FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
"""Seconds until a call that could not be written is made again: the first, doubled at each one, to the second."""


class StoreThread:
    """Runs functions one after the other, in the order of their coming.

    Args:
        sleep: waits some seconds.
    """

    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="pibot-store")
        self._sleep = sleep
        self._unwritten: dict[object, str] = {}

    @property
    def trouble(self) -> str | None:
        """Why something still waits to be written; None where nothing does."""
        return next(iter(self._unwritten.values()), None)

    async def __call__(self, function: Callable[..., T], *arguments: Any) -> T:
        """What ``function`` returns or raises. Where the store can't be written, as on a full disk, it is called again
        and again until it can: what has happened to a job is not forgotten, and who waits for it is not told before.
        """
        wait, this = FIRST_WAIT, object()
        try:
            while True:
                try:
                    return await self.once(function, *arguments)
                except StoreUnwritable as exc:
                    self._unwritten[this] = str(exc)
                    event(log, "store_unwritable", level=logging.ERROR, error=str(exc), again_in=f"{wait:g}s")
                await self._sleep(wait)
                wait = min(LONGEST_WAIT, wait * 2)
        finally:
            self._unwritten.pop(this, None)

    async def once(self, function: Callable[..., T], *arguments: Any) -> T:
        """What ``function`` returns or raises, whatever that is: for a caller that is there to be told of it."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    def close(self) -> None:
        """Take no more, once what was taken has been done."""
        self._executor.shutdown()
