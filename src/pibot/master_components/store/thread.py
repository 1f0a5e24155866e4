"""The one thread in which an event loop has the job store's calls made, so that it never waits for the disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, TypeVar

from pibot.errors import StoreUnreadable, StoreUnwritable
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
        self._staying: set[asyncio.Task[Any]] = set()
        self._stopping = False

    @property
    def trouble(self) -> str | None:
        """Why something still waits to be written; None where nothing does."""
        return next(iter(self._unwritten.values()), None)

    async def __call__(self, function: Callable[..., T], *arguments: Any) -> T:
        """What ``function`` returns or raises. Where the store can't be written or read, as on a full disk, it is
        called again and again until it can: what has happened to a job is not forgotten, and who waits for it is not
        told before.
        """
        return await self._until_written(lambda: self.once(function, *arguments), lambda: False)

    async def to_the_end(self, function: Callable[..., T], *arguments: Any) -> T:
        """The same, and who is cancelled meanwhile, as by the end of its job's time, stays until it is written: what
        was there in time is not lost to a full disk. Only :meth:`stop` ends that.
        """
        task = asyncio.current_task()
        assert task is not None
        self._staying.add(task)
        try:
            return await self._until_written(lambda: self._whole(function, *arguments), lambda: not self._stopping)
        finally:
            self._staying.discard(task)

    async def once(self, function: Callable[..., T], *arguments: Any) -> T:
        """What ``function`` returns or raises, whatever that is: for a caller that is there to be told of it."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    def stop(self) -> None:
        """Let go of what waits to be written: the hub stops, and the next one finds out again what it was."""
        self._stopping = True
        for task in self._staying:
            task.cancel()

    def close(self) -> None:
        """Take no more, once what was taken has been done."""
        self._executor.shutdown()

    async def _until_written(self, call: Callable[[], Awaitable[T]], stays: Callable[[], bool]) -> T:
        wait, this = FIRST_WAIT, object()
        try:
            while True:
                try:
                    return await call()
                except (StoreUnwritable, StoreUnreadable) as exc:
                    self._unwritten[this] = str(exc)
                    kind = "store_unwritable" if isinstance(exc, StoreUnwritable) else "store_unreadable"
                    event(log, kind, level=logging.ERROR, error=str(exc), again_in=f"{wait:g}s")
                try:
                    await self._sleep(wait)
                except asyncio.CancelledError:
                    if not stays():
                        raise
                wait = min(LONGEST_WAIT, wait * 2)
        finally:
            self._unwritten.pop(this, None)

    async def _whole(self, function: Callable[..., T], *arguments: Any) -> T:
        """One call, and its result also for who is cancelled while it is made."""
        made = asyncio.ensure_future(self.once(function, *arguments))
        while not made.done():
            try:
                await asyncio.wait({made})
            except asyncio.CancelledError:
                if self._stopping:
                    raise
        return made.result()
