"""Brings every accepted job to its end: which are worked on now, who waits for them, and when their time is up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pibot.errors import JobNotFound, PibotError, StoreError
from pibot.logs import event
from pibot.master_components.dispatch.approvals import Approvals
from pibot.master_components.dispatch.job_runner import JobRunner, Planner
from pibot.master_components.dispatch.step_runner import Pool, Standing, StepRunner, Timing
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import MAX_PRIORITY
from pibot.master_components.store.states import ENDED_JOBS, JobState
from pibot.master_components.store.thread import StoreThread

log = logging.getLogger("pibot.dispatcher")

CANCELLED = "the job was cancelled"

JOBS_AT_ONCE = 16
"""Jobs that are planned or wait for a worker at once, beside those that have one; the others wait in the store."""


LOOK_AGAIN = 5.0
"""Seconds until the store is asked again which jobs wait, where it could not be read."""


@dataclass
class _Taken:
    """A job that is worked on.

    Attributes:
        begun: its work has taken its first step.
        put_back: it is to wait in the store again.
    """

    work: asyncio.Task[None]
    standing: Standing
    priority: int = MAX_PRIORITY
    begun: bool = False
    put_back: bool = False

    @property
    def replaceable(self) -> bool:
        """Whether it does nothing but wait, so that a more urgent job may have its place."""
        return 0 < self.standing.steps == self.standing.waiting and not self.put_back


class Dispatcher:
    """Works on jobs within one event loop; what it knows is in the store, so that it can be killed at any point.

    Args:
        store: the jobs.
        planner: plans them.
        pool: runs their subtasks.
        timing: how long it waits for what.
        jobs_at_once: how many jobs are worked on at once, beside those that have a worker.
    """

    def __init__(
        self,
        store: JobStore,
        planner: Planner,
        pool: Pool,
        *,
        timing: Timing | None = None,
        jobs_at_once: int = JOBS_AT_ONCE,
    ) -> None:
        self._store = store
        self._jobs_at_once = jobs_at_once
        timing = timing or Timing()
        self._on_disk = StoreThread(timing.sleep)
        self._steps = StepRunner(store, self._on_disk, pool, timing)
        self._jobs = JobRunner(store, self._on_disk, planner, self._steps)
        self._running: dict[str, _Taken] = {}
        self._cancelling: set[str] = set()
        self._overdue: dict[str, asyncio.TimerHandle] = {}
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._more = False  # the store may hold jobs that are not worked on
        self._looking = self._again = False
        self._filling: asyncio.Future[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Take up the jobs that have not ended, first those that workers may have something of."""
        leases = await self._on_disk(self._store.queries.leases)
        self._steps.resume(leases)
        to_cancel = await self._on_disk(self._store.queries.to_cancel)  # they do not wait for their turn either
        for job_id in dict.fromkeys((*(lease.job_id for lease in leases), *to_cancel)):
            if job_id not in self._running:
                self._begin(job_id)
        for job_id, seconds in (await self._on_disk(self._store.queries.deadlines)).items():
            self._end_in(seconds, job_id)
        await self._fill()

    @property
    def approvals(self) -> Approvals:
        """The calls that wait for the owner."""
        return self._steps.approvals

    @property
    def store_trouble(self) -> str | None:
        """Why something of the jobs still waits to be written; None where nothing does."""
        return self._on_disk.trouble

    def notify(self, job_id: str, priority: int = 0, timeout: float | None = None) -> None:
        """There is a new job; call it in the loop."""
        if self._stopping:
            return
        if timeout is not None:
            self._end_in(timeout, job_id)
        if job_id in self._running:
            return
        if self._has_room() and not self._more and not self._looking:
            self._begin(job_id)
            return
        self._more = True  # it takes its turn among those that wait
        if self._looking:
            self._again = self._again or self._has_room()
        if any(taken.replaceable and taken.priority < priority for taken in self._running.values()):
            self._look_soon()

    async def wait(self, job_id: str, seconds: float) -> bool:
        """Whether the job has ended, waiting for that up to ``seconds``.

        Raises:
            JobNotFound: there is none of that id.
        """
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(job_id, [])
        waiters.append(ended)  # before the job is looked at, so that its end is not missed
        try:
            job = await self._on_disk(self._store.queries.job, job_id)
            if job.state not in ENDED_JOBS:
                await asyncio.wait_for(ended, seconds)
        except asyncio.TimeoutError:
            return False
        finally:
            waiters.remove(ended)
            if not waiters and self._waiters.get(job_id) is waiters:
                del self._waiters[job_id]
        return True

    async def cancel(self, job_id: str) -> None:
        """End a job; its tasks on workers have ended when this returns. One that has ended stays as it is.

        Raises:
            JobNotFound: there is none of that id.
            StoreUnwritable: the wish can't be written; the job goes on.
        """
        job = await self._on_disk.once(self._store.request_cancel, job_id)
        if job.state in ENDED_JOBS:
            return
        running = self._running.get(job_id)
        while running is not None and not running.begun:
            await asyncio.sleep(0)  # cancelled before its first step, a task never sees to its own end
            running = self._running.get(job_id)
        if running is None:
            await self._jobs.end(job_id, JobState.CANCELLED, CANCELLED)
            self._forget(job_id)
            return
        if job_id not in self._cancelling:  # a second one would cut short the wait for the workers
            self._cancelling.add(job_id)
            running.work.cancel()
        await asyncio.wait([running.work])

    async def stop(self) -> None:
        """Leave the jobs where they are; :meth:`start` of another dispatcher takes them up."""
        self._stopping = self._steps.leave_running = True
        self._on_disk.stop()
        running = [taken.work for taken in self._running.values()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        await self._steps.stop()
        for job_id in (*self._waiters, *self._overdue):
            self._forget(job_id)
        self._on_disk.close()

    # --- which jobs ---

    async def _fill(self) -> None:
        """Begin as many waiting jobs as there is room for, the more urgent first."""
        self._looking = self._again = True
        try:
            while self._again and not self._stopping:
                self._again = self._more = False
                # So many are enough: at most all the running ones are among them.
                limit = self._jobs_at_once + len(self._running) + 1
                waiting = await self._on_disk(self._store.queries.unfinished, limit)
                for position, job_id in enumerate(waiting):
                    if job_id in self._running or self._stopping:
                        continue
                    if not self._has_room():
                        self._more = True
                        self._put_back_one(waiting, position)
                        break
                    self._begin(job_id)
        except StoreError as exc:  # the jobs are not forgotten: they are looked for again
            event(log, "jobs_not_looked_for", level=logging.ERROR, error=str(exc), again_in=f"{LOOK_AGAIN:g}s")
            self._more = True
            asyncio.get_running_loop().call_later(LOOK_AGAIN, self._look_soon)
        finally:
            self._looking = False

    def _put_back_one(self, waiting: Sequence[str], position: int) -> None:
        """Let the least urgent job that only waits for a worker wait in the store, for the one at ``position``."""
        if any(taken.put_back for taken in self._running.values()):
            return  # its place comes free
        order = {job_id: index for index, job_id in enumerate(waiting)}
        replaceable = [job_id for job_id, taken in self._running.items() if taken.replaceable]
        last = max(replaceable, key=lambda job_id: order.get(job_id, len(waiting)), default=None)
        if last is not None and order.get(last, len(waiting)) > position:
            self._running[last].put_back = True
            self._running[last].work.cancel()

    def _begin(self, job_id: str) -> None:
        work = asyncio.ensure_future(self._bring_to_end(job_id))
        self._running[job_id] = _Taken(work, Standing(self._look_soon))  # its worker leaves room for another job

    def _end_in(self, seconds: float, job_id: str) -> None:
        if job_id not in self._overdue:
            self._overdue[job_id] = asyncio.get_running_loop().call_later(seconds, self._end_overdue, job_id)

    def _end_overdue(self, job_id: str) -> None:
        """A job's time is up. One that is worked on ends by itself; one that waits is taken up to be ended."""
        del self._overdue[job_id]
        if job_id not in self._running and not self._stopping:
            self._begin(job_id)

    def _has_room(self) -> bool:
        return sum(not taken.standing.workers for taken in self._running.values()) < self._jobs_at_once

    def _look_soon(self) -> None:
        """Look whether another job can be begun."""
        if self._looking:
            self._again = True
        elif self._more and not self._stopping:
            self._filling = asyncio.ensure_future(self._fill())

    async def _bring_to_end(self, job_id: str) -> None:
        put_back = False
        self._running[job_id].begun = True
        try:
            await self._work(job_id)
        except asyncio.CancelledError:
            put_back = self._running[job_id].put_back and job_id not in self._cancelling
            if not (self._stopping or put_back):
                await self._jobs.end(job_id, JobState.CANCELLED, CANCELLED)
        except JobNotFound:
            log.warning("job_gone job=%s", job_id)
        except PibotError as exc:
            await self._jobs.end(job_id, JobState.FAILED, str(exc))
        except Exception as exc:  # a defect fails its job, and takes no other with it
            log.exception("job_broke job=%s", job_id)
            await self._jobs.end(job_id, JobState.FAILED, f"a defect in the hub: {type(exc).__name__}: {exc}")
        finally:
            del self._running[job_id]
            self._steps.let_go(job_id)
            self._cancelling.discard(job_id)
            if put_back:
                self._more = True  # a look while it was on its way back did not see it in the store
            else:
                self._forget(job_id)
            self._look_soon()

    def _forget(self, job_id: str) -> None:
        """A job has ended."""
        timer = self._overdue.pop(job_id, None)
        if timer is not None:
            timer.cancel()
        self._tell_waiters(job_id)

    def _tell_waiters(self, job_id: str) -> None:
        for waiter in self._waiters.pop(job_id, ()):
            if not waiter.done():
                waiter.set_result(None)

    async def _work(self, job_id: str) -> None:
        job = await self._on_disk(self._store.queries.job, job_id)
        if job.state in ENDED_JOBS:
            return
        if job.cancel_requested:
            # From before a restart: its tasks may still run on their workers.
            await self._steps.abandon(job_id)
            await self._jobs.end(job_id, JobState.CANCELLED, CANCELLED)
            return
        self._running[job_id].priority = job.priority
        try:
            await asyncio.wait_for(
                self._jobs.run(job, self._running[job_id].standing), self._store.queries.time_left(job)
            )
        except asyncio.TimeoutError:
            await self._steps.abandon(job_id)
            await self._jobs.end(job_id, JobState.FAILED, f"the job's {job.timeout:g} seconds were up")
