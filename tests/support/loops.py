"""Helpers for tests that run or share an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Callable, TypeVar

T = TypeVar("T")


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run ``coroutine`` in a loop of its own; on Python 3.9, ``asyncio.run`` would leave pytest's loop unclosed."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


async def until(condition: Callable[[], bool]) -> None:
    """Yield to other tasks and threads until ``condition`` holds; the test's time limit ends it otherwise."""
    while not condition():  # noqa: ASYNC110  # other threads change it, so there is no event to await
        await asyncio.sleep(0)
