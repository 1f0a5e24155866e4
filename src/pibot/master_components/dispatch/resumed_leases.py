"""Leases from before a restart, and the workers that are kept free for them."""

from __future__ import annotations

from collections.abc import Sequence

from pibot.master_components.dispatch.protocols import StepPool
from pibot.master_components.store.records import Lease


class ResumedLeases:
    """Reserves the workers of old leases, so that they get no other task until their step is resumed.

    Args:
        pool: the workers.
    """

    def __init__(self, pool: StepPool) -> None:
        self._pool = pool
        self._not_resumed: dict[str, Lease] = {}  # by token
        self._reserved: set[str] = set()  # tokens of the leases whose worker is reserved here

    def keep(self, leases: Sequence[Lease]) -> None:
        """Reserve the workers of leases that the last hub left."""
        for lease in leases:
            self._not_resumed[lease.token] = lease
            self._reserve(lease)

    def resume(self, lease: Lease) -> None:
        """Take a lease up: its step runs from now on. Reserves its worker if that is not done yet."""
        self._not_resumed.pop(lease.token, None)
        if lease.token not in self._reserved:
            self._reserve(lease)

    def release(self, lease: Lease) -> None:
        """Give back the worker of a lease."""
        self._not_resumed.pop(lease.token, None)
        if lease.token in self._reserved:
            self._reserved.discard(lease.token)
            self._pool.release(lease.worker_id)

    def not_resumed(self, job_id: str) -> list[Lease]:
        """List the leases of a job that no step has resumed."""
        return [lease for lease in self._not_resumed.values() if lease.job_id == job_id]

    def _reserve(self, lease: Lease) -> None:
        if self._pool.reserve(lease.worker_id):
            self._reserved.add(lease.token)
