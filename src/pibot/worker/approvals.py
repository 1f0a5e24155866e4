"""The tool calls of a worker's tasks that wait for the owner's approval, and the owner's decisions."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable

from pibot.contracts import ApprovalRequest, Clock, Decision, digest_of
from pibot.contracts.approvals import MAX_ASKED_CHARS, MAX_CALLS_ASKED
from pibot.contracts.reading import MAX_VALUES, read_object
from pibot.errors import ApprovalConflict, ApprovalNotFound, ApprovalOver, ContractError
from pibot.logs import event

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("pibot.worker")

TASKS_KEPT = 20
"""Tasks whose decided calls are kept, for a decision that arrives twice."""

MAX_ARGUMENT_CHARS = 50_000
"""The longest arguments of a call, in characters of JSON: nobody reads more than that before approving."""

MAX_ARGUMENT_VALUES = MAX_VALUES // 32
"""Values in the arguments of a call. Those of all calls that wait at once go into one answer."""


class _ApprovalEntry:
    """One tool call that waits or waited for approval."""

    __slots__ = ("chars", "closed", "decision", "request", "wake")

    def __init__(self, request: ApprovalRequest, chars: int, wake: Callable[[], None]) -> None:
        self.request = request
        self.chars = chars
        self.wake = wake
        self.decision: Decision | None = None
        self.closed = False


class WorkerApprovals:
    """All tool calls of this worker that wait for approval. Its methods may be called from any thread.

    Args:
        seconds: how long a call may wait; after that it counts as refused.
        clock: returns seconds since the epoch.
    """

    def __init__(self, seconds: float, clock: Clock = time.time) -> None:
        self.seconds = seconds
        self.on_pending_call: Callable[[str], None] = lambda task_id: None
        """Called with a task's id when a call of it begins to wait."""
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks: OrderedDict[str, list[_ApprovalEntry]] = OrderedDict()
        self._timers: dict[str, _WaitTimer] = {}

    def waiting(self, task_id: str) -> tuple[ApprovalRequest, ...]:
        """Return the task's calls that wait now."""
        with self._lock:
            return tuple(a.request for a in self._tasks.get(task_id, ()) if a.decision is None and not a.closed)

    def asked(self, task_id: str) -> int:
        """Count the calls of the task that wait or have waited."""
        with self._lock:
            return len(self._tasks.get(task_id, ()))

    def waited(self, task_id: str) -> float:
        """Return the seconds for which the running task has waited for the owner."""
        timer = self._timers.get(task_id)
        return 0.0 if timer is None else timer.waited()

    def decide(self, task_id: str, approval_id: str, decision: Decision) -> None:
        """Approve or refuse a call. The same decision may arrive again.

        Raises:
            ApprovalNotFound: no such call of the task waits or waited.
            ApprovalConflict: the decision is about another call, or contradicts an earlier one.
            ApprovalOver: the call no longer waits.
        """
        with self._lock:
            entry = next((a for a in self._tasks.get(task_id, ()) if a.request.approval_id == approval_id), None)
            if entry is None:
                raise ApprovalNotFound(f"no call {approval_id!r} of task {task_id!r} waits for approval here")
            if decision.digest != entry.request.digest:
                raise ApprovalConflict(
                    f"the waiting call is not the one that was decided on: its digest is {entry.request.digest}; "
                    "look at it again"
                )
            if entry.decision is not None and not entry.closed:
                if entry.decision.approved == decision.approved:
                    return
                was = "approved" if entry.decision.approved else "refused"
                raise ApprovalConflict(f"the call was {was} before")
            if entry.closed:
                raise ApprovalOver("the call does not wait any more: its task or its time has ended")
            entry.decision = decision
            entry.wake()

    def for_task(self, task_id: str) -> TaskApprovals:
        """Return the approvals of one task. Call this in the loop, once a task."""
        self._timers[task_id] = _WaitTimer()
        return TaskApprovals(self, task_id, self._timers[task_id])

    # --- for TaskApprovals ---

    def _has_room(self, task_id: str, chars: int) -> bool:
        """Return whether the task may ask for another call with arguments of this length."""
        with self._lock:
            calls = self._tasks.get(task_id, ())
            return len(calls) < MAX_CALLS_ASKED and sum(call.chars for call in calls) + chars <= MAX_ASKED_CHARS

    def _add(self, task_id: str, tool: str, arguments: Mapping[str, Any], wake: Callable[[], None]) -> _ApprovalEntry:
        with self._lock:
            if task_id not in self._tasks:
                self._tasks[task_id] = []
                while len(self._tasks) > TASKS_KEPT:
                    self._tasks.popitem(last=False)
            calls = self._tasks[task_id]
            number = str(len(calls) + 1)
            request = ApprovalRequest(number, tool, arguments, digest_of(tool, arguments), self._clock())
            calls.append(_ApprovalEntry(request, len(json.dumps(arguments)), wake))
            entry = calls[-1]
        event(log, "approval_asked", task=task_id, tool=tool, digest=entry.request.digest)
        self.on_pending_call(task_id)
        return entry

    def _end(self, entry: _ApprovalEntry) -> Decision | None:
        """Close a call to decisions, and return the one that was made, if any."""
        with self._lock:
            entry.closed = entry.closed or entry.decision is None
            return entry.decision

    def _forget_timer(self, task_id: str) -> None:
        self._timers.pop(task_id, None)


