"""One exchange with a worker: a task from its sending to its result, over connections that may break."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Callable

from pibot.contracts import (
    ApprovalRequest,
    Clock,
    JsonObject,
    PendingCalls,
    TaskRequest,
    TaskResult,
    TaskState,
    UnfinishedTask,
    WorkerReport,
    WorkerState,
)
from pibot.contracts.approvals import MAX_ASKED_CHARS, MAX_CALLS_ASKED
from pibot.errors import (
    ContractError,
    ImpossibleAnswer,
    TaskNotFound,
    WorkerBusy,
    WorkerError,
    WorkerNotReached,
    WorkerUnreachable,
)
from pibot.master_components.workers.requests import CHECK_TIMEOUT, WorkerRequests

log = logging.getLogger("pibot.pool")

OnPending = Callable[[Sequence[ApprovalRequest]], Awaitable[None]]
"""Called with a task's calls that need the owner's approval, each time its worker reports them."""

WAIT_CHUNK = 20.0
"""Seconds that one request waits at the worker. A dead worker goes unnoticed for this long plus the client's margin."""

CANCEL_TIMEOUT = 60.0
"""Seconds that a worker gets to end a task; killing its processes may take it 30."""

ASK_AGAIN = 0.5
MAX_ASK_AGAIN = 5.0
"""Seconds after a broken connection before the master asks again: ``ASK_AGAIN`` first, doubled each time, each
shortened by up to a half."""

MAX_SENDINGS = 3
"""How often one exchange sends its task to a worker that says that it never got it."""

MAX_BROKEN = 20
"""Connections about one task that may break in a row, over about 80 s, while the worker gives other signs of life."""

SOON = 1.0
"""Seconds within which a worker answers too soon that the task has not ended, although it was asked to wait longer."""

SOON_PAUSE = 0.05
MAX_SOON_PAUSE = 5.0
"""Seconds before a worker that answers too soon is asked again: none after the first such answer in a row, then
``SOON_PAUSE``, doubled each time. A worker does so once when a call begins to wait for the owner, and always while too
many requests wait there."""


@dataclass(frozen=True)
class ExchangeTerms:
    """What to run on a worker, and how long to wait for it.

    Args:
        request: the task; its ``task_id`` must be new to the worker, or name the same task.
        timeout: seconds after which the task is cancelled on the worker. Waiting for the owner does not count, if
            ``on_pending`` is given.
        patience: seconds without a sign of life after which the exchange ends, once the worker may have the task.
        chunk: seconds that one request may wait at the worker.
        ask_first: ask for the result before sending the task, because the worker may have it from before.
        on_pending: called with the task's calls that need approval.
    """

    request: TaskRequest
    timeout: float
    patience: float = 0.0
    chunk: float = WAIT_CHUNK
    ask_first: bool = False
    on_pending: OnPending | None = None


class _Stage(Enum):
    """What the master knows of the task on the worker."""

    UNSENT = "unsent"
    """The worker does not have it."""

    UNSURE = "unsure"
    """It was sent, and no answer said whether it arrived."""

    RESUMED = "resumed"
    """The worker may have it from before this exchange."""

    ACCEPTED = "accepted"
    """The worker said that it has it."""


