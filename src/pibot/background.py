"""The one asyncio loop of a process, in a thread of its own, since Flask views never await."""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Callable, TypeVar

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

T = TypeVar("T")


class BackgroundLoop:
    """An asyncio loop in a daemon thread, started on first use.

    ``asyncio`` is imported then too. It takes 10 MB (PSS, Python 3.11), which a worker without a task yet saves.
    """

    def __init__(self, name: str = "pibot-loop") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``coroutine`` in the loop. Call this from another thread.

        Returns:
            A future to wait on; cancelling it cancels the coroutine.

        Raises:
            RuntimeError: the loop was stopped, or its thread can't be started.
        """
        import asyncio

        try:
            loop = self.loop()
        except RuntimeError:
            coroutine.close()
            raise
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def call_soon(self, function: Callable[..., object], *args: object) -> None:
        """Have the loop call ``function`` soon. Call this from any thread."""
        self.loop().call_soon_threadsafe(function, *args)

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop, and start it on the first call.

        Raises:
            RuntimeError: it was stopped, or its thread can't be started.
        """
        with self._lock:
            if self._stopped:
                raise RuntimeError("the background loop was stopped")
            if self._loop is None:
                self._start()
            assert self._loop is not None
            return self._loop

    def stop(self) -> None:
        """Cancel what still runs in the loop, then end the loop and its thread. May be called twice."""
        with self._lock:
            self._stopped = True
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _start(self) -> None:
        import asyncio

        loop = asyncio.new_event_loop()
        # On Python 3.9 to 3.11 threads watch child processes, so the loop need not run in the main thread.
        thread = threading.Thread(target=self._main, args=(loop,), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # too many threads: the next call tries again, with a loop that runs
            loop.close()
            raise
        self._loop, self._thread = loop, thread

    @staticmethod
    def _main(loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            pending = asyncio.all_tasks(loop)
            for task in pending:
                task.cancel()
            if pending:
                loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
