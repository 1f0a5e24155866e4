"""Poll the workers' health every few seconds, and record which worker went offline, became unfit or recovered."""

from __future__ import annotations

import asyncio
import logging

from pibot.contracts import WorkerState, WorkerStatus
from pibot.errors import StoreError
from pibot.logs import event
from pibot.master_components import JobStore
from pibot.master_components.workers.pool import WorkerPool

log = logging.getLogger("pibot.hub")

POLL_SECONDS = 5.0
"""Seconds between two health polls. The dashboard shows what the last one found."""


class HealthPolls:
    """Keeps what the pool knows of its workers up to date. Used within one event loop.

    Args:
        pool: the workers.
        store: gets an event for each change, for *Recent activity*.
        every: seconds between two polls.
    """

    def __init__(self, pool: WorkerPool, store: JobStore, *, every: float = POLL_SECONDS) -> None:
        self._pool = pool
        self._store = store
        self._every = every
        self._conditions: dict[str, tuple[str, str]] = {}  # of the workers that changed at least once

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            try:
                await self.poll()
            except Exception:  # a defect must not leave the dashboard with old states
                log.exception("health_poll_broke")
            await asyncio.sleep(self._every)

    async def poll(self) -> None:
        """Ask each worker for its health once, and record the changes."""
        await self._pool.poll()
        statuses = self._pool.statuses()
        for gone in self._conditions.keys() - {status.address.worker_id for status in statuses}:
            del self._conditions[gone]
        for status in statuses:
            name = status.address.worker_id
            before, now = self._conditions.get(name, _WELL), _condition(status)
            if now[0] == before[0]:
                continue
            self._conditions[name] = now
            kind = now[0] or ("worker_online" if before[0] == "worker_offline" else "worker_well")
            try:
                await asyncio.to_thread(self._store.note, kind, worker_id=name, message=now[1])
            except StoreError as exc:
                event(log, "not_noted", level=logging.ERROR, worker=name, error=str(exc))


_WELL = ("", "")


def _condition(status: WorkerStatus) -> tuple[str, str]:
    """The kind of event that tells of a worker's condition, and the reason; both empty for a healthy worker."""
    if status.state is WorkerState.OFFLINE:
        return "worker_offline", status.error or ""
    if status.set_aside_until is not None:
        return "worker_resting", f"set aside: {status.error or 'it lost several tasks'}"
    return ("worker_resting", status.unfit) if status.unfit else _WELL
