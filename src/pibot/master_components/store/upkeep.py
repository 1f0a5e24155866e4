"""Keeps the job store in order: deletes old jobs, stores the running time, keeps a good copy."""

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
"""Seconds between two rounds. When a hub is killed, an unfinished job's time goes back by up to so much."""

ROUNDS_AN_HOUR = 360
"""An idle hub stores the running time, and makes a copy if the last is a day old, only once an hour, to spare the SD
card."""

BATCH = 20
"""How many jobs one transaction deletes. Between two of them, others can use the file."""


class Upkeep:
    """Does the upkeep of one store. Cancel :meth:`run`, then call :meth:`close`, to end it.

    Args:
        store: the jobs.
        keep_jobs: how many ended jobs are kept.
        keep_seconds: how many seconds an ended job is kept.
        keep_bytes: how many bytes of ended jobs are kept; None for any number.
        sleep: waits some seconds.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        keep_jobs: int,
        keep_seconds: float,
        keep_bytes: int | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._keep_jobs = keep_jobs
        self._keep_seconds = keep_seconds
        self._keep_bytes = keep_bytes
        self._sleep = sleep
        self._on_disk = StoreThread()

    async def run(self) -> None:
        """Do a round now, and then every :data:`EVERY` seconds."""
        rounds = 0
        while True:
            try:
                await self._round(hourly=rounds % ROUNDS_AN_HOUR == 0)
            except StoreError as exc:  # the next round may succeed
                event(log, "no_upkeep", level=logging.ERROR, error=str(exc))
            except Exception:  # a defect must not let the file grow for ever
                log.exception("upkeep_broke")
            rounds += 1
            await self._sleep(EVERY)

    def close(self) -> None:
        """Finish what the upkeep's thread does now, and end the thread."""
        self._on_disk.close()

    async def _round(self, *, hourly: bool) -> None:
        pruned = 0
        while True:
            some = await self._on_disk.once(self._prune_some)
            pruned += some
            if some < BATCH:
                break
        if pruned:
            event(log, "jobs_pruned", number=pruned)
        counts = await self._on_disk.once(self._store.queries.counts)
        # After a failed write, this write finds out whether the disk has room again.
        if hourly or self._store.trouble or any(counts[state] for state in UNFINISHED_JOBS):
            await self._on_disk.once(self._store.keep_time)
        if hourly:
            await self._on_disk.once(self._store.accounts.prune)
            await self._on_disk.once(self._store.keep_good_copy)

    def _prune_some(self) -> int:
        return self._store.limits.prune(
            keep_seconds=self._keep_seconds, keep_jobs=self._keep_jobs, keep_bytes=self._keep_bytes, limit=BATCH
        )
