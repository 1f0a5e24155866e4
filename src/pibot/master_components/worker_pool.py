"""The master's workers: who is there, who is free, and one task to one of them over HTTP."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

from pibot.contracts import (
    MAX_TASK_TIMEOUT,
    Clock,
    JsonObject,
    SubTask,
    TaskRequest,
    TaskResult,
    TaskResultDict,
    TaskState,
    WorkerAddress,
    WorkerState,
    WorkerStatus,
    valid_description,
    valid_id,
    valid_skills,
    valid_timeout,
)
from pibot.errors import (
    ContractError,
    NoWorkers,
    TaskNotFound,
    WorkerBusy,
    WorkerError,
    WorkerRejected,
    WorkerUnreachable,
)
from pibot.logs import event
from pibot.master_components.worker_client import WorkerClient
from pibot.settings import Secret, Settings

log = logging.getLogger("pibot.pool")

DEFAULT_TIMEOUT = 300.0
"""Seconds that ``execute_task`` waits for a free worker and its result together."""

WAIT_CHUNK = 20
"""Seconds that one request waits at the worker: a dead worker goes unnoticed for so long, and the client's margin."""

HEALTH_TIMEOUT = 5.0

ATTEMPTS = 3
"""Workers that ``execute_task`` tries before it gives up on a task that none of them brought to an end."""

BUSY_DELAY = 1.0
"""Seconds until a worker is asked again that was busy with somebody else's task."""

OFFLINE_DELAY = 2.0
MAX_OFFLINE_DELAY = 30.0
"""Seconds until a worker is tried again that did not answer: the first, doubled at each failure, to the second."""


class _Worker:
    """One worker, as far as this pool knows."""

    def __init__(self, address: WorkerAddress) -> None:
        self.address = address
        self.state = WorkerState.IDLE
        self.current_task: str | None = None
        self.reserved = False
        self.last_seen: float | None = None
        self.error: str | None = None
        self.failures = 0
        self.not_before = 0.0  # monotonic seconds

    def seen(self, now: float) -> None:
        self.last_seen = now
        self.failures = 0
        self.error = None
        self.not_before = 0.0


