"""Wait for a state that can only be found out by asking a server."""

from __future__ import annotations

import threading
import time
from typing import Callable, TypeVar

T = TypeVar("T")

ASK_AGAIN = 0.1
"""Seconds until :meth:`Changes.until` asks again without a note, since not every change is noted."""


class Changes:
    """Repeats a question to a server when something has happened, instead of continuously.

    :meth:`note` and :meth:`until` may be called from any thread.
    """

    def __init__(self) -> None:
        self._noted = threading.Condition()
        self._number = 0

    def note(self) -> None:
        """Report that something has happened which may change an answer."""
        with self._noted:
            self._number += 1
            self._noted.notify_all()

    def until(self, condition: Callable[[], T], *, within: float = 60.0) -> T:
        """Call ``condition`` until its result is true, and return that.

        Args:
            condition: asks a server.
            within: seconds.

        Raises:
            AssertionError: it was still false after ``within`` seconds.
        """
        end = time.monotonic() + within
        while True:
            seen = self._number
            result = condition()
            if result:
                return result
            assert time.monotonic() < end, f"waited {within:g} s, and the last answer was {result!r}"
            with self._noted:
                if self._number == seen:
                    self._noted.wait(ASK_AGAIN)


def until(condition: Callable[[], T], *, within: float = 60.0) -> T:
    """Wait like :meth:`Changes.until` if nothing reports changes."""
    return Changes().until(condition, within=within)
