"""A resource that is bound to an event loop, such as a pool of connections."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Callable, Generic, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class PerLoop(Generic[T]):
    """Creates a resource on first use in an event loop, replaces it when the loop changes, and closes what it created.

    Neither function may reference the owner of this object: in a reference cycle the object would be finalized late,
    after its loop.

    Args:
        make: creates the resource; called within the running loop.
        close: closes it. It must have closed the resource by its first real wait, so that nothing stays open in a
            loop that is about to end.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Coroutine[Any, Any, None]]) -> None:
        self._make = make
        self._close = close
        self._held: tuple[asyncio.AbstractEventLoop, T] | None = None

    def get(self) -> T:
        """Return the resource for the running loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        if self._held is None or self._held[0] is not loop:
            self._abandon()
            self._held = (loop, self._make())
        return self._held[1]

    async def close(self) -> None:
        """Close the resource, if there is one."""
        import asyncio

        held, self._held = self._held, None
        if held is None:
            return
        loop, resource = held
        if loop is asyncio.get_running_loop():
            await self._close(resource)
        else:
            _leave(loop, lambda: self._close(resource))

    def _abandon(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            loop, resource = held
            close = self._close
            _leave(loop, lambda: close(resource))

    def __del__(self) -> None:
        # The guide's scripts drop the client without closing it, and must get no ResourceWarning for that.
        if getattr(self, "_held", None) is not None:
            self._abandon()


def _leave(loop: asyncio.AbstractEventLoop, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close a resource from a place that cannot await it: a finalizer, or another loop."""
    import asyncio

    try:
        here = asyncio.get_running_loop() is loop
    except RuntimeError:
        here = False
    if here or loop.is_closed():
        _begin(close)
        return
    try:
        loop.call_soon_threadsafe(_finish_there, close)
    except RuntimeError:  # the loop was closed between the check and the call
        _begin(close)


def _begin(close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``close`` up to its first wait, by which it has closed the connections.

    A task would be too late if the loop ends right after.
    """
    closing = close()
    with contextlib.suppress(StopIteration, RuntimeError):  # RuntimeError: the loop is closed, so nothing is open
        closing.send(None)
    closing.close()


def _finish_there(close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``close`` as a task of the running loop."""
    import asyncio

    task = asyncio.get_running_loop().create_task(close())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[None]] = set()
"""Keeps tasks alive until they are done, because a loop holds only weak references to them."""
