"""What is said to a worker over HTTP, what its answers say of it, and one task from its sending to its result."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Callable, cast

from pibot.contracts import (
    ApprovalRequest,
    Clock,
    JsonObject,
    PendingCalls,
    TaskRequest,
    TaskResult,
    TaskResultDict,
    TaskState,
    WorkerReport,
    WorkerState,
)
from pibot.errors import (
    ContractError,
    TaskNotFound,
    WorkerBusy,
    WorkerError,
    WorkerNotReached,
    WorkerRejected,
    WorkerUnreachable,
)
from pibot.logs import event
from pibot.master_components.workers.client import WorkerClient
from pibot.master_components.workers.placement import Limits, examine
from pibot.master_components.workers.record import Worker

log = logging.getLogger("pibot.pool")

Heard = Callable[[Sequence[ApprovalRequest]], Awaitable[None]]
"""Called with the calls of a task that wait for the owner, each time its worker reports them."""

WAIT_CHUNK = 20
"""Seconds that one request waits at the worker: a dead worker goes unnoticed for so long, and the client's margin."""

CHECK_TIMEOUT = 5.0
"""Seconds in which a worker says how it is."""

CANCEL_TIMEOUT = 60.0

ASK_AGAIN = 0.5
MAX_ASK_AGAIN = 5.0
"""Seconds until a worker whose connection broke is asked for its task's result: the first, doubled each time, to the
second; each shortened by up to a half."""


MAX_SENDINGS = 3
"""How often a task is sent for one attempt, where the worker says that it never got it."""


