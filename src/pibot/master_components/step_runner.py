"""Brings one subtask to its end: a worker, a lease, an attempt, and another where that came to nothing."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Collection
from dataclasses import dataclass, replace
from typing import Callable, Protocol

from pibot.contracts import SubTask, TaskRequest, TaskResult, TaskState
from pibot.errors import LeaseLost, NoWorkers, StoreError, WorkerBusy, WorkerError, WorkerUnreachable
from pibot.logs import event
from pibot.master_components.job_store import JobStore
from pibot.master_components.records import Lease, SubtaskRecord
from pibot.master_components.states import MAX_ATTEMPTS
from pibot.master_components.store_thread import StoreThread

log = logging.getLogger("pibot.dispatcher")

ATTEMPTS = MAX_ATTEMPTS

LEASE_SECONDS = 60.0
"""A lease lasts this long without a sign of life: twice what the pool waits for a worker's answer, and Wi-Fi drops."""

BACKOFF = 1.0
MAX_BACKOFF = 30.0
"""Seconds before another attempt: the first, doubled at each one, to the second; each shortened by up to a half."""

SUBTASK_SECONDS = 300.0
"""Seconds for a subtask that names no timeout of its own."""

WORKER_MARGIN = 15.0
"""Seconds beyond its timeout in which a worker has to say that it is over."""


class Pool(Protocol):
    """The workers."""

    async def acquire(self, timeout: float | None, *, avoid: Collection[str] = ()) -> str: ...

    def release(self, worker_id: str) -> None: ...

    async def run_on(self, worker_id: str, request: TaskRequest, *, timeout: float) -> TaskResult: ...

    async def cancel(self, worker_id: str, task_id: str) -> None: ...


@dataclass(frozen=True)
class Timing:
    """How long the dispatcher waits for what.

    Args:
        lease: seconds.
        backoff: seconds before the second attempt.
        no_worker: seconds that a subtask waits for a free worker before it fails; None for ever.
        sleep: waits some seconds.
        jitter: a number from 0 to 1.
    """

    lease: float = LEASE_SECONDS
    backoff: float = BACKOFF
    no_worker: float | None = None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random


class StepRunner:
    """Runs subtasks on workers; what it knows is in the store.

    Args:
        store: the jobs.
        on_disk: where the store's calls are made.
        pool: the workers.
        timing: how long it waits for what.
    """

    def __init__(self, store: JobStore, on_disk: StoreThread, pool: Pool, timing: Timing) -> None:
        self._store = store
        self._on_disk = on_disk
        self._pool = pool
        self._timing = timing
        self.leave_running = False
        """Set when the hub stops: tasks are not cancelled on their workers then."""

    async def run(self, job_id: str, subtask: SubTask, record: SubtaskRecord, *, finish_job: bool) -> None:
        """Run one subtask to its end, with as many attempts as it gets.

        Args:
            job_id, subtask, record: the subtask, its description with the results that it needs, and as it is stored.
            finish_job: end the job with the subtask's result too, because it has no other.

        A lease found in the store is from before a restart: the same task is sent to the same worker again, which
        answers with the result that it has, goes on with what it runs, or begins anew where it has forgotten it.
        """
        tried = [attempt.worker_id for attempt in record.attempts]
        lease = record.lease
        reserved = False
        while True:
            if lease is None:
                lease = await self._take_lease(job_id, subtask.task_id, tried)
                if lease is None:
                    return
                reserved = True
            try:
                wait = await self._attempt(lease, subtask, finish_job=finish_job)
            finally:
                if reserved:
                    self._pool.release(lease.worker_id)
            if wait is None:
                return
            if wait:
                tried.append(lease.worker_id)
                await self._timing.sleep(wait)
            lease = None

    async def _take_lease(self, job_id: str, task_id: str, tried: Collection[str]) -> Lease | None:
        """Reserve a free worker and lease the subtask to it; None where none was to be had and the subtask failed."""
        try:
            worker_id = await self._pool.acquire(self._timing.no_worker, avoid=tried)
        except NoWorkers as exc:
            reason = str(exc)
        except asyncio.TimeoutError:
            reason = f"no worker came free within {self._timing.no_worker:g} seconds"
        else:
            try:
                return await self._on_disk(self._store.lease, job_id, task_id, worker_id, self._timing.lease)
            except BaseException:
                self._pool.release(worker_id)
                raise
        await self._on_disk(self._store.give_up, job_id, task_id, reason)
        return None

    async def _attempt(self, lease: Lease, subtask: SubTask, *, finish_job: bool) -> float | None:
        """Run the subtask on the lease's worker and record what came of it.

        Returns:
            Seconds until another attempt; None where the subtask has ended.
        """
        beat = asyncio.ensure_future(self._keep(lease))
        try:
            result = await self._run_remotely(lease, subtask)
            await self._on_disk(lambda: self._store.complete(lease, result, finish_job=finish_job))
        except WorkerBusy:
            await self._on_disk(lambda: self._store.fail_attempt(lease, "busy", final=False, count=False))
            return 0.0
        except WorkerError as exc:
            reason, final = str(exc), lease.attempt >= ATTEMPTS
            await self._on_disk(lambda: self._store.fail_attempt(lease, reason, final=final))
            event(log, "attempt_failed", job=lease.job_id, task=lease.task_id, worker=lease.worker_id, error=reason)
            return None if final else self._backoff(lease.attempt)
        except LeaseLost as exc:
            event(log, "lease_lost", level=logging.WARNING, error=str(exc))
        finally:
            beat.cancel()
        return None

    async def _run_remotely(self, lease: Lease, subtask: SubTask) -> TaskResult:
        seconds = subtask.timeout or SUBTASK_SECONDS
        request = TaskRequest(lease.remote_id, subtask.description, tuple(subtask.skills), seconds)
        try:
            result = await self._pool.run_on(lease.worker_id, request, timeout=seconds + WORKER_MARGIN)
        except asyncio.CancelledError:
            if not self.leave_running:  # a hub that is started again takes the task up where it is
                await self.cancel_remotely(lease)
            raise
        if result.state is TaskState.CANCELLED:
            # Not by this hub: the worker was stopped, or somebody cancelled the task there.
            raise WorkerUnreachable(lease.worker_id, result.error or "the task was cancelled there")
        return replace(result, task_id=subtask.task_id)

    async def cancel_remotely(self, lease: Lease) -> None:
        """End a lease's task on its worker; one that can't be reached ends it by the task's own timeout."""
        try:
            await self._pool.cancel(lease.worker_id, lease.remote_id)
        except (WorkerError, WorkerBusy) as exc:
            event(log, "cancel_failed", level=logging.WARNING, task=lease.remote_id, error=str(exc))

    async def _keep(self, lease: Lease) -> None:
        """Renew the lease for as long as its worker is being waited for."""
        while True:
            await self._timing.sleep(self._timing.lease / 3)
            try:
                await self._on_disk(self._store.renew, lease, self._timing.lease)
            except StoreError as exc:
                event(log, "lease_not_renewed", level=logging.WARNING, task=lease.remote_id, error=str(exc))

    def _backoff(self, attempt: int) -> float:
        full = min(MAX_BACKOFF, self._timing.backoff * 2 ** (attempt - 1))
        return float(full * (1 - self._timing.jitter() / 2))
