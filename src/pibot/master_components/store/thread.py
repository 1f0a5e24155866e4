"""The thread that makes an event loop's calls of the job store, so that the loop never waits for the disk."""

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
"""Seconds before a call that the disk did not take is first made again, and the most between two tries. Each try
doubles the wait."""


class StoreThread:
    """Runs functions one at a time, in the order in which they are given.

    Args:
        sleep: waits some seconds.
    """

    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="pibot-store")
        self._sleep = sleep
        self._unwritten: dict[object, str] = {}
        self._shielded: set[asyncio.Task[Any]] = set()
        self._stopping = False

    @property
    def trouble(self) -> str | None:
        """Why a call still waits for the disk; None if none does."""
        return next(iter(self._unwritten.values()), None)

    async def __call__(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run ``function``, again and again while the store can't be written or read, as on a full disk.

        So no change of a job is lost, and no caller goes on before it is on disk (docs/decisions.md, D40). Other errors
        go to the caller.
        """
        return await self._until_written(lambda: self.once(function, *arguments), lambda: False)

    async def shielded(self, function: Callable[..., T], *arguments: Any) -> T:
        """Like ``__call__``, but a cancelled caller still waits until the write succeeds.

        So a full disk does not lose a result that came before the job's timeout (docs/decisions.md, D31). Only
        :meth:`stop` ends the wait.
        """
        task = asyncio.current_task()
        assert task is not None
        self._shielded.add(task)
        try:
            return await self._until_written(lambda: self._whole(function, *arguments), lambda: not self._stopping)
        finally:
            self._shielded.discard(task)

    async def once(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run ``function`` once, without retries; errors go to the caller."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    def stop(self) -> None:
        """Give up on the calls that wait for the disk: the hub stops, and the next one finds out what they were."""
        self._stopping = True
        for task in self._shielded:
            task.cancel()

    def close(self) -> None:
        """Finish the functions that were given, take no more, and end the thread."""
        self._executor.shutdown()

    async def _until_written(self, call: Callable[[], Awaitable[T]], ignores_cancel: Callable[[], bool]) -> T:
        wait, key = FIRST_WAIT, object()
        try:
            while True:
                try:
                    return await call()
                except (StoreUnwritable, StoreUnreadable) as exc:
                    self._unwritten[key] = str(exc)
                    kind = "store_unwritable" if isinstance(exc, StoreUnwritable) else "store_unreadable"
                    event(log, kind, level=logging.ERROR, error=str(exc), again_in=f"{wait:g}s")
                try:
                    await self._sleep(wait)
                except asyncio.CancelledError:
                    if not ignores_cancel():
                        raise
                wait = min(LONGEST_WAIT, wait * 2)
        finally:
            self._unwritten.pop(key, None)

    async def _whole(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run ``function`` once, and return its result even if the caller is cancelled meanwhile."""
        running = asyncio.ensure_future(self.once(function, *arguments))
        while not running.done():
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError:
                if self._stopping:
                    raise
        return running.result()
