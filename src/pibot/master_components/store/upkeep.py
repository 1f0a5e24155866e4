"""What the job store needs done now and then: old jobs forgotten, the running time noted, a good copy kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Callable

from pibot.errors import StoreError
from pibot.logs import event
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.states import UNFINISHED_JOBS
from pibot.master_components.store.thread import StoreThread

log = logging.getLogger("pibot.store")

EVERY = 10.0
"""Seconds between two looks, and so what the time of an unfinished job goes back by when its hub is killed."""

LOOKS_AN_HOUR = 360
"""Once an hour the time is noted though nothing waits, so that an idle hub hardly writes to its SD card, and a copy is
made where the last one is a day old."""

BATCH = 20
"""Jobs that are forgotten at once; in between, others get at the file."""


class Upkeep:
    """Looks after one store from :meth:`run` until it is cancelled and closed.

    Args:
        store: the jobs.
        keep_jobs: how many ended ones are kept.
        keep_seconds: how long an ended one is kept.
        sleep: waits some seconds.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        keep_jobs: int,
        keep_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._keep_jobs = keep_jobs
        self._keep_seconds = keep_seconds
        self._sleep = sleep
        self._on_disk = StoreThread()

    async def run(self) -> None:
        """Look now, and then every :data:`EVERY` seconds."""
        looks = 0
        while True:
            try:
                await self._look(hourly=looks % LOOKS_AN_HOUR == 0)
            except StoreError as exc:  # the next look may go better
                event(log, "no_upkeep", level=logging.ERROR, error=str(exc))
            except Exception:  # a defect must not let the file grow for ever
                log.exception("upkeep_broke")
            looks += 1
            await self._sleep(EVERY)

    def close(self) -> None:
        """End its thread, once what it does is done."""
        self._on_disk.close()

    async def _look(self, *, hourly: bool) -> None:
        forgotten = 0
        while True:
            some = await self._on_disk.once(self._forget_some)
            forgotten += some
            if some < BATCH:
                break
        if forgotten:
            event(log, "jobs_pruned", number=forgotten)
        counts = await self._on_disk.once(self._store.queries.counts)
        # Another write after one that failed also finds out whether there is room again.
        if hourly or self._store.trouble or any(counts[state] for state in UNFINISHED_JOBS):
            await self._on_disk.once(self._store.keep_time)
        if hourly:
            await self._on_disk.once(self._store.accounts.prune)
            await self._on_disk.once(self._store.keep_good_copy)

    def _forget_some(self) -> int:
        return self._store.prune(keep_seconds=self._keep_seconds, keep_jobs=self._keep_jobs, limit=BATCH)