class Exchange:
    """One exchange; see :meth:`run`.

    Args:
        requests: sends the requests.
        worker_id: a worker that is reserved for the task.
        terms: the task, and how long to wait for it.
        monotonic: seconds.
        sleep: waits some seconds.
        jitter: returns a number from 0 to 1.
    """

    def __init__(
        self,
        requests: WorkerRequests,
        worker_id: str,
        terms: ExchangeTerms,
        *,
        monotonic: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._requests = requests
        self._worker_id = worker_id
        self._worker = requests.record(worker_id)
        self._terms = terms
        self._task_id = terms.request.task_id
        self._monotonic = monotonic
        self._sleep = sleep
        self._jitter = jitter
        self._stage = _Stage.RESUMED if terms.ask_first else _Stage.UNSENT
        self._began = self._sent_at = monotonic()
        self._sendings = 0
        self._failures = 0  # broken connections since the worker last said that it has the task
        self._pending = PendingCalls()
        self._reported_at = self._began  # when the worker last said that the task is unfinished
        self._waited = 0.0  # of the seconds that it says the task waited for the owner, those that we saw
        self._asked_at = self._began
        self._too_soon = 0  # answers in a row
        self._calls_seen: set[str] = set()
        self._asked_chars = 0

    async def run(self) -> TaskResult:
        """Send the task and wait for its result, one chunk of time per request.

        Once the worker may have the task, a broken connection only means asking for the result again.

        ========  ============  ========  ==================================  =================================
        stage     next request  on a 202  on a 404                            on a broken connection
        ========  ============  ========  ==================================  =================================
        UNSENT    POST /task    ACCEPTED  as UNSURE                           UNSURE; no connection is an error
        UNSURE    GET result    ACCEPTED  UNSENT if it never arrived [1]_     UNSURE
        RESUMED   GET result    ACCEPTED  UNSENT                              RESUMED
        ACCEPTED  GET result    ACCEPTED  error: the worker forgot the task   ACCEPTED
        ========  ============  ========  ==================================  =================================

        .. [1] The worker has been up since the task was sent. Otherwise, and after ``MAX_SENDINGS``, an error.

        A 200 holds the result. A broken connection ends the exchange after ``patience`` seconds without a sign of
        life, or after ``MAX_BROKEN`` in a row; an answer that can't be right ends it at once. Past the deadline the
        task is cancelled on the worker.

        Raises:
            WorkerBusy, WorkerRejected: the worker answered so.
            WorkerNotReached: the task did not reach it.
            ImpossibleAnswer: its answer can't be right.
            WorkerUnreachable: it gave no sign of life for too long, or forgot the task.
        """
        self._worker.state, self._worker.current_task = WorkerState.BUSY, self._task_id
        while True:
            try:
                status, body = await self._ask()
            except TaskNotFound:
                await self._on_unknown()
            except ImpossibleAnswer:
                raise  # it would come again
            except WorkerUnreachable as exc:
                await self._on_broken_connection(exc)
            else:
                if status != 202:
                    return parse_result(self._requests, self._worker_id, self._task_id, body)
                await self._on_unfinished(body)
                if self._left() <= 0:
                    return await self._cancel_overdue()
                await self._pause_if_too_soon()

    def _left(self) -> float:
        """Return the seconds until the deadline, which moves while the task waits for the owner."""
        return self._began + self._terms.timeout + self._waited - self._monotonic()

    async def _ask(self) -> tuple[int, JsonObject]:
        """Send the request of this stage."""
        wait = max(1, min(int(self._terms.chunk), int(self._left())))
        self._asked_at = self._monotonic()
        if self._stage is _Stage.UNSENT:
            self._sent_at, self._sendings = self._monotonic(), self._sendings + 1
            body = self._terms.request.to_json()
            return await self._requests.request(self._worker_id, "POST", "/task", body, wait=wait)
        # The worker ends the wait when it has more calls than we know of (docs/decisions.md, D57).
        query = "" if self._terms.on_pending is None else f"?asked={self._pending.asked}"
        path = f"/task/{self._task_id}/result{query}"
        return await self._requests.request(self._worker_id, "GET", path, wait=wait)

    async def _on_unfinished(self, body: JsonObject) -> None:
        self._stage, self._failures = _Stage.ACCEPTED, 0
        try:
            pending = UnfinishedTask.from_json(body).pending
            if self._terms.on_pending is None or pending is None:
                return
            self._count(pending.calls)
        except ContractError as exc:
            raise impossible(self._requests, self._worker_id, f"what can't be right: {exc}") from exc
        self._count_waiting(pending)
        await self._terms.on_pending(pending.calls)

    def _count_waiting(self, pending: PendingCalls) -> None:
        """Count the seconds since the last report in which the owner was shown a call, at most those that the worker
        says. A worker could move its deadline for ever by its word alone.
        """
        now = self._monotonic()
        if self._pending.calls or pending.calls:
            said = max(0.0, pending.waited - self._pending.waited)
            self._waited += min(said, now - self._reported_at)
        self._pending, self._reported_at = pending, now

    def _count(self, calls: Sequence[ApprovalRequest]) -> None:
        """Count the calls that are new.

        Raises:
            ContractError: the task has asked for more than a worker lets one ask.
        """
        for call in calls:
            if call.approval_id not in self._calls_seen:
                self._calls_seen.add(call.approval_id)
                self._asked_chars += len(json.dumps(call.arguments))
        if len(self._calls_seen) > MAX_CALLS_ASKED or self._asked_chars > MAX_ASKED_CHARS:
            raise ContractError("more calls have waited for approval than one task can have")

    async def _pause_if_too_soon(self) -> None:
        """Wait before a worker is asked again that answers at once, again and again."""
        if self._monotonic() - self._asked_at >= SOON:
            self._too_soon = 0
            return
        self._too_soon += 1
        if self._too_soon > 1:
            await self._sleep(min(MAX_SOON_PAUSE, SOON_PAUSE * 2.0 ** min(self._too_soon - 2, 20)))

    async def _on_unknown(self) -> None:
        """Send the task again if the worker can't have run it, else end the exchange (docs/decisions.md, D28)."""
        may_send = self._stage is _Stage.RESUMED
        if self._stage in (_Stage.UNSENT, _Stage.UNSURE) and self._sendings < MAX_SENDINGS:
            may_send = await self._never_arrived()
        if not may_send:
            raise WorkerUnreachable(self._worker_id, "it forgot the task, so it was restarted meanwhile")
        self._stage = _Stage.UNSENT

    async def _never_arrived(self) -> bool:
        """Return whether the worker has been up since the task was sent, so that it never got the task."""
        try:
            _, body = await self._requests.request(self._worker_id, "GET", "/status", timeout=CHECK_TIMEOUT)
        except (WorkerError, WorkerBusy, TaskNotFound):
            return False
        uptime = WorkerReport.from_json(body).uptime
        return uptime is not None and uptime > self._monotonic() - self._sent_at

    async def _on_broken_connection(self, exc: WorkerUnreachable) -> None:
        """Wait before the next request, unless the worker certainly has no task or was silent for too long."""
        if self._stage is _Stage.UNSENT:
            if isinstance(exc, WorkerNotReached) and not self._failures:
                raise exc
            self._stage = _Stage.UNSURE
        silence = self._monotonic() - max(self._began, self._worker.last_answer)
        if silence >= self._terms.patience or self._left() <= 0 or self._failures >= MAX_BROKEN:
            raise exc
        log.info("asking_again task=%s worker=%s error=%s", self._task_id, self._worker_id, exc.problem)
        full = min(MAX_ASK_AGAIN, ASK_AGAIN * 2.0 ** min(self._failures, 20))
        await self._sleep(full * (1 - self._jitter() / 2))
        self._failures += 1

    async def _cancel_overdue(self) -> TaskResult:
        """Cancel an overdue task on its worker, and report the cancelled task as timed out."""
        path = f"/task/{self._task_id}/cancel"
        _, body = await self._requests.request(self._worker_id, "POST", path, timeout=CANCEL_TIMEOUT)
        result = parse_result(self._requests, self._worker_id, self._task_id, body)
        if result.state is not TaskState.CANCELLED:
            return result
        error = f"{self._worker_id} did not finish within the caller's timeout; the task was cancelled there"
        return replace(result, state=TaskState.TIMEOUT, error=error)


def parse_result(requests: WorkerRequests, worker_id: str, task_id: str, body: JsonObject) -> TaskResult:
    """Return the result in a worker's answer. Its ``worker_id`` is the worker's id here, whatever the worker says.

    Raises:
        ImpossibleAnswer: the body holds no usable result of this task; the worker counts as offline.
    """
    try:
        result = TaskResult.from_json(body)
    except ContractError as exc:
        raise impossible(requests, worker_id, f"without a usable task result ({exc})") from exc
    if result.task_id != task_id:
        raise impossible(requests, worker_id, f"with the result of another task, {result.task_id!r}")
    return result if result.worker_id == worker_id else replace(result, worker_id=worker_id)


def impossible(requests: WorkerRequests, worker_id: str, problem: str) -> ImpossibleAnswer:
    """Return the error for an answer that can't be right; the worker counts as offline."""
    error = ImpossibleAnswer(worker_id, f"it answered {problem}; is it a PiBot worker?")
    requests.unreachable(error)
    return error
