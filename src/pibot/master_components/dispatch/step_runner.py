"""Brings one subtask to its end: a worker, a lease, an attempt, and another where that came to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Awaitable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Callable, Protocol

from pibot.contracts import MAX_TASK_TIMEOUT, Clock, Decision, SubTask, TaskRequest, TaskResult, TaskState
from pibot.errors import (
    LeaseLost,
    NoWorkers,
    StoreError,
    WorkerBusy,
    WorkerError,
    WorkerNotReached,
    WorkerUnreachable,
)
from pibot.logs import event
from pibot.master_components.dispatch.approvals import Approvals
from pibot.master_components.dispatch.late_results import LateResults
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Lease, StepRecord
from pibot.master_components.store.states import MAX_ATTEMPTS
from pibot.master_components.store.thread import StoreThread
from pibot.master_components.workers.exchange import Heard
from pibot.master_components.workers.queue import Rank

log = logging.getLogger("pibot.dispatcher")

LEASE_SECONDS = 60.0
"""A lease lasts this long without a sign of life from its worker: twice what the pool waits for an answer, so that a
Wi-Fi that drops and comes back costs nothing."""

BEATS = 3
"""How often within a lease the worker's signs of life are looked at."""

MAX_CHUNK = 20.0
"""Seconds that one request waits at a worker for a result."""

BACKOFF = 1.0
MAX_BACKOFF = 30.0
"""Seconds before another attempt: the first, doubled at each one, to the second; each shortened by up to a half."""

NO_WORKER_LOOKS = 20
"""How often within its time it is looked whether a worker can be hoped for. Each look must say no before a step fails:
one Wi-Fi that is away for a moment is no reason."""

WORKER_MARGIN = 15.0
"""Seconds beyond its timeout in which a worker has to say that it is over."""

CANCEL_SECONDS = 35.0
"""Seconds that a worker gets to say that a cancelled task has ended; itself it takes up to 30 for that."""


