"""The calls of a worker's tasks that wait for the owner, and what the owner decides of them."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable

from pibot.contracts import ApprovalRequest, Clock, Decision, digest_of
from pibot.errors import ApprovalConflict, ApprovalNotFound, ApprovalOver
from pibot.logs import event

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("pibot.worker")

TASKS_KEPT = 20
"""Ended tasks whose decided calls are remembered, for a decision that comes twice."""

MAX_ARGUMENT_CHARS = 50_000
"""Characters of the arguments of one call, as JSON: more than that nobody reads before saying yes."""


class _Asked:
    """One call."""

    __slots__ = ("decision", "over", "request", "wake")

    def __init__(self, request: ApprovalRequest, wake: Callable[[], None]) -> None:
        self.request = request
        self.wake = wake
        self.decision: Decision | None = None
        self.over = False


class WorkerApprovals:
    """Where the calls of a worker wait. Its methods may be called from any thread.

    Args:
        seconds: how long a call waits; then it counts as refused.
        clock: seconds since the epoch.
    """

    def __init__(self, seconds: float, clock: Clock = time.time) -> None:
        self.seconds = seconds
        self.on_pending_call: Callable[[str], None] = lambda task_id: None
        """Called with the task's id when a call of it begins to wait."""
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks: OrderedDict[str, list[_Asked]] = OrderedDict()
        self._pauses: dict[str, _Pause] = {}

    def waiting(self, task_id: str) -> tuple[ApprovalRequest, ...]:
        """The task's calls that wait now."""
        with self._lock:
            return tuple(a.request for a in self._tasks.get(task_id, ()) if a.decision is None and not a.over)

    def asked(self, task_id: str) -> int:
        """How many calls of the task have waited or do."""
        with self._lock:
            return len(self._tasks.get(task_id, ()))

    def waited(self, task_id: str) -> float:
        """Seconds for which the running task has waited for the owner."""
        pause = self._pauses.get(task_id)
        return 0.0 if pause is None else pause.waited()

    def decide(self, task_id: str, approval_id: str, decision: Decision) -> None:
        """Let a call be run, or refuse it. The same decision may come again.

        Raises:
            ApprovalNotFound: the task has asked for no such call.
            ApprovalConflict: the decision is about another call, or the other decision was made before.
            ApprovalOver: the call does not wait any more.
        """
        with self._lock:
            asked = next((a for a in self._tasks.get(task_id, ()) if a.request.approval_id == approval_id), None)
            if asked is None:
                raise ApprovalNotFound(f"no call {approval_id!r} of task {task_id!r} waits for approval here")
            if decision.digest != asked.request.digest:
                raise ApprovalConflict(
                    f"the call that waits is not the one that was decided on: its digest is {asked.request.digest}; "
                    "look at it again"
                )
            if asked.decision is not None and not asked.over:
                if asked.decision.approved == decision.approved:
                    return
                was = "approved" if asked.decision.approved else "refused"
                raise ApprovalConflict(f"the call was {was} before")
            if asked.over:
                raise ApprovalOver("the call does not wait any more: its task or its time has ended")
            asked.decision = decision
            asked.wake()

    def for_task(self, task_id: str) -> TaskApprovals:
        """What the tools of one task ask, and its agent; call it in the loop."""
        self._pauses[task_id] = _Pause()
        return TaskApprovals(self, task_id, self._pauses[task_id])

    # --- for TaskApprovals ---

    def _add(self, task_id: str, tool: str, arguments: Mapping[str, Any], wake: Callable[[], None]) -> _Asked:
        with self._lock:
            if task_id not in self._tasks:
                self._tasks[task_id] = []
                while len(self._tasks) > TASKS_KEPT:
                    self._tasks.popitem(last=False)
            calls = self._tasks[task_id]
            number = str(len(calls) + 1)
            request = ApprovalRequest(number, tool, arguments, digest_of(tool, arguments), self._clock())
            calls.append(_Asked(request, wake))
            asked = calls[-1]
        event(log, "approval_asked", task=task_id, tool=tool, digest=asked.request.digest)
        self.on_pending_call(task_id)
        return asked

    def _end(self, asked: _Asked) -> Decision | None:
        """No more decisions are taken; the one that was, if any."""
        with self._lock:
            asked.over = asked.over or asked.decision is None
            return asked.decision

    def _forget_pause(self, task_id: str) -> None:
        self._pauses.pop(task_id, None)