class WorkerPool:
    """Sends tasks to workers, one at a time to each. Made anywhere; used within one event loop.

    Args:
        workers: where they are.
        api_key: what they ask for.
        clock: seconds since the epoch, for what is shown.
        monotonic: seconds, for delays and deadlines.
    """

    def __init__(
        self,
        workers: Iterable[WorkerAddress],
        *,
        api_key: Secret | None = None,
        clock: Clock = time.time,
        monotonic: Clock = time.monotonic,
    ) -> None:
        self._workers = {address.worker_id: _Worker(address) for address in workers}
        self._clock = clock
        self._monotonic = monotonic
        self._idle: deque[str] = deque(self._workers)  # least recently used first
        self._waiters: deque[tuple[asyncio.Future[str], frozenset[str]]] = deque()
        self._wake: asyncio.TimerHandle | None = None
        self._client = WorkerClient(api_key)

    # --- what the guide's scripts use ---

    async def check_all_workers_health(self) -> dict[str, bool]:
        """Ask every worker's ``/health`` at once; which of them answered as they should."""
        names = list(self._workers)
        healthy = await asyncio.gather(*(self._check(self._workers[name]) for name in names))
        self._serve_waiters()
        return dict(zip(names, healthy))

    def get_status_summary(self) -> dict[str, Any]:
        """``total``, ``idle``, ``busy``, ``offline`` and ``workers``, as of the last time each was heard of.

        A worker that was not asked yet counts as idle.
        """
        statuses = self.statuses()
        summary: dict[str, Any] = {"total": len(statuses)}
        for state in WorkerState:
            summary[state.value] = sum(status.state is state for status in statuses)
        summary["workers"] = [status.to_json() for status in statuses]
        return summary

    async def execute_task(self, subtask: SubTask, timeout: float | None = None) -> TaskResultDict:
        """Run one task on a free worker and return its result in its JSON form.

        A worker that can't be reached, or vanishes while the task runs, is replaced by another, three in all; so a
        task may run more than once. Each call is an execution of its own, also for the same ``task_id``.

        Args:
            subtask: what to do; its ``depends_on`` is the caller's to mind.
            timeout: seconds to wait for a free worker and the result together; 300 by default.

        Returns:
            The result; ``success`` is False and ``error`` says why where there is none.

        Raises:
            InvalidRequest: the subtask or the timeout does not fit; it names the field.
        """
        timeout = DEFAULT_TIMEOUT if timeout is None else cast(float, valid_timeout(timeout))
        task = TaskRequest(
            valid_id(subtask.task_id, "task_id"),
            valid_description(subtask.description),
            valid_skills(list(subtask.skills)),
            valid_timeout(subtask.timeout),
        )
        deadline = self._monotonic() + timeout
        tried: list[str] = []
        problems: list[str] = []
        while len(tried) < ATTEMPTS:
            try:
                worker_id = await self.acquire(max(0.0, deadline - self._monotonic()), avoid=tried)
            except NoWorkers as exc:
                return _no_result(task.task_id, TaskState.FAILED, [str(exc)])
            except asyncio.TimeoutError:
                problems.append(f"no worker was free within {timeout:g} s ({self._why_none()})")
                return _no_result(task.task_id, TaskState.TIMEOUT, problems)
            try:
                result = await self._run(worker_id, task, deadline)
            except WorkerBusy:
                continue
            except WorkerError as exc:
                problems.append(str(exc))
                tried.append(worker_id)
                continue
            finally:
                self.release(worker_id)
            result["task_id"] = task.task_id
            return result
        return _no_result(task.task_id, TaskState.FAILED, problems)

    async def close(self) -> None:
        """Close the connections. Calling it twice is fine."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        await self._client.close()

    # --- what the dispatcher uses ---

    def statuses(self) -> tuple[WorkerStatus, ...]:
        """What is known of each worker, in the order they were given."""
        return tuple(
            WorkerStatus(worker.address, worker.state, worker.current_task, worker.last_seen, worker.error)
            for worker in self._workers.values()
        )

    async def acquire(self, timeout: float | None, *, avoid: Collection[str] = ()) -> str:
        """Reserve a free worker, the longest idle first, and return its id; :meth:`release` gives it back.

        Args:
            timeout: seconds to wait for one; None for ever.
            avoid: workers to take only if there are no others.

        Raises:
            NoWorkers: the pool knows none at all.
            asyncio.TimeoutError: none came free in time.
        """
        if not self._workers:
            raise NoWorkers("no worker is known; set WORKER_1_IP (and WORKER_2_IP …) to your workers' addresses")
        avoided = frozenset(avoid)
        if not self._workers.keys() - avoided:
            avoided = frozenset()
        worker_id = self._take(avoided)
        if worker_id is not None:
            return worker_id
        waiter: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        place = (waiter, avoided)
        self._waiters.append(place)
        self._schedule_wake()
        try:
            return await asyncio.wait_for(waiter, timeout)
        except (asyncio.TimeoutError, asyncio.CancelledError):
            # The worker may have been handed over in the same turn of the loop.
            if waiter.done() and not waiter.cancelled():
                self.release(waiter.result())
            raise
        finally:
            if place in self._waiters:
                self._waiters.remove(place)

    def release(self, worker_id: str) -> None:
        """Give back a worker that :meth:`acquire` gave."""
        worker = self._workers[worker_id]
        worker.reserved = False
        worker.current_task = None
        if worker.state is WorkerState.BUSY and not worker.not_before:
            worker.state = WorkerState.IDLE
        self._idle.append(worker_id)
        self._serve_waiters()

    async def run_on(self, worker_id: str, request: TaskRequest, *, timeout: float) -> TaskResult:
        """Run a task on a worker that was acquired, and wait for its result.

        Args:
            request: its ``task_id`` must be new to the worker, or the same task again.
            timeout: seconds; past it the task is cancelled there.

        Raises:
            WorkerBusy: it runs another task.
            WorkerUnreachable: it did not answer, or forgot the task.
            WorkerRejected: it refused the task.
        """
        return self._parse(worker_id, await self._exchange(worker_id, request, self._monotonic() + timeout))

    async def fetch_result(self, worker_id: str, task_id: str, *, wait: float = 0) -> TaskResult | None:
        """Ask a worker for a result; None where the task still runs after ``wait`` seconds.

        Raises:
            TaskNotFound: it does not know the task.
            WorkerUnreachable: it did not answer.
            WorkerRejected: it refused to answer.
        """
        status, body = await self._get_result(worker_id, task_id, int(wait))
        return self._parse(worker_id, body) if status == 200 else None

    async def cancel(self, worker_id: str, task_id: str) -> None:
        """End a task on its worker; a task that it does not know counts as ended.

        Raises:
            WorkerUnreachable: it did not answer.
            WorkerRejected: it refused.
        """
        try:
            await self._request(worker_id, "POST", f"/task/{task_id}/cancel", timeout=60.0)
        except TaskNotFound:
            log.info("cancelled task=%s worker=%s was not known there", task_id, worker_id)

    # --- who is free ---

    def _take(self, avoided: frozenset[str]) -> str | None:
        """Reserve the longest idle worker that may be asked now; None where there is none."""
        now = self._monotonic()
        for worker_id in self._idle:
            worker = self._workers[worker_id]
            if worker_id not in avoided and worker.not_before <= now:
                self._idle.remove(worker_id)
                worker.reserved = True
                return worker_id
        return None

    def _serve_waiters(self) -> None:
        """Hand free workers to those who wait, in the order of their coming."""
        for place in list(self._waiters):
            if not self._idle:
                return
            waiter, avoided = place
            if waiter.done():
                continue
            worker_id = self._take(avoided)
            if worker_id is not None:
                self._waiters.remove(place)
                waiter.set_result(worker_id)
        self._schedule_wake()

    def _schedule_wake(self) -> None:
        """Look again once the next worker may be tried that was offline or busy."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        delays = [self._workers[name].not_before for name in self._idle]
        if self._waiters and delays:
            delay = max(0.0, min(delays) - self._monotonic())
            self._wake = asyncio.get_running_loop().call_later(delay + 0.001, self._serve_waiters)

    def _why_none(self) -> str:
        return "; ".join(
            f"{name}: {worker.error or worker.state.value}" for name, worker in sorted(self._workers.items())
        )

    # --- one task on one worker ---

    async def _run(self, worker_id: str, task: TaskRequest, deadline: float) -> TaskResultDict:
        """One execution: under an id of its own, because an id that a worker has seen is not run again."""
        left = max(0.001, deadline - self._monotonic())  # a caller that has left wants no result
        remote = TaskRequest(
            f"{task.task_id[:80]}.{secrets.token_hex(6)}",
            task.description,
            task.skills,
            round(min(task.timeout or left, left, MAX_TASK_TIMEOUT), 3),
        )
        return await self._exchange(worker_id, remote, deadline)

    async def _exchange(self, worker_id: str, request: TaskRequest, deadline: float) -> TaskResultDict:
        """Post the task and wait for its result, a piece of time at a request."""
        worker = self._worker(worker_id)
        worker.state = WorkerState.BUSY
        worker.current_task = request.task_id
        try:
            status, body = await self._request(
                worker_id, "POST", "/task", request.to_json(), wait=self._chunk(deadline)
            )
            while status == 202:
                if self._monotonic() >= deadline:
                    return await self._give_up(worker_id, request)
                status, body = await self._get_result(worker_id, request.task_id, self._chunk(deadline))
        except TaskNotFound:
            raise WorkerUnreachable(worker_id, "it forgot the task, so it was restarted meanwhile") from None
        except asyncio.CancelledError:
            # Nobody waits for it any more; a worker that can't be told ends it by the task's own timeout.
            log.info("abandoned task=%s worker=%s", request.task_id, worker_id)
            raise
        if "success" not in body or "status" not in body:
            lost = WorkerUnreachable(worker_id, "it answered 200 with no task's result: no PiBot worker?")
            self._lost(worker, lost)
            raise lost
        return cast(TaskResultDict, body)

    async def _give_up(self, worker_id: str, request: TaskRequest) -> TaskResultDict:
        """End the task on the worker, whose time is up; the result is what it says of that."""
        status, body = await self._request(worker_id, "POST", f"/task/{request.task_id}/cancel", timeout=60.0)
        if status == 200 and body.get("status") == TaskState.CANCELLED.value:
            body["status"] = TaskState.TIMEOUT.value
            body["error"] = f"{worker_id} did not finish within the caller's timeout; the task was cancelled there"
        return cast(TaskResultDict, body)

    async def _get_result(self, worker_id: str, task_id: str, wait: int) -> tuple[int, dict[str, Any]]:
        return await self._request(worker_id, "GET", f"/task/{task_id}/result", wait=wait)

    def _chunk(self, deadline: float) -> int:
        return max(1, min(WAIT_CHUNK, int(deadline - self._monotonic())))

    # --- what each answer says of its worker ---

    async def _check(self, worker: _Worker) -> bool:
        try:
            _, body = await self._request(worker.address.worker_id, "GET", "/health", timeout=HEALTH_TIMEOUT)
        except (WorkerError, WorkerBusy, TaskNotFound):
            return False
        if body.get("status") != "healthy":
            self._lost(worker, WorkerUnreachable(worker.address.worker_id, f"it says {body.get('status')!r} of itself"))
            return False
        if not worker.reserved:
            worker.current_task = body.get("current_task")
            worker.state = WorkerState.IDLE if worker.current_task is None else WorkerState.BUSY
            worker.not_before = 0.0 if worker.current_task is None else self._monotonic() + BUSY_DELAY
        return True

    async def _request(
        self, worker_id: str, method: str, path: str, body: JsonObject | None = None, **limits: float
    ) -> tuple[int, JsonObject]:
        """One request to a worker, noting what it says of the worker's state; errors as the client's."""
        worker = self._worker(worker_id)
        try:
            status, answer = await self._client.request(worker.address, method, path, body, **limits)
        except WorkerUnreachable as exc:
            self._lost(worker, exc)
            raise
        except WorkerBusy:
            worker.seen(self._clock())
            worker.state = WorkerState.BUSY
            worker.not_before = self._monotonic() + BUSY_DELAY
            raise
        except WorkerRejected as exc:
            worker.seen(self._clock())
            worker.error = exc.problem
            raise
        except TaskNotFound:
            worker.seen(self._clock())
            raise
        worker.seen(self._clock())
        if worker.state is WorkerState.OFFLINE:
            worker.state = WorkerState.IDLE
        return status, answer

    def _parse(self, worker_id: str, body: Mapping[str, Any]) -> TaskResult:
        try:
            return TaskResult.from_json(body)
        except ContractError as exc:
            lost = WorkerUnreachable(worker_id, f"its result has not the agreed form: {exc}")
            self._lost(self._worker(worker_id), lost)
            raise lost from exc

    def _lost(self, worker: _Worker, exc: WorkerUnreachable) -> None:
        """Note that a worker did not answer; it is tried again after a growing delay."""
        if worker.state is not WorkerState.OFFLINE:
            event(log, "worker_offline", level=logging.WARNING, worker=worker.address.worker_id, error=exc.problem)
        worker.state = WorkerState.OFFLINE
        worker.error = exc.problem
        worker.failures += 1
        delay = min(MAX_OFFLINE_DELAY, OFFLINE_DELAY * 2 ** (worker.failures - 1))
        worker.not_before = self._monotonic() + delay

    def _worker(self, worker_id: str) -> _Worker:
        try:
            return self._workers[worker_id]
        except KeyError:
            raise WorkerUnreachable(worker_id, "it is none of this master's workers any more") from None


def create_default_worker_pool(environ: Mapping[str, str] | None = None) -> WorkerPool:
    """The pool of ``WORKER_1_IP`` … ``WORKER_n_IP`` (and their ``_PORT``), with ``PIBOT_API_KEY``.

    Args:
        environ: the environment; the process's own by default.

    Raises:
        SettingsError: a variable does not fit; it is named.
    """
    settings = Settings.load(environ)
    return WorkerPool(settings.workers, api_key=settings.api_key)


def _no_result(task_id: str, state: TaskState, problems: list[str]) -> TaskResultDict:
    return TaskResult(task_id, None, state, error="; ".join(problems)).to_json()
