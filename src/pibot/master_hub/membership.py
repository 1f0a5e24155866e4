"""Workers that come, leave and are drained while the hub runs. Methods may be called from any thread but the loop's."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Callable

from pibot.background import BackgroundLoop
from pibot.contracts import WorkerAddress, WorkerState, WorkerStatus
from pibot.errors import UnknownWorker, WorkerConflict
from pibot.master_components import WorkerPool
from pibot.master_hub.roster import Roster

MAX_REGISTERED = 500
"""Each is asked every few seconds how it is, and kept until it leaves: a defect somewhere must not fill the fleet."""


class Membership:
    """Who belongs to the fleet.

    Args:
        pool: the workers.
        loop: the pool's.
        path: where those that came by themselves and those that are drained are kept.

    Raises:
        StoreError: what was kept can't be read.
    """

    def __init__(self, pool: WorkerPool, loop: BackgroundLoop, path: Path) -> None:
        self._pool = pool
        self._loop = loop
        self._path = path
        self._lock = threading.Lock()  # one change at a time, so that the file holds the last one
        self._kept = Roster.load(path)
        self._drained = set(self._kept.drained)
        for address in self._kept.registered:
            if address.worker_id not in self._known():
                pool.join(address, registered=True)
        for worker_id in self._drained & set(self._known()):
            pool.drain(worker_id)

    def join(self, address: WorkerAddress) -> None:
        """Take a worker in that came by itself, or came back.

        Raises:
            WorkerConflict: another worker goes by its id, or there are too many.
            StoreError: it can't be kept for the next start; it gets tasks nevertheless.
        """
        with self._lock:
            known = self._known().get(address.worker_id)
            if known is not None:
                _refuse_another(known, address)
                if not known.registered:
                    address = known.address  # as the inventory has it
            elif sum(status.registered for status in self._pool.statuses()) >= MAX_REGISTERED:
                raise WorkerConflict(
                    f"{MAX_REGISTERED} workers have registered, and no more are taken; "
                    "forget those that are gone with DELETE /workers/<id>"
                )
            self._change(lambda: self._pool.join(address, registered=True))

    def leave(self, worker_id: str) -> None:
        """Give a worker no new task; it is forgotten once its task has ended, if it came by itself.

        Raises:
            UnknownWorker: there is none of that id.
            StoreError: it can't be kept for the next start; it gets no task nevertheless.
        """
        with self._lock:
            self._must_know(worker_id)
            self._change(lambda: self._pool.leave(worker_id))

    def drain(self, worker_id: str, drained: bool) -> None:
        """Give a worker no new task, or some again.

        Raises:
            UnknownWorker: there is none of that id.
            StoreError: it can't be kept for the next start; it holds nevertheless.
        """
        with self._lock:
            self._must_know(worker_id)
            (self._drained.add if drained else self._drained.discard)(worker_id)
            self._change(lambda: self._pool.drain(worker_id, drained))

    def _known(self) -> dict[str, WorkerStatus]:
        return {status.address.worker_id: status for status in self._pool.statuses()}

    def _must_know(self, worker_id: str) -> None:
        known = self._known()
        if worker_id not in known:
            raise UnknownWorker(f"no worker {worker_id!r}; there are: {', '.join(known) or 'none'}")

    def _change(self, change: Callable[[], None]) -> None:
        """Change the pool in its loop, and keep what is to be kept of it."""

        async def in_loop() -> Roster:
            change()
            return Roster.of(self._pool.statuses(), self._drained)

        roster = self._loop.run(in_loop()).result()
        if roster != self._kept:
            roster.save(self._path)
            self._kept = roster


def _refuse_another(known: WorkerStatus, address: WorkerAddress) -> None:
    if (known.address.host, known.address.port) == (address.host, address.port):
        return
    there = f"{address.worker_id!r} is the worker at {known.address.url}"
    if not known.registered:
        raise WorkerConflict(f"{there}, as the hub's WORKER_n_IP say; set another WORKER_ID on this one")
    if known.state is not WorkerState.OFFLINE:
        raise WorkerConflict(f"{there}, which answers; set another WORKER_ID on this one")
