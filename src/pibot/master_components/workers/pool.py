"""The worker pool: knows the master's workers, reserves them for tasks, and runs one task at a time on each."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Collection, Iterable
from typing import Callable

from pibot.contracts import (
    Clock,
    Decision,
    Fault,
    NoWorkerReason,
    TaskResult,
    WorkerAddress,
    WorkerState,
    WorkerStatus,
)
from pibot.errors import ImpossibleAnswer, TaskNotFound, WorkerRejected, WorkerUnreachable
from pibot.logs import event
from pibot.master_components.workers.client import WorkerClient, WorkerHttp, WorkerKeys, max_answer
from pibot.master_components.workers.exchange import CANCEL_TIMEOUT, Exchange, ExchangeTerms, parse_result
from pibot.master_components.workers.placement import MEGABYTE, FitnessLimits
from pibot.master_components.workers.queue import QueueKey, WorkerQueue
from pibot.master_components.workers.record import WorkerRecord
from pibot.master_components.workers.requests import CHECK_TIMEOUT, WorkerRequests
from pibot.settings import Settings
from pibot.tls import client_tls

log = logging.getLogger("pibot.pool")

POLLS_AT_ONCE = 64
"""Workers that the health poll asks at the same time."""

SILENT = 15.0
"""Seconds without a sign of life after which cancelling a task does not wait long for its worker."""

FIRST: QueueKey = (0.0, 0.0)


class WorkerPool:
    """Reserves workers and runs tasks on them. Create it anywhere; use it within one event loop.

    Args:
        workers: the workers known from the start.
        http: sends the requests; a :class:`WorkerClient` without a key by default.
        limits: when a worker is unfit.
        clock: seconds since the epoch, for what is shown.
        monotonic: seconds, for delays and deadlines.
        sleep: waits some seconds.
        jitter: returns a number from 0 to 1.

    Attributes:
        queue: the tasks that wait for a worker.
    """

    def __init__(
        self,
        workers: Iterable[WorkerAddress],
        http: WorkerHttp | None = None,
        *,
        limits: FitnessLimits | None = None,
        clock: Clock = time.time,
        monotonic: Clock = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._jitter = jitter
        self.queue = WorkerQueue(workers, monotonic)
        self._workers = self.queue.workers
        self._http: WorkerHttp = http or WorkerClient()
        self._requests = WorkerRequests(self._workers, self._http, limits or FitnessLimits(), clock, monotonic)

    async def close(self) -> None:
        """Close the connections. Calling it twice is fine."""
        self.queue.close()
        await self._http.close()

    # --- what is known of the workers ---

    def statuses(self) -> tuple[WorkerStatus, ...]:
        """Return what is known of each worker, in the order they joined. May be called from any thread."""
        now = self._monotonic()
        return tuple(worker.status(now) for worker in list(self._workers.values()))

    def why_none(self, skills: Collection[str] = ()) -> NoWorkerReason:
        """Return why no worker runs a task with these skills now. May be called from any thread."""
        return self.queue.why_none(skills)

    def has_candidate(self, skills: Collection[str] = (), avoid: Collection[str] = ()) -> bool:
        """Return whether a worker can be expected to run a task with these skills once it is free.

        Args:
            avoid: workers that do not count.
        """
        return self.queue.has_candidate(skills, avoid)

    def knows_another(self, skills: Collection[str], tried: Collection[str]) -> bool:
        """Return whether the fleet has another worker for such a task, be it offline, unfit or set aside now.

        Args:
            tried: workers that do not count.
        """
        return self.queue.knows_another(skills, tried)

    def silence(self, worker_id: str) -> float:
        """Return the seconds since a worker's last sign of life."""
        worker = self._workers.get(worker_id)
        return float("inf") if worker is None else self._monotonic() - worker.last_answer

    async def poll(self) -> None:
        """Poll every worker's health: its memory, temperature, load and skills decide what it gets."""
        turn = asyncio.Semaphore(POLLS_AT_ONCE)

        async def poll(worker_id: str) -> None:
            async with turn:
                try:
                    await self._requests.poll(worker_id)
                except Exception:  # a defect that one worker's answer meets must not end the poll of the others
                    log.exception("poll_broke worker=%s", worker_id)
                self.queue.serve()  # at once: a worker that answers late holds up no task

        await asyncio.gather(*(poll(name) for name in list(self._workers)))

    async def check_health(self) -> dict[str, bool]:
        """Ask every worker's ``/health`` at once, and return which of them are healthy."""
        names = list(self._workers)
        healthy = await asyncio.gather(*(self._requests.check_health(name) for name in names))
        self.queue.serve()
        return dict(zip(names, healthy))

    # --- joining and leaving ---

    async def prove(self, address: WorkerAddress, join: str) -> bool:
        """Return whether an address shows that it knows its worker's key, without being sent it.

        Args:
            join: the id that the worker sent with its registration.
        """
        return await self._http.prove(address, join)

    def join(self, address: WorkerAddress, *, registered: bool) -> None:
        """Add a worker, or note that a known one is back or has another address.

        Args:
            registered: it registered by itself, so it is removed when it leaves.
        """
        known = self._workers.get(address.worker_id)
        if known is None:
            self.queue.add(WorkerRecord(address, self._monotonic(), registered=registered))
            event(log, "worker_joined", worker=address.worker_id, url=address.url)
            return
        known.leaving = False
        if known.state is WorkerState.OFFLINE and not known.reserved:
            known.answered(self._clock(), self._monotonic())
            known.idle()
        if known.address != address:
            known.address = address
            event(log, "worker_moved", worker=address.worker_id, url=address.url)
        self.queue.serve()

    def leave(self, worker_id: str) -> None:
        """Give a worker no new task. One that registered by itself is removed once its task has ended.

        Raises:
            WorkerUnreachable: the pool has no worker of that id.
        """
        worker = self._requests.record(worker_id)
        worker.leaving = True
        if worker.registered and not worker.reserved:
            self.queue.remove(worker_id)
        event(log, "worker_leaves", worker=worker_id)

    def drain(self, worker_id: str, drained: bool = True) -> None:
        """Give a worker no new task until this is called with False.

        Raises:
            WorkerUnreachable: the pool has no worker of that id.
        """
        worker = self._requests.record(worker_id)
        worker.drained = drained
        if not drained:
            worker.leaving = False
        event(log, "worker_drained" if drained else "worker_undrained", worker=worker_id)
        self.queue.serve()

    # --- reserving a worker ---

    async def acquire(
        self,
        timeout: float | None,
        *,
        avoid: Collection[str] = (),
        skills: Collection[str] = (),
        queue_key: QueueKey = FIRST,
    ) -> str:
        """Reserve a free worker and return its id; :meth:`release` ends the reservation.

        Of the free workers that are fit and have the skills, the least burdened is taken, and among equals the longest
        idle. Of the waiting tasks, the one with the smallest key is served first, then the one that came first.

        Args:
            timeout: seconds to wait for a worker; None to wait for ever.
            avoid: workers to take only if no other can be expected to run the task soon.
            skills: the skills that the task needs.
            queue_key: the job's priority, negated, and when the job was accepted.

        Raises:
            NoWorkers: the pool has never known a worker.
            asyncio.TimeoutError: no worker became free in time.
        """
        return await self.queue.acquire(timeout, avoid, skills, queue_key)

    def reserve(self, worker_id: str) -> bool:
        """Reserve one worker out of turn, because it has a task already. Returns False if it is not free or unknown."""
        return self.queue.reserve(worker_id)

    def release(self, worker_id: str) -> None:
        """End the reservation of a worker that :meth:`acquire` or :meth:`reserve` made."""
        self.queue.release(worker_id)

    # --- one task on one worker ---

    async def run_on(self, worker_id: str, terms: ExchangeTerms) -> TaskResult:
        """Run a task on a reserved worker and return its result.

        A worker that loses its task counts as failing; see :meth:`task_lost`. One whose result names its own fault is
        set aside at once.

        Raises:
            WorkerBusy: the worker runs another task.
            WorkerNotReached: the task did not reach it.
            ImpossibleAnswer: its answer can't be right.
            WorkerUnreachable: it gave no sign of life, or forgot the task.
            WorkerRejected: it refused the task.
        """
        worker = self._requests.record(worker_id)
        was_online = worker.state is not WorkerState.OFFLINE
        exchange = Exchange(
            self._requests, worker_id, terms, monotonic=self._monotonic, sleep=self._sleep, jitter=self._jitter
        )
        try:
            result = await exchange.run()
        except asyncio.CancelledError:
            # Nobody waits for the result any more. A worker that can't be told ends the task by its own timeout.
            log.info("abandoned task=%s worker=%s", terms.request.task_id, worker_id)
            raise
        except WorkerUnreachable as exc:
            if was_online or isinstance(exc, ImpossibleAnswer):  # one that was offline already is delayed for that
                self.task_lost(worker_id, exc.problem)
            raise
        except WorkerRejected as exc:
            if exc.status not in (400, 413):  # these are the task's fault
                self.task_lost(worker_id, exc.problem)
            raise
        if result.fault is None:
            worker.breaker.succeeded()
        elif result.fault is not Fault.MODEL:  # whether the provider is away, or only for this worker, dispatch decides
            self.cannot_work(worker_id, result.error or "it says that it can't do its tasks")
        return result

    async def fetch_result(self, worker_id: str, task_id: str, *, wait: float = 0) -> TaskResult | None:
        """Ask a worker for a task's result; return None if the task still runs after ``wait`` seconds.

        Raises:
            TaskNotFound: the worker does not know the task.
            WorkerUnreachable: it did not answer.
            WorkerRejected: it refused to answer.
        """
        status, body = await self._requests.request(worker_id, "GET", f"/task/{task_id}/result", wait=int(wait))
        return parse_result(self._requests, worker_id, task_id, body) if status == 200 else None

    async def cancel(self, worker_id: str, task_id: str) -> None:
        """End a task on its worker. A task that the worker does not know counts as ended.

        Raises:
            WorkerUnreachable: the worker did not answer.
            WorkerRejected: it refused.
        """
        timeout = CANCEL_TIMEOUT if self.silence(worker_id) < SILENT else CHECK_TIMEOUT
        try:
            await self._requests.request(worker_id, "POST", f"/task/{task_id}/cancel", timeout=timeout)
        except TaskNotFound:
            log.info("cancelled task=%s worker=%s was not known there", task_id, worker_id)

    async def decide(self, worker_id: str, task_id: str, call_id: str, decision: Decision) -> None:
        """Send a worker the owner's decision on a tool call that waits there.

        Raises:
            TaskNotFound: the worker does not know the task, or no such call of it.
            WorkerUnreachable: it did not answer.
            WorkerRejected: with 409 or 410, the call does not wait there any more, or is another.
        """
        path = f"/task/{task_id}/approvals/{call_id}"
        await self._requests.request(worker_id, "POST", path, decision.to_json(), timeout=CHECK_TIMEOUT)

    def task_lost(self, worker_id: str, reason: str) -> None:
        """Note that a worker lost its task. One that loses several in a row is set aside for a growing time."""
        worker = self._workers.get(worker_id)
        if worker is not None and worker.lost_task(reason, self._clock(), self._monotonic()):
            event(log, "worker_set_aside", level=logging.WARNING, worker=worker_id, error=reason)

    def cannot_work(self, worker_id: str, reason: str, seconds: float | None = None) -> None:
        """Set a worker aside at once: it says that it can't do its tasks, and why.

        Args:
            seconds: for how long at least; None for the breaker's own time.
        """
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.cannot_work(reason, self._clock(), self._monotonic(), seconds or 0.0)
            event(log, "worker_set_aside", level=logging.WARNING, worker=worker_id, error=reason)


def create_worker_pool(settings: Settings, clock: Clock = time.time) -> WorkerPool:
    """Create the pool that the settings describe.

    Args:
        clock: seconds since the epoch, for what is shown.

    Raises:
        SettingsError: a file of PIBOT_TLS_… can't be used.
    """
    return WorkerPool(
        settings.workers,
        WorkerClient(
            WorkerKeys.of(settings),
            client_tls(settings),
            most_bytes=max_answer(settings.budget.max_output_chars),
        ),
        limits=FitnessLimits(settings.hot_celsius, settings.min_memory_mb * MEGABYTE),
        clock=clock,
    )
