"""A resource that belongs to the event loop it was made in, such as a pool of connections."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Callable, Generic, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class PerLoop(Generic[T]):
    """Makes the resource on first use in a loop, again when the loop is another one, and closes what it made.

    Args:
        make: makes it; called within the running loop. Neither function may hold the owner of this object: in a cycle
            it would be finalized late, after its loop.
        close: closes it; it does so up to its first real wait, so that also a loop which is about to end can be left
            with nothing open.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Coroutine[Any, Any, None]]) -> None:
        self._make = make
        self._close = close
        self._held: tuple[asyncio.AbstractEventLoop, T] | None = None

    def get(self) -> T:
        """The resource for the running loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        if self._held is None or self._held[0] is not loop:
            self._abandon()
            self._held = (loop, self._make())
        return self._held[1]

    async def close(self) -> None:
        """Close it, if there is one."""
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
        # The guide's scripts drop the client without closing it, and shall not be told off for that.
        if getattr(self, "_held", None) is not None:
            self._abandon()


def _leave(loop: asyncio.AbstractEventLoop, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close a resource from where nobody can wait for it: a finalizer, or another loop."""
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
    except RuntimeError:  # it was closed between the question and the call
        _begin(close)


def _begin(close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``close`` to its first wait and no further: by then connections are told to close.

    A task would be too late where the loop ends right after.
    """
    closing = close()
    with contextlib.suppress(StopIteration, RuntimeError):  # RuntimeError: the loop is closed, so nothing is open
        closing.send(None)
    closing.close()


def _finish_there(close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``close`` as a task of the loop that this is called in."""
    import asyncio

    task = asyncio.get_running_loop().create_task(close())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[None]] = set()
"""Held until they are done: a loop itself holds its tasks but weakly."""
