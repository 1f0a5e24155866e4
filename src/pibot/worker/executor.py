"""Run tasks one at a time, each in a fresh agent."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from typing import TYPE_CHECKING, Callable

from pibot.background import BackgroundLoop
from pibot.contracts import (
    Agent,
    AgentOutcome,
    Clock,
    Decision,
    PendingCalls,
    TaskRequest,
    TaskResult,
    TaskState,
    fault_of,
)
from pibot.errors import PibotError, ShuttingDown, TaskConflict, TaskNotFound, WorkerBusy
from pibot.logs import event
from pibot.settings import Settings
from pibot.worker.approvals import WorkerApprovals

if TYPE_CHECKING:
    import asyncio


log = logging.getLogger("pibot.worker")

CANCEL_WAIT = 30.0
"""Seconds that a cancelled task may take to end its processes; after that the cancel fails with an error."""


class _Entry:
    """One task that this worker accepted."""

    __slots__ = ("cancel_reason", "done", "finished_at", "news", "request", "result", "running", "started_at")

    def __init__(self, request: TaskRequest) -> None:
        self.request = request
        self.running: asyncio.Future[AgentOutcome] | None = None
        self.cancel_reason: str | None = None
        self.done: Future[TaskResult] = Future()
        self.news: Future[None] = Future()  # done when the task ends, or a tool call of it begins to wait
        self.result: TaskResult | None = None
        self.started_at = 0.0
        self.finished_at = 0.0


class TaskExecutor:
    """Runs one task at a time and keeps the latest results. Its methods may be called from any thread.

    Args:
        worker_id: this worker's name, for the results.
        create_agent: makes the agent of a task. Called in the loop, so that costly imports wait for the first task.
        loop: the loop in which agents run.
        results_kept: ended tasks to keep.
        results_ttl: seconds to keep them.
        approvals: keeps the tool calls that wait for the owner's approval.
        clock: returns seconds since the epoch, for the times in results.
        monotonic: returns seconds, for ages.
    """

    def __init__(
        self,
        worker_id: str,
        create_agent: Callable[[TaskRequest], Agent],
        loop: BackgroundLoop,
        *,
        results_kept: int = 200,
        results_ttl: float = 24 * 3600.0,
        approvals: WorkerApprovals | None = None,
        clock: Clock = time.time,
        monotonic: Clock = time.monotonic,
    ) -> None:
        self.worker_id = worker_id
        self._create_agent = create_agent
        self._loop = loop
        self._results_kept = results_kept
        self._results_ttl = results_ttl
        self._approvals = approvals or WorkerApprovals(Settings.approval_seconds, clock)
        self._approvals.on_pending_call = self._tell_waiters
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._current: _Entry | None = None
        self._stopping = False
        self._ended: dict[TaskState, int] = {s: 0 for s in TaskState if s is not TaskState.RUNNING}

    @property
    def current_task(self) -> str | None:
        """The id of the running task; None if there is none."""
        current = self._current
        return None if current is None else current.request.task_id

    def ended(self) -> Mapping[TaskState, int]:
        """Count the tasks that have ended since the start, by state."""
        with self._lock:
            return dict(self._ended)

    def submit(self, request: TaskRequest) -> None:
        """Accept a task and start it. A task with the same id and body as an earlier one is not run again.

        Raises:
            TaskConflict: its id came before with another body.
            WorkerBusy: another task runs.
            ShuttingDown: the worker is stopping.
            RuntimeError: the loop's thread could not be started, or was stopped; the task was not accepted.
        """
        with self._lock:
            known = self._lookup(request.task_id)
            if known is not None:
                if known.request == request:
                    return
                raise TaskConflict(
                    f"task {request.task_id!r} was sent before with another body; choose another task_id"
                )
            if self._stopping:
                raise ShuttingDown(f"{self.worker_id} is stopping and takes no new task")
            if self._current is not None:
                raise WorkerBusy(self._current.request.task_id)
            entry = _Entry(request)
            self._current = self._entries[request.task_id] = entry
        try:
            self._loop.call_soon(self._start, entry)
        except BaseException:
            with self._lock:  # it was not started, so the caller may send it again
                self._current = None
                del self._entries[request.task_id]
            raise
        event(log, "task_started", task=request.task_id, skills=",".join(request.skills) or "-")

    def wait(self, task_id: str, seconds: float, *, asked: int | None = None) -> TaskResult | None:
        """Wait up to ``seconds`` for the task's result, and return it; None if the task still runs.

        Args:
            asked: the number of its tool calls, waiting or decided, that the caller knows of: a further one ends the
                wait. None if it knows of all so far.

        Raises:
            TaskNotFound: this worker does not know the task.
        """
        entry, news = self._known(task_id)
        if entry.result is None and seconds > 0 and (asked is None or self._approvals.asked(task_id) <= asked):
            with contextlib.suppress(FutureTimeout):
                news.result(timeout=seconds)
        return entry.result

    def approvals(self, task_id: str) -> PendingCalls:
        """Return the tool calls of a task that wait for the owner, and how long the task has waited.

        Raises:
            TaskNotFound: this worker does not know the task.
        """
        self._known(task_id)
        approvals = self._approvals
        return PendingCalls(approvals.asked(task_id), approvals.waited(task_id), approvals.waiting(task_id))

    def decide(self, task_id: str, approval_id: str, decision: Decision) -> None:
        """Approve or refuse a waiting tool call.

        Raises:
            TaskNotFound: this worker does not know the task.
            ApprovalNotFound, ApprovalConflict, ApprovalOver: see :meth:`WorkerApprovals.decide`.
        """
        self._known(task_id)
        self._approvals.decide(task_id, approval_id, decision)

    def cancel(self, task_id: str, reason: str = "cancelled by request") -> TaskResult:
        """Cancel a task, and return its result once its last process is gone. An ended task keeps its result.

        Raises:
            TaskNotFound: this worker does not know the task.
            PibotError: the task did not end within :data:`CANCEL_WAIT` seconds.
        """
        result = self.wait(task_id, 0.0)
        if result is not None:
            return result
        entry = self._entries[task_id]
        self._loop.call_soon(self._cancel_in_loop, entry, reason)
        self._await(entry, CANCEL_WAIT)
        if entry.result is None:
            raise PibotError(f"task {task_id!r} did not end within {CANCEL_WAIT:g} seconds; restart the worker")
        return entry.result

    def stop(self, grace: float) -> None:
        """Accept no more tasks; give the running one ``grace`` seconds to end, then cancel it."""
        with self._lock:
            self._stopping = True
            entry = self._current
        if entry is None:
            return
        event(log, "waiting_for_task", task=entry.request.task_id, grace=grace)
        self._await(entry, grace)
        if entry.result is None:
            self.cancel(
                entry.request.task_id, f"{self.worker_id} was stopped, and the task did not end within its {grace:g} s"
            )

    # --- in the loop ---

    def _start(self, entry: _Entry) -> None:
        """Start a task's agent. However it ends, :meth:`_record` is called."""
        import asyncio

        entry.started_at = self._clock()
        if entry.cancel_reason is not None:
            self._record(entry, AgentOutcome(TaskState.CANCELLED, error=entry.cancel_reason))
            return
        try:
            entry.running = asyncio.ensure_future(self._create_agent(entry.request).run(entry.request))
        except Exception as exc:  # noqa: BLE001  # _broken logs what is not a PibotError
            self._record(entry, _broken(entry.request, exc))
        else:
            entry.running.add_done_callback(partial(self._finish, entry))

    def _finish(self, entry: _Entry, running: asyncio.Future[AgentOutcome]) -> None:
        if running.cancelled():
            outcome = AgentOutcome(TaskState.CANCELLED, error=entry.cancel_reason or "the worker's loop was stopped")
        else:
            exc = running.exception()
            outcome = running.result() if exc is None else _broken(entry.request, exc)
        self._record(entry, outcome)

    def _record(self, entry: _Entry, outcome: AgentOutcome) -> None:
        result = TaskResult(
            task_id=entry.request.task_id,
            worker_id=self.worker_id,
            state=outcome.state,
            output=outcome.output,
            data=outcome.data,
            error=outcome.error,
            usage=outcome.usage,
            steps=outcome.steps,
            fault=outcome.fault,
            model_rest=outcome.model_rest,
            reasoning=outcome.reasoning,
            started_at=entry.started_at,
            finished_at=self._clock(),
        ).believable()
        with self._lock:
            entry.finished_at = self._monotonic()
            entry.result = result
            self._current = None
            self._ended[result.state] += 1
            self._entries.move_to_end(entry.request.task_id)
            self._evict()
        entry.done.set_result(result)
        entry.news.set_result(None)
        event(
            log,
            "task_finished",
            task=result.task_id,
            status=result.state.value,
            steps=result.steps,
            tokens=result.usage.total_tokens,
            error=result.error,
        )

    @staticmethod
    def _cancel_in_loop(entry: _Entry, reason: str) -> None:
        if entry.cancel_reason is None:
            entry.cancel_reason = reason
            if entry.running is not None:
                entry.running.cancel()

    # --- with the lock held ---

    def _lookup(self, task_id: str) -> _Entry | None:
        self._evict()
        return self._entries.get(task_id)

    def _evict(self) -> None:
        """Forget the oldest ended tasks. They are at the front, and the running one at the end."""
        oldest_allowed = self._monotonic() - self._results_ttl
        while self._entries:
            entry = next(iter(self._entries.values()))
            if entry.result is None:
                return
            if len(self._entries) <= self._results_kept and entry.finished_at >= oldest_allowed:
                return
            del self._entries[entry.request.task_id]

    # --- without the lock ---

    def _known(self, task_id: str) -> tuple[_Entry, Future[None]]:
        """Return a task's entry, and the future that its next news completes."""
        with self._lock:
            entry = self._lookup(task_id)
            if entry is not None:
                return entry, entry.news
        raise TaskNotFound(
            f"no task {task_id!r} on {self.worker_id}: it was never sent here, or its result was dropped since"
        )

    def _tell_waiters(self, task_id: str) -> None:
        """Wake the callers of :meth:`wait`: a tool call of the task begins to wait."""
        with self._lock:
            entry = self._entries.get(task_id)
            if entry is None or entry.result is not None:
                return
            news, entry.news = entry.news, Future()
        news.set_result(None)

    @staticmethod
    def _await(entry: _Entry, seconds: float) -> None:
        with contextlib.suppress(FutureTimeout):
            entry.done.result(timeout=seconds)


def _broken(request: TaskRequest, exc: BaseException) -> AgentOutcome:
    """Return the outcome of an agent that raised. Log the error if it is a defect and no PibotError."""
    if isinstance(exc, PibotError):
        return AgentOutcome(TaskState.FAILED, error=str(exc), fault=fault_of(exc))
    log.error("task_broke task=%s", request.task_id, exc_info=exc)
    return AgentOutcome(TaskState.FAILED, error=f"a defect in the worker: {type(exc).__name__}: {exc}")
