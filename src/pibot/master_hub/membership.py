"""Let workers register, leave and be drained while the hub runs, and keep that over a restart.

See docs/decisions.md, D36 and D37.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from pibot.background import BackgroundLoop
from pibot.contracts import WorkerAddress, WorkerState, WorkerStatus, valid_id
from pibot.disk import make_private, write_durably
from pibot.errors import InvalidRequest, StoreError, UnknownWorker, WorkerConflict
from pibot.master_components.workers.pool import WorkerPool

MAX_REGISTERED = 500
"""Registered workers. Each is polled every few seconds and kept until it leaves, so a defective caller must not add
workers without end."""


class Membership:
    """The workers of the fleet. Methods block, and may be called from any thread but the loop's.

    Args:
        pool: the workers; gets those that registered before the restart.
        loop: the loop in which the pool runs.
        path: the file that keeps the registered and the drained workers.

    Raises:
        StoreError: the file can't be read.
    """

    def __init__(self, pool: WorkerPool, loop: BackgroundLoop, path: Path) -> None:
        self._pool = pool
        self._loop = loop
        self._path = path
        self._lock = threading.Lock()  # one change at a time, so that the file has the latest one
        self._kept = Roster.load(path)
        self._drained = set(self._kept.drained)
        for address in self._kept.registered:
            if address.worker_id not in self._known():
                pool.join(address, registered=True)
        for worker_id in self._drained & set(self._known()):
            pool.drain(worker_id)

    def join(self, address: WorkerAddress) -> None:
        """Register a worker, or note that it is back.

        Raises:
            WorkerConflict: another worker has this id, or too many have registered.
            StoreError: the file can't be written; the worker gets tasks until the hub restarts.
        """
        with self._lock:
            known = self._known().get(address.worker_id)
            if known is not None:
                _refuse_another(known, address)
                if not known.registered:
                    address = known.address  # the inventory's address counts
            elif sum(status.registered for status in self._pool.statuses()) >= MAX_REGISTERED:
                raise WorkerConflict(
                    f"{MAX_REGISTERED} workers have registered, which is the limit; "
                    "remove those that are gone with DELETE /workers/<id>"
                )
            self._change(lambda: self._pool.join(address, registered=True))

    def is_known_at(self, address: WorkerAddress) -> bool:
        """Return whether this is the address that the hub uses for the worker already, or will use whatever it says."""
        known = self._known().get(address.worker_id)
        return known is not None and (known.address == address or not known.registered)

    def leave(self, worker_id: str) -> None:
        """Give a worker no new task. A registered one is removed once its task has ended.

        Raises:
            UnknownWorker: no worker has this id.
            StoreError: the file can't be written; the worker gets no task until the hub restarts.
        """
        with self._lock:
            self._must_know(worker_id)
            self._change(lambda: self._pool.leave(worker_id))

    def drain(self, worker_id: str, drained: bool) -> None:
        """Drain a worker, so that it gets no new task, or undrain it.

        Raises:
            UnknownWorker: no worker has this id.
            StoreError: the file can't be written; the change holds until the hub restarts.
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
        """Change the pool in its loop, then write the file if it would differ."""

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
        raise WorkerConflict(f"{there}, by WORKER_n_IP on the hub; set another WORKER_ID on this one")
    if known.state is not WorkerState.OFFLINE:
        raise WorkerConflict(f"{there}, which answers; set another WORKER_ID on this one")


@dataclass(frozen=True)
class Roster:
    """What the file keeps of the fleet.

    Args:
        registered: the workers that registered by themselves.
        drained: the ids of the drained workers.
    """

    registered: tuple[WorkerAddress, ...] = ()
    drained: frozenset[str] = frozenset()

    @classmethod
    def of(cls, workers: Iterable[WorkerStatus], drained: Iterable[str]) -> Roster:
        """Collect what to keep of these workers: not those that are leaving."""
        drained = frozenset(drained)
        staying = (w for w in workers if w.registered and (not w.draining or w.address.worker_id in drained))
        return cls(tuple(worker.address for worker in staying), drained)

    @classmethod
    def load(cls, path: Path) -> Roster:
        """Read the file; empty without one.

        Raises:
            StoreError: the file can't be read.
        """
        make_private(path)  # an earlier release left it readable by others
        try:
            data = json.loads(path.read_text("utf-8"))
            registered = tuple(WorkerAddress.from_json(row) for row in data["registered"])
            return cls(registered, frozenset(valid_id(name, "drained") for name in data["drained"]))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError, KeyError, InvalidRequest) as exc:
            raise StoreError(f"{path} can't be read ({exc}); remove it, and the workers will register again") from exc

    def save(self, path: Path) -> None:
        """Write the file. After a power cut either the old file or the new one is there, complete.

        Raises:
            StoreError: the file can't be written.
        """
        rows = [address.to_json() for address in self.registered]
        try:
            write_durably(path, json.dumps({"registered": rows, "drained": sorted(self.drained)}))
        except OSError as exc:
            raise StoreError(f"can't write the fleet's workers to {path}: {exc}; is the disk full?") from exc
