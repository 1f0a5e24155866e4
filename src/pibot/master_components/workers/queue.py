"""Who has which worker, and who is next: the more urgent first, then the older."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from pibot.contracts import Clock, WorkerAddress
from pibot.errors import NoWorkers
from pibot.master_components.workers.placement import best, hopeful, why_none
from pibot.master_components.workers.record import Worker

Rank = tuple[float, float]
"""Of a task that waits: its job's priority, negative, and when that was accepted. The smallest is next."""

WAKE_MARGIN = 0.001
"""Seconds. A timer may go off a little early by the other clock."""


@dataclass(order=True)
class _Place:
    """One who waits."""

    rank: Rank
    number: int
    worker: asyncio.Future[str] = field(compare=False)
    avoid: frozenset[str] = field(compare=False)
    skills: frozenset[str] = field(compare=False)


class Reservations:
    """The workers and those who wait for one. Used within one event loop, but for :meth:`why_none`.

    Args:
        workers: where they are.
        monotonic: seconds.
    """

    def __init__(self, workers: Iterable[WorkerAddress], monotonic: Clock) -> None:
        self._monotonic = monotonic
        now = monotonic()
        self.workers = {address.worker_id: Worker(address, now) for address in workers}
        self._idle: dict[str, Worker] = dict(self.workers)  # the longest idle first
        self._waiting: list[_Place] = []
        self._ever_any = bool(self.workers)
        self._number = 0
        self._wake: asyncio.TimerHandle | None = None

    async def acquire(self, timeout: float | None, avoid: Collection[str], skills: Collection[str], rank: Rank) -> str:
        """Reserve a worker; see :meth:`WorkerPool.acquire`."""
        if not self._ever_any:  # where all have left, they may come back: a worker that is restarted leaves and joins
            raise NoWorkers(
                "no worker is known; set WORKER_1_IP (and WORKER_2_IP …) to your workers' addresses, "
                "or PIBOT_HUB_URL on each worker"
            )
        self._number += 1
        place = _Place(
            rank, self._number, asyncio.get_running_loop().create_future(), frozenset(avoid), frozenset(skills)
        )
        worker_id = None if self._waiting else self._take(place)
        if worker_id is not None:
            return worker_id
        bisect.insort(self._waiting, place)
        self.serve()  # a worker that was heard of just now is for who comes first in the line
        try:
            # Unlike wait_for before Python 3.12, this never loses a cancellation that comes with the worker.
            await asyncio.wait({place.worker}, timeout=timeout)
        except asyncio.CancelledError:
            if place.worker.done():
                self.release(place.worker.result())
            raise
        finally:
            self._leave(place)
        if not place.worker.done():
            raise asyncio.TimeoutError
        return place.worker.result()

    def reserve(self, worker_id: str) -> bool:
        """Take one worker out of turn, because it has a task already; whether it was free and known."""
        if self._idle.pop(worker_id, None) is None:
            return False
        self.workers[worker_id].reserved = True
        return True

    def release(self, worker_id: str) -> None:
        """Give a reserved worker back."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return  # it was forgotten meanwhile
        worker.let_go()
        if worker.leaving and worker.registered:
            del self.workers[worker_id]
        else:
            self._idle[worker_id] = worker
        self.serve()

    def add(self, worker: Worker) -> None:
        """A worker came."""
        self._ever_any = True
        self.workers[worker.address.worker_id] = worker
        self._idle[worker.address.worker_id] = worker
        self.serve()

    def remove(self, worker_id: str) -> None:
        """Forget a worker that nobody has reserved."""
        self._idle.pop(worker_id, None)
        self.workers.pop(worker_id, None)

    def serve(self) -> None:
        """Hand free workers to those who wait."""
        for place in list(self._waiting) if self._idle else ():
            if not self._idle:
                break
            worker_id = self._take(place)
            if worker_id is not None:
                place.worker.set_result(worker_id)
                self._leave(place)
        self._schedule_wake()

    def hopeful(self, skills: Collection[str]) -> bool:
        """Whether one of the workers can be expected to take such a task once it is free."""
        return hopeful(self.workers.values(), skills, self._monotonic())

    def why_none(self, skills: Collection[str]) -> str:
        """Why no worker takes a task with these skills now. May be called from any thread."""
        return why_none(list(self.workers.values()), skills, self._monotonic())

    def close(self) -> None:
        """Stop the timer."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    def _take(self, place: _Place) -> str | None:
        """Reserve the best free worker; one to avoid only if no other can be expected to take the task soon."""
        now = self._monotonic()
        worker = best(self._idle.values(), place.avoid, place.skills, now)
        if worker is None and place.avoid:
            others = (worker for name, worker in self.workers.items() if name not in place.avoid)
            if not hopeful(others, place.skills, now):
                worker = best(self._idle.values(), (), place.skills, now)
        if worker is None:
            return None
        worker_id = worker.address.worker_id
        del self._idle[worker_id]
        worker.reserved = True
        return worker_id

    def _leave(self, place: _Place) -> None:
        index = bisect.bisect_left(self._waiting, place)
        if index < len(self._waiting) and self._waiting[index] is place:
            del self._waiting[index]

    def _schedule_wake(self) -> None:
        """Look again once the next worker may be tried that was offline, busy or set aside."""
        self.close()
        if not self._waiting:
            return
        now = self._monotonic()
        times = [worker.free_at for worker in self._idle.values() if worker.free_at > now]
        if times:
            delay = min(times) - now + WAKE_MARGIN
            self._wake = asyncio.get_running_loop().call_later(delay, self.serve)
