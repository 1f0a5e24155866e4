"""Renews a lease for as long as its worker gives signs of life."""

from __future__ import annotations

import logging

from pibot.errors import StoreError
from pibot.logs import event
from pibot.master_components.dispatch.protocols import StepPool
from pibot.master_components.dispatch.timing import DispatchTiming
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Lease
from pibot.master_components.store.thread import StoreThread

log = logging.getLogger("pibot.dispatcher")


class Heartbeat:
    """Renews leases while their workers are heard from.

    Args:
        store: the jobs.
        on_disk: runs the store's calls.
        pool: knows how long each worker has been silent.
        timing: the lease's length, and the clock.
    """

    def __init__(self, store: JobStore, on_disk: StoreThread, pool: StepPool, timing: DispatchTiming) -> None:
        self._store = store
        self._on_disk = on_disk
        self._pool = pool
        self._timing = timing

    async def keep(self, lease: Lease) -> None:
        """Renew a lease until its worker has been silent for the lease's whole length (docs/decisions.md, D26)."""
        monotonic, seconds = self._timing.monotonic, self._timing.lease
        held_since = monotonic()
        while True:
            silence = min(self._pool.silence(lease.worker_id), monotonic() - held_since)
            if silence >= seconds:
                return
            pause, before = min(self._timing.heartbeat, seconds - silence), monotonic()
            await self._timing.sleep(pause)
            if monotonic() - before > pause + self._timing.heartbeat:
                held_since = monotonic()  # this process was suspended, and could not hear the worker
            left = seconds - self._pool.silence(lease.worker_id)
            if left > 0:
                await self._renew(lease, left)

    async def _renew(self, lease: Lease, seconds: float) -> None:
        try:
            await self._on_disk.once(self._store.leases.renew, lease, seconds)
        except StoreError as exc:  # the next beat tries again
            event(log, "lease_not_renewed", level=logging.WARNING, task=lease.remote_id, error=str(exc))
