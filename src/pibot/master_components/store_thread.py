"""The one thread in which an event loop has the job store's calls made, so that it never waits for the disk."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, TypeVar

T = TypeVar("T")


class StoreThread:
    """Runs functions one after the other, in the order of their coming."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="pibot-store")

    async def __call__(self, function: Callable[..., T], *arguments: Any) -> T:
        """What ``function`` returns or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    def close(self) -> None:
        """Take no more, once what was taken has been done."""
        self._executor.shutdown()