class _WaitTimer:
    """Measures how long a task has waited for approvals; calls that wait at the same time count once.

    Change it in the loop only; :meth:`waited` may be read from any thread.
    """

    def __init__(self, monotonic: Clock = time.monotonic) -> None:
        self._monotonic = monotonic
        self._calls = 0
        self._since = 0.0
        self._before = 0.0
        self._all_decided: asyncio.Event | None = None

    def begin(self) -> None:
        import asyncio

        self._all_decided = self._all_decided or asyncio.Event()
        self._all_decided.clear()
        if not self._calls:
            self._since = self._monotonic()
        self._calls += 1

    def end(self) -> None:
        self._calls -= 1
        if not self._calls:
            self._before += self._monotonic() - self._since
            assert self._all_decided is not None
            self._all_decided.set()

    def waited(self) -> float:
        return self._before + (self._monotonic() - self._since if self._calls else 0.0)

    async def all_decided(self) -> None:
        if self._all_decided is not None:
            await self._all_decided.wait()


class TaskApprovals:
    """The approvals of one task. Use it within the loop.

    Args:
        calls: keeps the waiting calls of all tasks.
        task_id: the task.
        timer: measures how long the task waits.
    """

    def __init__(self, calls: WorkerApprovals, task_id: str, timer: _WaitTimer) -> None:
        self._calls = calls
        self._task_id = task_id
        self._timer = timer

    async def ask(self, tool: str, arguments: Mapping[str, Any]) -> Decision:
        """Wait until the owner decides on a call, or its time is up.

        Returns:
            The decision, with the digest of the call that it is about. A call whose time is up counts as refused.
        """
        import asyncio

        text = json.dumps(arguments)
        problem = _why_not_shown(arguments, text)
        if problem is None and not self._calls._has_room(self._task_id, len(text)):
            problem = "the owner was asked about too many calls of this task, and is not asked about another"
        if problem is not None:
            return Decision("", approved=False, reason=problem)
        loop, decided = asyncio.get_running_loop(), asyncio.Event()
        # A copy, so that the arguments that the owner sees can't change meanwhile.
        entry = self._calls._add(self._task_id, tool, json.loads(text), lambda: _call_soon(loop, decided.set))
        self._timer.begin()
        # Not wait_for: before Python 3.12 it loses a cancellation that arrives with the decision, and the call runs.
        timer = loop.call_later(self._calls.seconds, decided.set)
        try:
            await decided.wait()
        finally:
            timer.cancel()
            self._timer.end()
            decision = self._calls._end(entry)
        event(log, "approval_decided", task=self._task_id, tool=tool, approved=bool(decision and decision.approved))
        if decision is not None:
            return decision
        reason = f"nobody decided within {self._calls.seconds:g} seconds (PIBOT_APPROVAL_SECONDS)"
        return Decision(entry.request.digest, approved=False, reason=reason)

    def waited(self) -> float:
        """Return the seconds for which the task has waited for the owner until now."""
        return self._timer.waited()

    async def all_decided(self) -> None:
        """Wait until no call of the task waits."""
        await self._timer.all_decided()

    def close(self) -> None:
        """Forget how long the task waited; it has ended."""
        self._calls._forget_timer(self._task_id)


def _why_not_shown(arguments: Mapping[str, Any], text: str) -> str | None:
    """Return why the owner can't be shown a call with these arguments; None if the owner can.

    The master rejects a call that JSON changes on the way, since its digest no longer matches, and does not believe a
    worker whose calls it can't read. The task would then wait for a decision that nobody can make.

    Args:
        text: the arguments as JSON.
    """
    if len(text) > MAX_ARGUMENT_CHARS:
        return f"the owner can't check arguments of {len(text)} characters; {MAX_ARGUMENT_CHARS} are allowed"
    try:
        json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:  # half of a surrogate pair, or a number that JSON does not have
        return "its arguments hold a broken character or number, which the owner can't be shown; send them without it"
    try:
        read_object(
            b'{"approvals": [{"arguments": %s}]}' % text.encode(),
            most_bytes=2 * MAX_ARGUMENT_CHARS,
            most_values=MAX_ARGUMENT_VALUES,
        )
    except ContractError as exc:
        return f"the owner can't be shown its arguments ({exc}); send simpler ones"
    return None


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(function)
