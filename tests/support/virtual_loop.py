"""An event loop whose time the test sets, and which runs one turn at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Callable, TypeVar

from tests.support.clocks import FakeClock

T = TypeVar("T")

MOST_TURNS = 5_000
"""Turns without passing time after which the loop counts as endless."""


SHORTEST = 1e-6
"""The least seconds until a timer fires."""


class _Selector:
    """A selector without any files."""

    def select(self, timeout: float | None) -> list[Any]:
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop with callbacks and timers, without files and threads: it runs a thread's calls itself, one a turn.

    Args:
        clock: the loop's time.
        moves_too: clocks that advance with it.

    Attributes:
        eager: whether a thread's call runs at once. Otherwise it runs a turn later, unless it is cancelled before.
        killed: whether threads' calls are dropped.
        errors: the errors that no caller received.
    """

    def __init__(self, clock: FakeClock, *moves_too: FakeClock) -> None:
        super().__init__()
        self._clocks = (clock, *moves_too)
        self._selector = _Selector()
        self._calls: deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = deque()
        self.eager = False
        self.killed = False
        self.errors: list[str] = []
        self.set_exception_handler(lambda _, context: self.errors.append(str(context)))

    def time(self) -> float:
        return self._clocks[0].now

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, **more: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        # A sleep shorter than the clock's precision would never end.
        return super().call_at(max(when, self.time() + SHORTEST), callback, *args, **more)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future: asyncio.Future[Any] = self.create_future()
        if self.killed:
            future.cancel()
            return future
        self._calls.append((future, lambda: func(*args)))
        if self.eager:
            while self._calls:
                self._make_call()
        else:
            self.call_soon(self._make_call)
        return future

    def _make_call(self) -> None:
        if not self._calls or self.killed:
            return
        future, call = self._calls.popleft()
        if future.cancelled():
            return
        try:
            result = call()
        except Exception as exc:  # noqa: BLE001  # goes to its caller
            self.call_soon(_answer, future, None, exc)
        else:
            self.call_soon(_answer, future, result, None)

    def _process_events(self, event_list: object) -> None:
        pass

    # --- what a test calls ---

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is left to do before time passes."""
        when = self._next_timer()
        return not self._ready and (when is None or when > self.time())  # type: ignore[attr-defined]

    def turn(self) -> None:
        """Run everything that is ready now, but not what becomes ready meanwhile."""
        self.call_soon(self.stop)
        self.run_forever()

    def settle(self) -> None:
        """Run turns until nothing is left to do before time passes."""
        for _ in range(MOST_TURNS):
            if self.is_quiet:
                return
            self.turn()
        raise AssertionError(f"the loop does not settle: {asyncio.all_tasks(self)}")

    def pass_time(self, seconds: float) -> None:
        """Let time pass, from one timer to the next."""
        end = self.time() + seconds
        self.settle()
        while True:
            when = self._next_timer()
            if when is None or when > end:
                break
            self._move(max(0.0, when - self.time()))
            self.settle()
        self._move(max(0.0, end - self.time()))
        self.settle()

    def run(self, coroutine: Coroutine[Any, Any, T], seconds: float = 0.0) -> T:
        """Run ``coroutine`` for up to ``seconds``, and return its result."""
        task = self.create_task(coroutine)
        self.settle()
        if not task.done():
            self.pass_time(seconds)
        assert task.done(), f"it did not end within {seconds:g} s: {task}"
        return task.result()

    def kill(self) -> None:
        """Cancel all tasks, run no more of the threads' calls, and close the loop."""
        self.killed = True
        for _ in range(MOST_TURNS):
            going_on = asyncio.all_tasks(self)
            if not going_on:
                break
            for task in going_on:
                task.cancel()
            self.turn()
        self.close()

    def _next_timer(self) -> float | None:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return min((timer.when() for timer in timers if not timer.cancelled()), default=None)

    def _move(self, seconds: float) -> None:
        for clock in self._clocks:
            clock.now += seconds


def _answer(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