class _Pause:
    """How long a task has waited for people, several calls at a time counting once. Used in the loop; read anywhere."""

    def __init__(self, monotonic: Clock = time.monotonic) -> None:
        self._monotonic = monotonic
        self._calls = 0
        self._since = 0.0
        self._before = 0.0
        self._nobody: asyncio.Event | None = None

    def begin(self) -> None:
        import asyncio

        self._nobody = self._nobody or asyncio.Event()
        self._nobody.clear()
        if not self._calls:
            self._since = self._monotonic()
        self._calls += 1

    def end(self) -> None:
        self._calls -= 1
        if not self._calls:
            self._before += self._monotonic() - self._since
            assert self._nobody is not None
            self._nobody.set()

    def waited(self) -> float:
        return self._before + (self._monotonic() - self._since if self._calls else 0.0)

    async def over(self) -> None:
        if self._nobody is not None:
            await self._nobody.wait()


class TaskApprovals:
    """One task's way to the owner, within its loop.

    Args:
        desk: where its calls wait.
        task_id: the task.
        pause: counts how long.
    """

    def __init__(self, desk: WorkerApprovals, task_id: str, pause: _Pause) -> None:
        self._desk = desk
        self._task_id = task_id
        self._pause = pause

    async def ask(self, tool: str, arguments: Mapping[str, Any]) -> Decision:
        """Wait until the owner has decided on a call, or its time is up.

        Returns:
            What was decided, with the digest of the call that it is about.
        """
        import asyncio

        text = json.dumps(arguments)
        unfit = _why_not_shown(arguments, len(text))
        if unfit is not None:
            return Decision("", approved=False, reason=unfit)
        loop, decided = asyncio.get_running_loop(), asyncio.Event()
        # A copy of its own, so that what was shown can't be changed while it waits.
        asked = self._desk._add(self._task_id, tool, json.loads(text), lambda: _call_soon(loop, decided.set))
        self._pause.begin()
        # No wait_for: before Python 3.12 a cancellation that comes with the decision is lost in it, and the call runs.
        timer = loop.call_later(self._desk.seconds, decided.set)
        try:
            await decided.wait()
        finally:
            timer.cancel()
            self._pause.end()
            decision = self._desk._end(asked)
        event(log, "approval_decided", task=self._task_id, tool=tool, approved=bool(decision and decision.approved))
        if decision is not None:
            return decision
        reason = f"nobody decided within {self._desk.seconds:g} seconds (PIBOT_APPROVAL_SECONDS)"
        return Decision(asked.request.digest, approved=False, reason=reason)

    def waited(self) -> float:
        """Seconds for which the task has waited for the owner, up to now."""
        return self._pause.waited()

    async def all_decided(self) -> None:
        """Returns when no call of the task waits."""
        await self._pause.over()

    def close(self) -> None:
        """The task has ended."""
        self._desk._forget_pause(self._task_id)


def _why_not_shown(arguments: Mapping[str, Any], length: int) -> str | None:
    """Why nobody can be asked about a call with these arguments; None where somebody can.

    What does not come through to the master as it is would not be the call that was asked about: the master does not
    take it, and the task would wait for a decision that nobody can make.
    """
    if length > MAX_ARGUMENT_CHARS:
        return f"nobody can look at arguments of {length} characters; {MAX_ARGUMENT_CHARS} are allowed"
    try:
        json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:  # half of a surrogate pair, or a number that JSON does not have
        return "its arguments hold a broken character or number, which nobody can be shown; send them without it"
    return None


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(function)
