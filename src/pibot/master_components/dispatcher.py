"""Brings every accepted job to its end: plans it, hands its subtasks to workers, makes one answer of the results."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from pibot.contracts import SubTask, TaskPlan, TaskResult, TaskState, Usage
from pibot.errors import (
    IllegalTransition,
    JobNotFound,
    LLMError,
    PibotError,
    StoreError,
)
from pibot.logs import event
from pibot.master_components.job_store import JobStore
from pibot.master_components.planner import with_results
from pibot.master_components.records import MAX_PRIORITY, Job, SubtaskRecord
from pibot.master_components.states import ENDED_JOBS, JobState, SubtaskState
from pibot.master_components.step_runner import Pool, Standing, StepRunner, Timing
from pibot.master_components.store_thread import StoreThread

log = logging.getLogger("pibot.dispatcher")

T = TypeVar("T")

CANCELLED = "the job was cancelled"

JOBS_AT_ONCE = 16
"""Jobs that are planned or wait for a worker at once, beside those that have one; the others wait in the store."""


LOOK_AGAIN = 5.0
"""Seconds until the store is asked again which jobs wait, where it could not be read."""


class Planner(Protocol):
    """Plans jobs and sums up their results."""

    async def analyze(self, description: str) -> tuple[TaskPlan, Usage]: ...

    async def compose(self, description: str, results: Sequence[tuple[SubTask, TaskResult]]) -> tuple[str, Usage]: ...


@dataclass
class _Taken:
    """A job that is worked on.

    Attributes:
        begun: its work has taken its first step.
        steps: how many of its subtasks are worked on.
        put_back: it is to wait in the store again.
    """

    work: asyncio.Task[None]
    standing: Standing
    priority: int = MAX_PRIORITY
    begun: bool = False
    steps: int = 0
    put_back: bool = False

    @property
    def replaceable(self) -> bool:
        """Whether it does nothing but wait, so that a more urgent job may have its place."""
        return 0 < self.steps == self.standing.waiting and not self.put_back


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
        self._planner = planner
        self._jobs_at_once = jobs_at_once
        timing = timing or Timing()
        self._on_disk = StoreThread(timing.sleep)
        self._steps = StepRunner(store, self._on_disk, pool, timing)
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
        leases = await self._on_disk(self._store.leases)
        self._steps.resume(leases)
        to_cancel = await self._on_disk(self._store.to_cancel)  # they do not wait for their turn either
        for job_id in dict.fromkeys((*(lease.job_id for lease in leases), *to_cancel)):
            if job_id not in self._running:
                self._begin(job_id)
        for job_id, seconds in (await self._on_disk(self._store.deadlines)).items():
            self._end_in(seconds, job_id)
        await self._fill()

    @property
    def store_trouble(self) -> str | None:
        """Why something of the jobs still waits to be written; None where nothing does."""
        return self._on_disk.trouble

    def notify(self, job_id: str, priority: int = 0, timeout: float | None = None) -> None:
        """There is a new job; call it in the loop."""
        if self._stopping:
            return
        if timeout is not None and job_id not in self._overdue:
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
            job = await self._on_disk(self._store.job, job_id)
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
            await self._end(job_id, JobState.CANCELLED, CANCELLED)
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
                waiting = await self._on_disk(self._store.unfinished, limit)
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
                await self._end(job_id, JobState.CANCELLED, CANCELLED)
        except JobNotFound:
            log.warning("job_gone job=%s", job_id)
        except PibotError as exc:
            await self._end(job_id, JobState.FAILED, str(exc))
        except Exception as exc:  # a defect fails its job, and takes no other with it
            log.exception("job_broke job=%s", job_id)
            await self._end(job_id, JobState.FAILED, f"a defect in the hub: {type(exc).__name__}: {exc}")
        finally:
            del self._running[job_id]
            self._steps.let_go(job_id)
            self._cancelling.discard(job_id)
            if not put_back:
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

    async def _end(self, job_id: str, state: JobState, reason: str) -> None:
        """End a job before its time; what of it still waits or runs is over. It has ended when this returns."""
        try:
            await self._on_disk.to_the_end(lambda: self._store.finish(job_id, state, error=reason))
        except IllegalTransition:
            return  # it had ended just before
        except StoreError as exc:
            event(log, "job_not_ended", level=logging.ERROR, job=job_id, error=str(exc))
            return
        event(log, "job_finished", job=job_id, status=state.value, error=reason)

    # --- one job ---

    async def _work(self, job_id: str) -> None:
        job = await self._on_disk(self._store.job, job_id)
        if job.state in ENDED_JOBS:
            return
        if job.cancel_requested:
            # From before a restart: its tasks may still run on their workers.
            await self._steps.abandon(job_id)
            await self._end(job_id, JobState.CANCELLED, CANCELLED)
            return
        self._running[job_id].priority = job.priority
        try:
            await asyncio.wait_for(self._plan_and_run(job), self._store.time_left(job))
        except asyncio.TimeoutError:
            await self._steps.abandon(job_id)
            await self._end(job_id, JobState.FAILED, f"the job's {job.timeout:g} seconds were up")

    async def _plan_and_run(self, job: Job) -> None:
        if job.plan is None:
            await self._on_disk(self._store.start_planning, job.job_id)
            try:
                plan, usage = await self._planner.analyze(job.description)
            except LLMError as exc:
                await self._end(job.job_id, JobState.FAILED, f"the job could not be planned: {exc}")
                return
            await self._on_disk(lambda: self._store.save_plan(job.job_id, plan, usage))
            event(log, "job_planned", job=job.job_id, steps=len(plan.subtasks), note=plan.note or None)
            job = await self._on_disk(self._store.job, job.job_id)
        assert job.plan is not None
        if job.plan.handle_locally:
            answer = job.plan.answer
            await self._on_disk.to_the_end(lambda: self._store.finish(job.job_id, JobState.COMPLETED, answer=answer))
            return
        await self._run_steps(job, self._running[job.job_id])
        await self._conclude(job.job_id)

    async def _run_steps(self, job: Job, taken: _Taken) -> None:
        """Run the subtasks as their dependencies allow, until none is left that could be run."""
        single = len(job.subtasks) == 1
        rank = (-float(job.priority), job.accepted_run)
        steps: dict[asyncio.Task[None], str] = {}
        try:
            while True:
                current = job if not steps else await self._on_disk(self._store.job, job.job_id)
                begun = set(steps.values())
                for record in current.subtasks:
                    if record.state in (SubtaskState.READY, SubtaskState.LEASED) and record.task_id not in begun:
                        subtask = self._with_needed(record, current)
                        run = self._steps.run(
                            job.job_id, subtask, record, finish_job=single, rank=rank, standing=taken.standing
                        )
                        steps[asyncio.ensure_future(run)] = record.task_id
                if not steps:
                    return
                taken.steps = len(steps)
                done, _ = await asyncio.wait(steps, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del steps[task]
                    task.result()
                if single:
                    return
                job = await self._on_disk(self._store.job, job.job_id)
        finally:
            for task in steps:
                task.cancel()
            if steps:
                await asyncio.wait(steps)

    @staticmethod
    def _with_needed(record: SubtaskRecord, job: Job) -> SubTask:
        results = {step.task_id: step for step in job.subtasks}
        needed = [(_subtask(results[name]), results[name].result) for name in record.depends_on]
        # A step may take what its job was given; the job's own end cuts it. The whole of that and not what is left,
        # for after a restart the same task must be sent again.
        subtask = replace(_subtask(record), timeout=record.timeout or job.timeout)
        return with_results(subtask, [(step, result) for step, result in needed if result is not None])

    async def _conclude(self, job_id: str) -> None:
        """End a job whose subtasks have all ended: one answer of what they came to."""
        job = await self._on_disk(self._store.job, job_id)
        if job.state in ENDED_JOBS:
            return
        results = [(_subtask(step), _result_of(step)) for step in job.subtasks]
        answer, usage = await self._planner.compose(job.description, results)
        failed = [step for step in job.subtasks if step.state is not SubtaskState.COMPLETED]
        state = JobState.FAILED if failed else JobState.COMPLETED
        error = "; ".join(f"step {step.task_id!r} {step.state.value}: {step.error}" for step in failed) or None
        await self._on_disk.to_the_end(
            lambda: self._store.finish(job_id, state, answer=answer or None, error=error, usage=usage)
        )
        event(log, "job_finished", job=job_id, status=state.value, error=error)


def _subtask(record: SubtaskRecord) -> SubTask:
    return SubTask(record.task_id, record.description, record.skills, record.depends_on, record.timeout)


def _result_of(record: SubtaskRecord) -> TaskResult:
    """The subtask's result; one that says why where there is none."""
    if record.result is not None:
        return record.result
    return TaskResult(record.task_id, record.worker_id, TaskState.FAILED, error=record.error or record.state.value)
