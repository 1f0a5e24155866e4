"""The queue of tasks that wait for a worker: the most urgent first, then the oldest."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from pibot.contracts import Clock, NoWorkerReason, WorkerAddress
from pibot.errors import NoWorkers
from pibot.master_components.workers.placement import best, has_candidate, why_none
from pibot.master_components.workers.record import WorkerRecord

QueueKey = tuple[float, float]
"""Orders waiting tasks, the smallest first: the job's priority, negated, and when the job was accepted."""

TIMER_MARGIN = 0.001
"""Seconds added to the timer: the event loop's clock and ours may differ a little."""


@dataclass(order=True)
class Waiter:
    """A task that waits for a worker."""

    queue_key: QueueKey
    number: int
    worker: asyncio.Future[str] = field(compare=False)
    avoid: frozenset[str] = field(compare=False)
    skills: frozenset[str] = field(compare=False)


class WorkerQueue:
    """Reserves workers for tasks, and queues the tasks that find none free.

    Use it within one event loop; only :meth:`why_none` may be called from any thread.

    Args:
        workers: the workers known from the start.
        monotonic: seconds.

    Attributes:
        workers: what is known of each worker, by its id.
        idle: the workers that are not reserved, the longest idle first.
        waiters: the tasks that wait, the next one first.
    """

    def __init__(self, workers: Iterable[WorkerAddress], monotonic: Clock) -> None:
        self._monotonic = monotonic
        now = monotonic()
        self.workers = {address.worker_id: WorkerRecord(address, now) for address in workers}
        self.idle: dict[str, WorkerRecord] = dict(self.workers)
        self.waiters: list[Waiter] = []
        self._ever_any = bool(self.workers)
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(
        self, timeout: float | None, avoid: Collection[str], skills: Collection[str], queue_key: QueueKey
    ) -> str:
        """Reserve a worker; see :meth:`WorkerPool.acquire`."""
        if not self._ever_any:  # where all have left, one may return (docs/decisions.md, D32)
            raise NoWorkers(
                "no worker is known; set WORKER_1_IP (and WORKER_2_IP …) to your workers' addresses, "
                "or PIBOT_HUB_URL on each worker"
            )
        self._number += 1
        waiter = Waiter(
            queue_key, self._number, asyncio.get_running_loop().create_future(), frozenset(avoid), frozenset(skills)
        )
        worker_id = None if self.waiters else self.take(waiter)
        if worker_id is not None:
            return worker_id
        bisect.insort(self.waiters, waiter)
        self.serve()  # a worker that has just become free goes to the first waiter
        try:
            # Unlike wait_for before Python 3.12, this never loses a cancellation that arrives with the worker.
            await asyncio.wait({waiter.worker}, timeout=timeout)
        except asyncio.CancelledError:
            if waiter.worker.done():
                self.release(waiter.worker.result())
            raise
        finally:
            self._remove_waiter(waiter)
        if not waiter.worker.done():
            raise asyncio.TimeoutError
        return waiter.worker.result()

    def reserve(self, worker_id: str) -> bool:
        """Reserve one worker out of turn, because it has a task already. Returns False if it is not free or unknown."""
        if self.idle.pop(worker_id, None) is None:
            return False
        self.workers[worker_id].reserved = True
        return True

    def release(self, worker_id: str) -> None:
        """End a worker's reservation."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return  # it was removed meanwhile
        worker.release()
        if worker.leaving and worker.registered:
            del self.workers[worker_id]
        else:
            self.idle[worker_id] = worker
        self.serve()

    def add(self, worker: WorkerRecord) -> None:
        """Add a worker."""
        self._ever_any = True
        self.workers[worker.address.worker_id] = worker
        self.idle[worker.address.worker_id] = worker
        self.serve()

    def remove(self, worker_id: str) -> None:
        """Remove a worker that is not reserved."""
        self.idle.pop(worker_id, None)
        self.workers.pop(worker_id, None)

    def serve(self) -> None:
        """Give free workers to the waiting tasks."""
        for waiter in list(self.waiters) if self.idle else ():
            if not self.idle:
                break
            worker_id = self.take(waiter)
            if worker_id is not None:
                waiter.worker.set_result(worker_id)
                self._remove_waiter(waiter)
        self._schedule()

    def take(self, waiter: Waiter) -> str | None:
        """Reserve the best free worker for a waiter.

        A worker to avoid is taken only if no other can be expected to run the task soon.
        """
        now = self._monotonic()
        worker = best(self.idle.values(), waiter.avoid, waiter.skills, now)
        if worker is None and waiter.avoid and not has_candidate(self._others(waiter.avoid), waiter.skills, now):
            worker = best(self.idle.values(), (), waiter.skills, now)
        if worker is None:
            return None
        worker_id = worker.address.worker_id
        del self.idle[worker_id]
        worker.reserved = True
        return worker_id

    def has_candidate(self, skills: Collection[str], avoid: Collection[str] = ()) -> bool:
        """Return whether a worker that is not to be avoided can be expected to run such a task once it is free."""
        return has_candidate(self._others(avoid), skills, self._monotonic())

    def knows_another(self, skills: Collection[str], tried: Collection[str]) -> bool:
        """Return whether a worker that was not tried may run such a task once it can, however long that takes."""
        return any(worker.has(skills) and not worker.drained and not worker.leaving for worker in self._others(tried))

    def why_none(self, skills: Collection[str]) -> NoWorkerReason:
        """Return why no worker runs a task with these skills now. May be called from any thread."""
        return why_none(list(self.workers.values()), skills, self._monotonic())

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _others(self, avoid: Collection[str]) -> Iterator[WorkerRecord]:
        return (worker for name, worker in self.workers.items() if name not in avoid)

    def _remove_waiter(self, waiter: Waiter) -> None:
        index = bisect.bisect_left(self.waiters, waiter)
        if index < len(self.waiters) and self.waiters[index] is waiter:
            del self.waiters[index]

    def _schedule(self) -> None:
        """Serve again once the next worker may be tried that was offline, busy or set aside."""
        self.close()
        if not self.waiters:
            return
        now = self._monotonic()
        times = [worker.free_at for worker in self.idle.values() if worker.free_at > now]
        if times:
            delay = min(times) - now + TIMER_MARGIN
            self._timer = asyncio.get_running_loop().call_later(delay, self.serve)
