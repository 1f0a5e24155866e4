"""Collects the results of tasks whose worker fell silent. No step waits for them; they are kept as evidence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import replace
from typing import Callable

from pibot.contracts import TaskResult
from pibot.errors import LeaseLost, StoreError, TaskNotFound, WorkerBusy, WorkerError
from pibot.logs import event
from pibot.master_components.dispatch.protocols import ResultSource
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Lease
from pibot.master_components.store.thread import StoreThread

log = logging.getLogger("pibot.dispatcher")

ASK_AGAIN = 1.0
MAX_ASK_AGAIN = 30.0
"""Seconds before a silent worker is first asked again, and the most between two questions. Each question doubles it."""

TRIES = 40
"""How often a silent worker is asked: for about 18 minutes. By then its own timeout has ended the task."""

LAST_CHANCE = 2.0
"""Seconds that a worker which is back gets to end the task before the task is cancelled (docs/decisions.md, D29)."""


class LateResults:
    """Asks workers that lost a lease what became of its task.

    Args:
        store: the jobs.
        on_disk: runs the store's calls.
        pool: the workers.
        sleep: waits some seconds.
    """

    def __init__(
        self, store: JobStore, on_disk: StoreThread, pool: ResultSource, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._store = store
        self._on_disk = on_disk
        self._pool = pool
        self._sleep = sleep
        self._asking: set[asyncio.Task[None]] = set()

    def expect(self, lease: Lease) -> None:
        """Ask the lease's worker in the background until it answers; a task that still runs there is cancelled."""
        asking = asyncio.ensure_future(self._ask(lease))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)

    async def stop(self) -> None:
        """Stop asking."""
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
                return  # the worker was restarted and has forgotten the task
            except (WorkerError, WorkerBusy) as exc:
                log.info("still_silent task=%s worker=%s error=%s", lease.remote_id, lease.worker_id, exc)

    async def _keep(self, lease: Lease, result: TaskResult) -> None:
        try:
            await self._on_disk(self._store.leases.complete, lease, replace(result, task_id=lease.task_id))
        except LeaseLost:  # as expected: the store keeps the result with the attempt
            event(log, "late_result", task=lease.remote_id, worker=lease.worker_id, status=result.state.value)
        except StoreError as exc:
            event(log, "late_result_lost", level=logging.WARNING, task=lease.remote_id, error=str(exc))
