"""Find out that a client has hung up while its request is being answered."""

from __future__ import annotations

import contextlib
import select
import threading
from typing import Callable

HANG_UP = "pibot.hang_up"
"""The name in the WSGI environ of a function that registers what to call when the client hangs up. It returns a
function that unregisters it, which has to be called before the response ends."""


class HangUps:
    """The connections of which somebody wants to know that the client has hung up. Any thread may use it.

    A client that only ends its sending half counts as gone too: over HTTP, the two look the same. The intake's thread
    waits for :meth:`fileno` among its other connections, so that no further thread waits or polls.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._lock = threading.Lock()
        self._watched: dict[int, Callable[[], object]] = {}

    def fileno(self) -> int:
        """Return the descriptor that is readable when a client has hung up."""
        return self._epoll.fileno()

    def watch(self, number: int, tell: Callable[[], object]) -> Callable[[], None]:
        """Call ``tell`` once when the client hangs up, in the intake's thread.

        Args:
            number: the connection's file descriptor.

        Returns:
            A function that ends that; calling it twice is fine.
        """
        with self._lock:
            if not self._epoll.closed:
                if number in self._watched:
                    self._forget(number)
                self._watched[number] = tell
                self._epoll.register(number, select.EPOLLRDHUP)

        def unwatch() -> None:
            with self._lock:
                if self._watched.get(number) is tell:
                    self._forget(number)

        return unwatch

    def tell(self) -> None:
        """Tell of the clients that have hung up since the last call."""
        with self._lock:
            gone = [number for number, _ in self._epoll.poll(0)] if not self._epoll.closed else []
            told = [self._watched[number] for number in gone]
            for number in gone:
                self._forget(number)
        for tell in told:
            tell()

    def close(self) -> None:
        """Watch no more."""
        with self._lock:
            self._watched.clear()
            self._epoll.close()

    def _forget(self, number: int) -> None:
        del self._watched[number]
        with contextlib.suppress(OSError):  # the connection is closed, and so not watched any more
            self._epoll.unregister(number)
