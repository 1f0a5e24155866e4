"""What becomes of a task whose worker fell silent: nobody waits for it, but what it comes to is kept as evidence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import replace
from typing import Callable, Protocol

from pibot.contracts import TaskResult
from pibot.errors import LeaseLost, StoreError, TaskNotFound, WorkerBusy, WorkerError
from pibot.logs import event
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Lease
from pibot.master_components.store.thread import StoreThread

log = logging.getLogger("pibot.dispatcher")

ASK_AGAIN = 1.0
MAX_ASK_AGAIN = 30.0
"""Seconds until a silent worker is asked again: the first, doubled each time, to the second."""

TRIES = 40
"""How often: about a quarter of an hour, then the worker's own timeout has ended the task."""

LAST_CHANCE = 2.0
"""Seconds that a worker which is back gets to end the task before it is cancelled there."""


class Pool(Protocol):
    """The workers."""

    async def fetch_result(self, worker_id: str, task_id: str, *, wait: float = 0) -> TaskResult | None: ...

    async def cancel(self, worker_id: str, task_id: str) -> None: ...


class LateResults:
    """Asks workers that have lost their lease.

    Args:
        store: the jobs.
        on_disk: where the store's calls are made.
        pool: the workers.
        sleep: waits some seconds.
    """

    def __init__(
        self, store: JobStore, on_disk: StoreThread, pool: Pool, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._store = store
        self._on_disk = on_disk
        self._pool = pool
        self._sleep = sleep
        self._asking: set[asyncio.Task[None]] = set()

    def expect(self, lease: Lease) -> None:
        """Ask the lease's worker from time to time; what still runs there when it answers is cancelled."""
        asking = asyncio.ensure_future(self._ask(lease))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)

    async def stop(self) -> None:
        """Ask no more."""
        asking = list(self._asking)
        for task in asking:
            task.cancel()
        if asking:
            await asyncio.wait(asking)

    async def _ask(self, lease: Lease) -> None:
        pause = ASK_AGAIN
        for _ in range(TRIES):
            await self._sleep(pause)
            pause = min(MAX_ASK_AGAIN, pause * 2)
            try:
                result = await self._pool.fetch_result(lease.worker_id, lease.remote_id, wait=LAST_CHANCE)
                if result is None:
                    await self._pool.cancel(lease.worker_id, lease.remote_id)
                    result = await self._pool.fetch_result(lease.worker_id, lease.remote_id)
                if result is not None:
                    await self._keep(lease, result)
                    return
            except TaskNotFound:
                return  # it was restarted, and knows nothing any more
            except (WorkerError, WorkerBusy) as exc:
                log.info("still_silent task=%s worker=%s error=%s", lease.remote_id, lease.worker_id, exc)

    async def _keep(self, lease: Lease, result: TaskResult) -> None:
        try:
            await self._on_disk(self._store.complete, lease, replace(result, task_id=lease.task_id))
        except LeaseLost:
            event(log, "late_result", task=lease.remote_id, worker=lease.worker_id, status=result.state.value)
        except StoreError as exc:
            event(log, "late_result_lost", level=logging.WARNING, task=lease.remote_id, error=str(exc))
