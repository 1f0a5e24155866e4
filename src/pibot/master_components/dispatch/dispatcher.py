"""Decides which jobs run now, wakes the callers that wait for them, and ends the ones that are cancelled or overdue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pibot.contracts import NoWorkerReason
from pibot.errors import JobNotFound, PibotError, StoreError
from pibot.logs import event
from pibot.master_components.dispatch.approvals import ApprovalBroker
from pibot.master_components.dispatch.job_activity import JobActivity
from pibot.master_components.dispatch.job_runner import JobRunner
from pibot.master_components.dispatch.model_outage import ModelOutage
from pibot.master_components.dispatch.protocols import PlannerFor, StepPool
from pibot.master_components.dispatch.step_runner import StepRunner
from pibot.master_components.dispatch.timing import DispatchTiming
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import MAX_PRIORITY
from pibot.master_components.store.states import ENDED_JOBS, JobState
from pibot.master_components.store.thread import StoreThread

log = logging.getLogger("pibot.dispatcher")

CANCELLED = "the job was cancelled"

JOBS_AT_ONCE = 16
"""Jobs that are planned or wait for a worker at once, besides those that have one. The others wait in the store."""

RETRY_SECONDS = 5.0
"""Seconds before the store is asked again for waiting jobs after it could not be read."""


@dataclass
class _RunningJob:
    """A job that the dispatcher works on.

    Attributes:
        started: the task has begun to run, so that cancelling it reaches the code that ends the job.
        put_back: the job gives its place to a more urgent one, and waits in the store again.
    """

    task: asyncio.Task[None]
    activity: JobActivity
    priority: int = MAX_PRIORITY
    started: bool = False
    put_back: bool = False

    @property
    def replaceable(self) -> bool:
        """Whether the job only waits, so that a more urgent one may have its place."""
        return self.activity.only_waits and not self.put_back


class Dispatcher:
    """Works on jobs within one event loop. Its state is in the store, so that it can be killed at any point.

    Args:
        store: the jobs.
        planner_for: makes the planner of a job from the job's id.
        pool: runs the jobs' steps.
        timing: how long it waits for what.
        jobs_at_once: how many jobs are worked on at once, besides those that have a worker.
        replans: how often the plan of one job may be changed after a failure.
    """

    def __init__(
        self,
        store: JobStore,
        planner_for: PlannerFor,
        pool: StepPool,
        *,
        timing: DispatchTiming | None = None,
        jobs_at_once: int = JOBS_AT_ONCE,
        replans: int = 0,
    ) -> None:
        self._store = store
        self._jobs_at_once = jobs_at_once
        timing = timing or DispatchTiming()
        self._on_disk = StoreThread(timing.sleep)
        self._pool = pool
        self._timing = timing
        self._outage = ModelOutage(timing)
        self._steps = StepRunner(store, self._on_disk, pool, timing, self._outage)
        self._jobs = JobRunner(store, self._on_disk, planner_for, self._steps, timing, self._outage, replans)
        self._running: dict[str, _RunningJob] = {}
        self._cancelling: set[str] = set()
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._more = False  # the store may hold jobs that are not worked on
        self._filling = self._fill_again = False
        self._fill_task: asyncio.Future[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Resume the jobs that have not ended, first those that may still have tasks on workers."""
        leases = await self._on_disk(self._store.queries.leases)
        self._steps.resume(leases)
        to_cancel = await self._on_disk(self._store.queries.to_cancel)  # these do not wait for a place either
        for job_id in dict.fromkeys((*(lease.job_id for lease in leases), *to_cancel)):
            if job_id not in self._running:
                self._begin(job_id)
        for job_id, seconds in (await self._on_disk(self._store.queries.deadlines)).items():
            self._end_in(seconds, job_id)
        await self._fill()

    @property
    def approvals(self) -> ApprovalBroker:
        """The tool calls that wait for the owner."""
        return self._steps.approvals

    @property
    def waits_for_model(self) -> NoWorkerReason | None:
        """Why every step and every planning waits for the model; None if none does. May be read from any thread."""
        return self._outage.waits

    def provider_away(self, reason: str, *, rest: float | None, caller: str | None) -> None:
        """Note that the hub's gateway found the model's provider away. Call it in the event loop.

        Args:
            reason: why, as a sentence.
            rest: seconds for which the provider asked to be left alone, if it did.
            caller: whose call it failed on, if the call itself may be the reason. One caller's calls alone must not
                stop the fleet (docs/decisions.md, D117).
        """
        if caller is None:
            self._outage.failed(reason, rest=rest)
        else:
            only_one = not self._pool.knows_another((), (caller,))
            self._outage.failed_for(caller, reason, only_one=only_one, rest=rest)

    def provider_answered(self, seconds: float) -> None:
        """Note that the hub's gateway got an answer from the model's provider. Call it in the event loop.

        Args:
            seconds: how long ago it was asked.
        """
        self._outage.seen_to_answer(self._timing.monotonic() - seconds)

    @property
    def store_trouble(self) -> str | None:
        """Why a change of a job still waits to be written; None if none does."""
        return self._on_disk.trouble

    def notify(self, job_id: str, priority: int = 0, timeout: float | None = None) -> None:
        """Take on a new job. Call it in the event loop.

        Args:
            priority: the job's own, -100 to 100.
            timeout: seconds until the job is ended; None for no limit.
        """
        if self._stopping:
            return
        if timeout is not None:
            self._end_in(timeout, job_id)
        if job_id in self._running:
            return
        if self._has_room() and not self._more and not self._filling:
            self._begin(job_id)
            return
        self._more = True  # the job waits its turn in the store
        if self._filling:
            self._fill_again = self._fill_again or self._has_room()
        if any(running.replaceable and running.priority < priority for running in self._running.values()):
            self._fill_soon()

    async def wait(self, job_id: str, seconds: float) -> bool:
        """Wait up to ``seconds`` for a job to end; return whether it has ended.

        Raises:
            JobNotFound: no job has that id.
        """
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(job_id, [])
        waiters.append(ended)  # before the job is read, so that its end is not missed
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
        """Cancel a job; its tasks on workers have ended when this returns. A job that has ended stays as it is.

        Raises:
            JobNotFound: no job has that id.
            StoreUnwritable: the request can't be written; the job goes on.
        """
        job = await self._on_disk.once(self._store.request_cancel, job_id)
        if job.state in ENDED_JOBS:
            return
        running = self._running.get(job_id)
        # A task that is cancelled before it starts never runs the code that ends its job. Only :meth:`stop` cancels one
        # so early, and the next dispatcher ends the job.
        while running is not None and not running.started and not running.task.done():
            await asyncio.sleep(0)
            running = self._running.get(job_id)
        if running is None:
            await self._jobs.end(job_id, JobState.CANCELLED, CANCELLED)
            self._forget(job_id)
            return
        if job_id not in self._cancelling:  # a second cancel would cut short the wait for the workers
            self._cancelling.add(job_id)
            running.task.cancel()
        await asyncio.wait([running.task])

    async def stop(self) -> None:
        """Leave the jobs as they are; another dispatcher's :meth:`start` resumes them."""
        self._stopping = self._steps.leave_running = True
        self._on_disk.stop()
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._steps.stop()
        for job_id in (*self._waiters, *self._deadlines):
            self._forget(job_id)
        self._on_disk.close()

    # --- which jobs run ---

    async def _fill(self) -> None:
        """Begin as many waiting jobs as there is room for, by priority, then by age."""
        self._filling = self._fill_again = True
        try:
            while self._fill_again and not self._stopping:
                self._fill_again = self._more = False
                # At most all running jobs are among these, so one that waits is found if there is one.
                limit = self._jobs_at_once + len(self._running) + 1
                unfinished = await self._on_disk(self._store.queries.unfinished, limit)
                for position, job_id in enumerate(unfinished):
                    if job_id in self._running or self._stopping:
                        continue
                    if not self._has_room():
                        self._more = True
                        self._put_back_one(unfinished, position)
                        break
                    self._begin(job_id)
        except StoreError as exc:  # the jobs stay in the store until it can be read again
            event(log, "jobs_not_looked_for", level=logging.ERROR, error=str(exc), again_in=f"{RETRY_SECONDS:g}s")
            self._more = True
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._fill_soon)
        finally:
            self._filling = False

    def _put_back_one(self, unfinished: Sequence[str], position: int) -> None:
        """Put the least urgent job that only waits back into the store, if the one at ``position`` is more urgent.

        See docs/decisions.md, D30.
        """
        if any(running.put_back for running in self._running.values()):
            return  # its place comes free
        order = {job_id: index for index, job_id in enumerate(unfinished)}
        replaceable = [job_id for job_id, running in self._running.items() if running.replaceable]
        last = max(replaceable, key=lambda job_id: order.get(job_id, len(unfinished)), default=None)
        if last is not None and order.get(last, len(unfinished)) > position:
            self._running[last].put_back = True
            self._running[last].task.cancel()

    def _begin(self, job_id: str) -> None:
        task = asyncio.ensure_future(self._bring_to_end(job_id))
        self._running[job_id] = _RunningJob(task, JobActivity(place_free=self._fill_soon))

    def _end_in(self, seconds: float, job_id: str) -> None:
        if job_id not in self._deadlines:
            self._deadlines[job_id] = asyncio.get_running_loop().call_later(seconds, self._end_overdue, job_id)

    def _end_overdue(self, job_id: str) -> None:
        """End a waiting job whose time is up. A running one ends by itself."""
        del self._deadlines[job_id]
        if job_id not in self._running and not self._stopping:
            self._begin(job_id)

    def _has_room(self) -> bool:
        return sum(not running.activity.with_worker for running in self._running.values()) < self._jobs_at_once

    def _fill_soon(self) -> None:
        """Begin waiting jobs if there are any."""
        if self._filling:
            self._fill_again = True
        elif self._more and not self._stopping:
            self._fill_task = asyncio.ensure_future(self._fill())

    # --- one job ---

    async def _bring_to_end(self, job_id: str) -> None:
        put_back = False
        self._running[job_id].started = True
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
        except Exception as exc:  # a defect fails its own job and no other
            log.exception("job_broke job=%s", job_id)
            await self._jobs.end(job_id, JobState.FAILED, f"a defect in the hub: {type(exc).__name__}: {exc}")
        finally:
            del self._running[job_id]
            self._steps.let_go(job_id)
            self._cancelling.discard(job_id)
            if put_back:
                self._more = True  # a fill that ran until now took the job for a running one
            else:
                self._forget(job_id)
            self._fill_soon()

    async def _work(self, job_id: str) -> None:
        job = await self._on_disk(self._store.queries.job, job_id)
        if job.state in ENDED_JOBS:
            return
        if job.cancel_requested:
            # The request is from before a restart, so the job's tasks may still run on their workers.
            await self._steps.abandon(job_id)
            await self._jobs.end(job_id, JobState.CANCELLED, CANCELLED)
            return
        running = self._running[job_id]
        running.priority = job.priority
        try:
            await asyncio.wait_for(self._jobs.run(job, running.activity), self._store.queries.time_left(job))
        except asyncio.TimeoutError:
            await self._steps.abandon(job_id)
            await self._jobs.end(job_id, JobState.FAILED, f"the job's {job.timeout:g} seconds were up")

    def _forget(self, job_id: str) -> None:
        """Drop a job that has ended, and wake the callers that wait for it."""
        timer = self._deadlines.pop(job_id, None)
        if timer is not None:
            timer.cancel()
        for waiter in self._waiters.pop(job_id, ()):
            if not waiter.done():
                waiter.set_result(None)