class Standing:
    """Where a job's subtasks are, for whoever shares out the places among the jobs.

    Args:
        look: called when its place may have come free: it has a worker now, or does nothing but wait.

    Attributes:
        waiting: how many wait, for a worker or before another attempt.
        workers: how many have a worker.
        steps: how many are worked on.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self.waiting = 0
        self.workers = 0
        self.steps = 0
        self._look = look

    def work_on(self, steps: int) -> None:
        """So many are worked on from now on."""
        self.steps = steps
        if steps == self.waiting:  # those that had a worker have ended
            self._look()

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """While a subtask waits."""
        self.waiting += 1
        if not self.workers:
            self._look()
        try:
            yield
        finally:
            self.waiting -= 1

    @contextlib.contextmanager
    def works(self) -> Iterator[None]:
        """While a subtask has a worker."""
        self.workers += 1
        if self.workers == 1:
            self._look()
        try:
            yield
        finally:
            self.workers -= 1


class Pool(Protocol):
    """The workers."""

    async def acquire(
        self, timeout: float | None, *, avoid: Collection[str] = (), skills: Collection[str] = (), rank: Rank
    ) -> str: ...

    def reserve(self, worker_id: str) -> bool: ...

    def release(self, worker_id: str) -> None: ...

    async def run_on(
        self,
        worker_id: str,
        request: TaskRequest,
        *,
        timeout: float,
        patience: float,
        chunk: float,
        ask_first: bool,
        heard: Heard,
    ) -> TaskResult: ...

    async def decide(self, worker_id: str, task_id: str, call_id: str, decision: Decision) -> None: ...

    async def fetch_result(self, worker_id: str, task_id: str, *, wait: float = 0) -> TaskResult | None: ...

    async def cancel(self, worker_id: str, task_id: str) -> None: ...

    def silence(self, worker_id: str) -> float: ...

    def task_lost(self, worker_id: str, reason: str) -> None: ...

    def hopeful(self, skills: Collection[str] = ()) -> bool: ...

    def why_none(self, skills: Collection[str] = ()) -> str: ...


@dataclass(frozen=True)
class Timing:
    """How long the dispatcher waits for what.

    Args:
        lease: seconds without a sign of life from a worker after which its subtask goes to another.
        backoff: seconds before the second attempt.
        no_worker: seconds for which no worker could be hoped to take a subtask, until it fails; None for never.
        sleep: waits some seconds.
        jitter: a number from 0 to 1.
        monotonic: seconds.
    """

    lease: float = LEASE_SECONDS
    backoff: float = BACKOFF
    no_worker: float | None = None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random
    monotonic: Clock = time.monotonic


class _WorkerSilent(WorkerUnreachable):
    """The worker gave no sign of life for the time of its lease; it may still have the task."""


class StepRunner:
    """Runs subtasks on workers; what it knows is in the store.

    Args:
        store: the jobs.
        on_disk: where the store's calls are made.
        pool: the workers.
        timing: how long it waits for what.
    """

    def __init__(self, store: JobStore, on_disk: StoreThread, pool: Pool, timing: Timing) -> None:
        self._store = store
        self._on_disk = on_disk
        self._pool = pool
        self._timing = timing
        self.approvals = Approvals(store.approvals, on_disk, pool)
        self._late = LateResults(store, on_disk, pool, timing.sleep)
        self._resumed: dict[str, Lease] = {}  # by token: leases from before a restart that are not taken up yet
        self._reserved: set[str] = set()  # tokens of leases whose worker was reserved out of turn
        self.leave_running = False
        """Set when the hub stops: tasks are not cancelled on their workers then."""

    def resume(self, leases: Sequence[Lease]) -> None:
        """Keep the workers of leases from before a restart for them, so that they get no other task meanwhile."""
        for lease in leases:
            self._resumed[lease.token] = lease
            if self._pool.reserve(lease.worker_id):
                self._reserved.add(lease.token)

    async def abandon(self, job_id: str) -> None:
        """End what a job that ends has on workers from before a restart, and was never taken up."""
        leases = [lease for lease in self._resumed.values() if lease.job_id == job_id]
        await asyncio.gather(*(self.cancel_remotely(lease) for lease in leases))

    def let_go(self, job_id: str) -> None:
        """Give back the workers that were kept for a job's leases and not used."""
        for lease in [lease for lease in self._resumed.values() if lease.job_id == job_id]:
            self._give_back(lease)

    def _give_back(self, lease: Lease) -> None:
        self._resumed.pop(lease.token, None)
        if lease.token in self._reserved:
            self._reserved.discard(lease.token)
            self._pool.release(lease.worker_id)

    async def run(
        self, job_id: str, subtask: SubTask, record: StepRecord, *, finish_job: bool, rank: Rank, standing: Standing
    ) -> None:
        """Run one subtask to its end, with as many attempts as it gets.

        Args:
            job_id, subtask, record: the subtask, its description with the results that it needs, and as it is stored.
            finish_job: end the job with the subtask's result too, because it has no other.
            rank: the job's place among those that wait for a worker.
            standing: kept up to date while it waits and while it has a worker.

        A lease found in the store is from before a restart: its worker is asked for the result that it may have, and
        gets the same task again only where it does not know it.
        """
        tried = [attempt.worker_id for attempt in record.attempts]
        lease = record.lease
        while True:
            resumed = lease is not None
            if lease is None:
                with standing.waits():
                    worker_id = await self._find_worker(job_id, subtask, tried, rank)
                if worker_id is None:
                    return
            else:
                worker_id = lease.worker_id
                self._resumed.pop(lease.token, None)
                if lease.token not in self._reserved and self._pool.reserve(worker_id):
                    self._reserved.add(lease.token)
            with standing.works():
                try:
                    if lease is None:
                        lease = await self._on_disk(
                            self._store.lease, job_id, subtask.task_id, worker_id, self._timing.lease
                        )
                    wait = await self._attempt(lease, subtask, finish_job=finish_job, resumed=resumed)
                finally:
                    if not resumed:
                        self._pool.release(worker_id)
                    elif lease is not None:
                        self._give_back(lease)
            if wait is None:
                return
            if wait:
                tried.append(worker_id)
                with standing.waits():
                    await self._timing.sleep(wait)
            lease = None

    async def _find_worker(self, job_id: str, subtask: SubTask, tried: Collection[str], rank: Rank) -> str | None:
        """Reserve a worker; None where none was to be had and the subtask failed."""
        seconds = self._timing.no_worker
        a_look = None if seconds is None else seconds / NO_WORKER_LOOKS
        hopeless = 0
        while True:
            try:
                return await self._pool.acquire(a_look, avoid=tried, skills=subtask.skills, rank=rank)
            except NoWorkers as exc:
                reason = str(exc)
            except asyncio.TimeoutError:
                # Where there is hope its turn comes: it is others' tasks that it waits for.
                hopeless = 0 if self._pool.hopeful(subtask.skills) else hopeless + 1
                if hopeless < NO_WORKER_LOOKS:
                    continue
                reason = f"no worker could take it within {seconds:g} seconds: {self._pool.why_none(subtask.skills)}"
            break
        await self._on_disk(self._store.give_up, job_id, subtask.task_id, reason)
        return None

    async def _attempt(self, lease: Lease, subtask: SubTask, *, finish_job: bool, resumed: bool) -> float | None:
        """Run the subtask on the lease's worker and record what came of it.

        Returns:
            Seconds until another attempt; None where the subtask has ended.
        """
        try:
            result = await self._run_remotely(lease, subtask, resumed=resumed)
            await self._on_disk.to_the_end(lambda: self._store.complete(lease, result, finish_job=finish_job))
        except (WorkerBusy, WorkerError) as exc:
            # From before a restart it may have had the task although it is busy or can't be reached now.
            if isinstance(exc, (WorkerBusy, WorkerNotReached)) and not resumed:
                # It did not get the task, so this was no attempt.
                event(log, "not_taken", job=lease.job_id, task=lease.task_id, worker=lease.worker_id, error=str(exc))
                await self._on_disk(lambda: self._store.fail_attempt(lease, "not taken", final=False, count=False))
                return 0.0
            lost = f"{lease.worker_id}: the task was lost while the hub was down, and it is {exc}"
            reason, final = lost if isinstance(exc, WorkerBusy) else str(exc), lease.attempt >= MAX_ATTEMPTS
            await self._on_disk(lambda: self._store.fail_attempt(lease, reason, final=final))
            event(log, "attempt_failed", job=lease.job_id, task=lease.task_id, worker=lease.worker_id, error=reason)
            if isinstance(exc, _WorkerSilent):
                self._pool.task_lost(lease.worker_id, exc.problem)
                self._late.expect(lease)
            return None if final else self._backoff(lease.attempt)
        except LeaseLost as exc:
            event(log, "lease_lost", level=logging.WARNING, error=str(exc))
        return None

    async def _run_remotely(self, lease: Lease, subtask: SubTask, *, resumed: bool) -> TaskResult:
        """The result, unless the worker refuses, forgets the task or gives no sign of life for the lease's time."""
        # Without a timeout of the subtask or its job, the worker's own PIBOT_TASK_TIMEOUT holds.
        request = subtask.to_request(lease.remote_id)
        running = asyncio.ensure_future(
            self._pool.run_on(
                lease.worker_id,
                request,
                timeout=(subtask.timeout or MAX_TASK_TIMEOUT) + WORKER_MARGIN,
                patience=math.inf,  # the heartbeat decides
                chunk=min(MAX_CHUNK, self._timing.lease / BEATS),
                ask_first=resumed,
                heard=self.approvals.of(lease),
            )
        )
        beating = asyncio.ensure_future(self._beat(lease))
        try:
            await asyncio.wait({running, beating}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                beating.result()  # raises a defect
                raise _WorkerSilent(
                    lease.worker_id,
                    f"no sign of life for {self._timing.lease:g} s (PIBOT_LEASE_SECONDS), so it lost its lease",
                )
            result = running.result()
        except asyncio.CancelledError:
            if not self.leave_running:  # a hub that is started again takes the task up where it is
                await self.cancel_remotely(lease)
            raise
        finally:
            beating.cancel()
            running.cancel()
        if result.state is TaskState.CANCELLED:
            # Not by this hub: the worker was stopped, or somebody cancelled the task there.
            raise WorkerUnreachable(lease.worker_id, result.error or "the task was cancelled there")
        return replace(result, task_id=subtask.task_id)

    async def _beat(self, lease: Lease) -> None:
        """Renew the lease for as long as its worker gives signs of life; returns when it gave none for the lease."""
        monotonic, seconds = self._timing.monotonic, self._timing.lease
        held_since = monotonic()
        while True:
            silence = min(self._pool.silence(lease.worker_id), monotonic() - held_since)
            if silence >= seconds:
                return
            pause, before = min(seconds / BEATS, seconds - silence), monotonic()
            await self._timing.sleep(pause)
            if monotonic() - before > pause + seconds / BEATS:
                held_since = monotonic()  # this process stood still, and so could not hear the worker
            left = seconds - self._pool.silence(lease.worker_id)
            if left <= 0:
                continue
            try:
                await self._on_disk.once(self._store.renew, lease, left)
            except StoreError as exc:
                event(log, "lease_not_renewed", level=logging.WARNING, task=lease.remote_id, error=str(exc))

    async def cancel_remotely(self, lease: Lease) -> None:
        """End a lease's task on its worker; one that can't be reached is told when it is back."""
        try:
            await asyncio.wait_for(self._pool.cancel(lease.worker_id, lease.remote_id), CANCEL_SECONDS)
        except (WorkerError, WorkerBusy, asyncio.TimeoutError) as exc:
            error = str(exc) or f"no answer within {CANCEL_SECONDS:g} s"
            event(log, "cancel_failed", level=logging.WARNING, task=lease.remote_id, error=error)
            self._late.expect(lease)

    async def stop(self) -> None:
        """End what goes on in the background."""
        await self._late.stop()

    def _backoff(self, attempt: int) -> float:
        full = min(MAX_BACKOFF, self._timing.backoff * 2 ** (attempt - 1))
        return float(full * (1 - self._timing.jitter() / 2))
