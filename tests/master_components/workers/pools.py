"""A worker pool for one test."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable

from pibot.contracts import WorkerAddress
from pibot.master_components.workers.client import WorkerClient, WorkerKeys
from pibot.master_components.workers.pool import WorkerPool
from pibot.settings import Secret


@contextlib.asynccontextmanager
async def pool_of(addresses: Iterable[WorkerAddress], key: str | None = None) -> AsyncIterator[WorkerPool]:
    """Create a pool of these workers, which are sent ``key``."""
    pool = WorkerPool(addresses, WorkerClient(WorkerKeys(None if key is None else Secret(key))))
    try:
        yield pool
    finally:
        await pool.close()


def unreached(*numbers: int) -> list[WorkerAddress]:
    """Return addresses of workers that the test sends no request to."""
    return [WorkerAddress(f"worker-{number}", "127.0.0.1", 1) for number in numbers]