class WorkerTalk:
    """Talks to workers.

    Args:
        workers: what is known of each; it is kept up to date.
        client: the HTTP side.
        limits: beyond what a worker gets no task.
        clock: seconds since the epoch.
        monotonic: seconds.
        sleep, jitter: waits some seconds; a number from 0 to 1.
    """

    def __init__(
        self,
        workers: Mapping[str, Worker],
        client: WorkerClient,
        limits: Limits,
        clock: Clock,
        monotonic: Clock,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._workers = workers
        self._client = client
        self._limits = limits
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._jitter = jitter

    # --- how a worker is ---

    async def check(self, worker_id: str) -> bool:
        """Ask for its health; whether it answered as it should."""
        try:
            _, body = await self.request(worker_id, "GET", "/health", timeout=CHECK_TIMEOUT)
        except (WorkerError, WorkerBusy, TaskNotFound):
            return False
        if body.get("status") != "healthy":
            self._lost(worker_id, WorkerUnreachable(worker_id, f"it says {body.get('status')!r} of itself"))
            return False
        worker = self._workers.get(worker_id)
        if worker is not None:
            self._note_task(worker, body.get("current_task"))
        return True

    async def look(self, worker_id: str) -> None:
        """Ask it for its report, or for its health where it has none to give."""
        try:
            _, body = await self.request(worker_id, "GET", "/status", timeout=CHECK_TIMEOUT)
        except TaskNotFound:
            await self.check(worker_id)
            return
        except WorkerRejected as exc:
            worker = self._workers.get(worker_id)  # it may have left meanwhile
            if worker is not None:
                worker.ailments = {"refusal": f"refusing us: {exc.problem}"}
            return
        except (WorkerError, WorkerBusy):
            return
        worker = self._workers.get(worker_id)
        if worker is not None:
            report = WorkerReport.from_json(body)
            examine(worker, report, self._limits, self._monotonic())
            self._note_task(worker, report.current_task)

    def _note_task(self, worker: Worker, task_id: str | None) -> None:
        if worker.reserved:
            return
        if task_id is None:
            worker.idle()
        else:
            worker.busy_elsewhere(self._monotonic())
        worker.current_task = task_id

    # --- one task ---

    async def exchange(
        self,
        worker_id: str,
        request: TaskRequest,
        deadline: float,
        *,
        patience: float,
        chunk: float = WAIT_CHUNK,
        ask_first: bool = False,
        heard: Heard | None = None,
    ) -> TaskResultDict:
        """Post the task and wait for its result, a piece of time at a request.

        Once the worker may have the task, a lost connection means only that it is asked for the result again.

        Args:
            deadline: monotonic seconds; past it the task is cancelled there.
            patience: seconds without any sign of life after which the worker is given up.
            chunk: seconds that one request may wait there.
            ask_first: it may have the task already: ask for its result before it is sent.
            heard: called with the calls that wait for the owner; what is waited for is added to the deadline then.

        Raises:
            WorkerBusy, WorkerRejected: as it answered.
            WorkerNotReached: the task did not get there.
            WorkerUnreachable: it gave no sign of life for too long, or has forgotten the task.
        """
        worker = self.known(worker_id)
        worker.state, worker.current_task = WorkerState.BUSY, request.task_id
        began = posted = self._monotonic()
        sent = taken = ask_first
        failures = sendings = 0
        waiting = PendingCalls()
        limit = deadline
        while True:
            deadline = limit + waiting.waited
            wait = max(1, min(int(chunk), int(deadline - self._monotonic())))
            try:
                if sent:
                    asked = None if heard is None else waiting.asked
                    status, body = await self.get_result(worker_id, request.task_id, wait, asked)
                else:
                    sent, posted, sendings = True, self._monotonic(), sendings + 1
                    status, body = await self.request(worker_id, "POST", "/task", request.to_json(), wait=wait)
            except TaskNotFound:
                never_came = not taken and sendings < MAX_SENDINGS and await self._never_came(worker_id, posted)
                if ask_first or never_came:
                    sent = taken = ask_first = False
                    continue
                raise WorkerUnreachable(worker_id, "it forgot the task, so it was restarted meanwhile") from None
            except WorkerUnreachable as exc:
                if isinstance(exc, WorkerNotReached) and not failures and not taken:
                    raise
                if self._monotonic() - max(began, worker.heard) >= patience or self._monotonic() >= deadline:
                    raise
                log.info("asking_again task=%s worker=%s error=%s", request.task_id, worker_id, exc.problem)
                await self._sleep(self._pause(failures))
                failures += 1
                continue
            if status != 202:
                return self._whole(worker_id, body)
            taken, ask_first, failures = True, False, 0
            if heard is not None and "approvals_asked" in body:
                waiting = PendingCalls.from_json(body)
                await heard(waiting.calls)
            if self._monotonic() >= limit + waiting.waited:
                return await self._give_up(worker_id, request)

    async def _never_came(self, worker_id: str, posted: float) -> bool:
        """Whether a worker that does not know the task has been there since it was posted, so that it never got it."""
        try:
            _, body = await self.request(worker_id, "GET", "/status", timeout=CHECK_TIMEOUT)
        except (WorkerError, WorkerBusy, TaskNotFound):
            return False
        uptime = WorkerReport.from_json(body).uptime
        return uptime is not None and uptime > self._monotonic() - posted

    def _whole(self, worker_id: str, body: JsonObject) -> TaskResultDict:
        if "success" not in body or "status" not in body:
            raise self._lost(
                worker_id, WorkerUnreachable(worker_id, "it answered 200 with no task's result: no PiBot worker?")
            )
        return cast(TaskResultDict, body)

    async def _give_up(self, worker_id: str, request: TaskRequest) -> TaskResultDict:
        """End the task on the worker, whose time is up; the result is what it says of that."""
        status, body = await self.request(worker_id, "POST", f"/task/{request.task_id}/cancel", timeout=CANCEL_TIMEOUT)
        if status == 200 and body.get("status") == TaskState.CANCELLED.value:
            body["status"] = TaskState.TIMEOUT.value
            body["error"] = f"{worker_id} did not finish within the caller's timeout; the task was cancelled there"
        return cast(TaskResultDict, body)

    async def get_result(
        self, worker_id: str, task_id: str, wait: float, asked: int | None = None
    ) -> tuple[int, JsonObject]:
        """Ask for a task's result; errors as :meth:`request`.

        Args:
            asked: how many of its calls for the owner are known here: a new one ends the wait. None for don't care.
        """
        query = "" if asked is None else f"?asked={asked}"
        return await self.request(worker_id, "GET", f"/task/{task_id}/result{query}", wait=wait)

    def parse(self, worker_id: str, body: Mapping[str, Any]) -> TaskResult:
        """The result in a body.

        Raises:
            WorkerUnreachable: it has not the agreed form.
        """
        try:
            return TaskResult.from_json(body)
        except ContractError as exc:
            problem = f"its result has not the agreed form: {exc}"
            raise self._lost(worker_id, WorkerUnreachable(worker_id, problem)) from exc

    def _pause(self, failures: int) -> float:
        full = min(MAX_ASK_AGAIN, ASK_AGAIN * 2.0 ** min(failures, 20))
        return full * (1 - self._jitter() / 2)

    # --- one request ---

    async def request(
        self, worker_id: str, method: str, path: str, body: JsonObject | None = None, **limits: float
    ) -> tuple[int, JsonObject]:
        """One request, noting what it says of the worker; answers and errors as :meth:`WorkerClient.request`'s."""
        worker = self.known(worker_id)
        try:
            status, answer = await self._client.request(worker.address, method, path, body, **limits)
        except WorkerUnreachable as exc:
            self._lost(worker_id, exc)
            raise
        except WorkerBusy:
            self._seen(worker)
            worker.busy_elsewhere(self._monotonic())
            raise
        except WorkerRejected as exc:
            self._seen(worker)
            worker.error = exc.problem
            raise
        except TaskNotFound:
            self._seen(worker)
            raise
        self._seen(worker)
        return status, answer

    def known(self, worker_id: str) -> Worker:
        """What is known of a worker.

        Raises:
            WorkerUnreachable: nothing, for it is none of the pool's.
        """
        try:
            return self._workers[worker_id]
        except KeyError:
            raise WorkerNotReached(worker_id, "it is none of this master's workers any more") from None

    def _seen(self, worker: Worker) -> None:
        worker.seen(self._clock(), self._monotonic())
        if worker.state is WorkerState.OFFLINE:
            worker.state = WorkerState.BUSY if worker.reserved else WorkerState.IDLE

    def _lost(self, worker_id: str, exc: WorkerUnreachable) -> WorkerUnreachable:
        worker = self._workers.get(worker_id)
        if worker is not None and worker.lost(exc, self._monotonic()):
            event(log, "worker_offline", level=logging.WARNING, worker=worker_id, error=exc.problem)
        return exc
