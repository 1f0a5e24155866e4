"""Brings every accepted job to its end: plans it, hands its subtasks to workers, makes one answer of the results."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Callable, Protocol, TypeVar

from pibot.contracts import Clock, SubTask, TaskPlan, TaskRequest, TaskResult, TaskState, Usage
from pibot.errors import (
    IllegalTransition,
    JobNotFound,
    LeaseLost,
    LLMError,
    NoWorkers,
    PibotError,
    StoreError,
    WorkerBusy,
    WorkerError,
    WorkerUnreachable,
)
from pibot.logs import event
from pibot.master_components.job_store import JobStore
from pibot.master_components.planner import with_results
from pibot.master_components.records import Job, Lease, SubtaskRecord
from pibot.master_components.states import ENDED_JOBS, JobState, SubtaskState

log = logging.getLogger("pibot.dispatcher")

T = TypeVar("T")

ATTEMPTS = 3
"""How often a subtask is given to a worker before it fails."""

LEASE_SECONDS = 60.0
"""A lease lasts this long without a sign of life: twice what the pool waits for a worker's answer, and Wi-Fi drops."""

BACKOFF = 1.0
MAX_BACKOFF = 30.0
"""Seconds before another attempt: the first, doubled at each one, to the second; each shortened by up to a half."""

SUBTASK_SECONDS = 300.0
"""Seconds for a subtask that names no timeout of its own."""

WORKER_MARGIN = 15.0
"""Seconds beyond its timeout in which a worker has to say that it is over."""

CANCELLED = "the job was cancelled"

JOBS_AT_ONCE = 16
"""Jobs that are worked on at once; the others wait in the store, the more urgent first."""


class Planner(Protocol):
    """Plans jobs and sums up their results."""

    async def analyze(self, description: str) -> tuple[TaskPlan, Usage]: ...

    async def compose(self, description: str, results: Sequence[tuple[SubTask, TaskResult]]) -> tuple[str, Usage]: ...


class Pool(Protocol):
    """The workers."""

    async def acquire(self, timeout: float | None, *, avoid: Collection[str] = ()) -> str: ...

    def release(self, worker_id: str) -> None: ...

    async def run_on(self, worker_id: str, request: TaskRequest, *, timeout: float) -> TaskResult: ...

    async def cancel(self, worker_id: str, task_id: str) -> None: ...


@dataclass(frozen=True)
class Timing:
    """How long the dispatcher waits for what.

    Args:
        lease: seconds.
        backoff: seconds before the second attempt.
        no_worker: seconds that a subtask waits for a free worker before it fails; None for ever.
        sleep: waits some seconds.
        jitter: a number from 0 to 1.
    """

    lease: float = LEASE_SECONDS
    backoff: float = BACKOFF
    no_worker: float | None = None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random


class Dispatcher:
    """Works on jobs within one event loop; what it knows is in the store, so that it can be killed at any point.

    Args:
        store: the jobs.
        planner: plans them.
        pool: runs their subtasks.
        clock: seconds since the epoch, the store's.
        timing: how long it waits for what.
        jobs_at_once: how many jobs are worked on at once.
    """

    def __init__(
        self,
        store: JobStore,
        planner: Planner,
        pool: Pool,
        *,
        clock: Clock = time.time,
        timing: Timing | None = None,
        jobs_at_once: int = JOBS_AT_ONCE,
    ) -> None:
        self._store = store
        self._planner = planner
        self._pool = pool
        self._clock = clock
        self._timing = timing or Timing()
        self._jobs_at_once = jobs_at_once
        # One thread, so that the loop never waits for the disk and the store's calls keep their order.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="pibot-store")
        self._running: dict[str, asyncio.Task[None]] = {}
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._more = False
        self._filling: asyncio.Future[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Take up the jobs that have not ended."""
        await self._fill()

    def notify(self, job_id: str) -> None:
        """There is a new job; call it in the loop."""
        if self._stopping or job_id in self._running:
            return
        if len(self._running) < self._jobs_at_once:
            self._begin(job_id)
        else:
            self._more = True

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
        """
        job = await self._on_disk(self._store.request_cancel, job_id)
        if job.state in ENDED_JOBS:
            return
        running = self._running.get(job_id)
        if running is None:
            await self._end(job_id, JobState.CANCELLED, CANCELLED)
            self._tell_waiters(job_id)
            return
        running.cancel()
        await asyncio.wait([running])

    async def stop(self) -> None:
        """Leave the jobs where they are; :meth:`start` of another dispatcher takes them up."""
        self._stopping = True
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        for job_id in list(self._waiters):
            self._tell_waiters(job_id)
        self._disk.shutdown()

    # --- which jobs ---

    async def _fill(self) -> None:
        """Begin as many waiting jobs as there is room for, the more urgent first."""
        self._more = False
        # So many are enough: at most all the running ones are among them.
        for job_id in await self._on_disk(self._store.unfinished, self._jobs_at_once + 1):
            if self._stopping:
                return
            if job_id in self._running:
                continue
            if len(self._running) >= self._jobs_at_once:
                self._more = True
                return
            self._begin(job_id)

    def _begin(self, job_id: str) -> None:
        self._running[job_id] = asyncio.ensure_future(self._bring_to_end(job_id))

    async def _bring_to_end(self, job_id: str) -> None:
        try:
            await self._work(job_id)
        except asyncio.CancelledError:
            if not self._stopping:
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
            self._tell_waiters(job_id)
            if self._more and not self._stopping:
                self._filling = asyncio.ensure_future(self._fill())

    def _tell_waiters(self, job_id: str) -> None:
        for waiter in self._waiters.pop(job_id, ()):
            if not waiter.done():
                waiter.set_result(None)

    async def _end(self, job_id: str, state: JobState, reason: str) -> None:
        """End a job before its time; what of it still waits or runs is over."""
        try:
            await self._on_disk(lambda: self._store.finish(job_id, state, error=reason))
        except IllegalTransition:
            return  # it had ended just before
        except StoreError as exc:
            # The disk may be full: the job stays as it is, and is taken up at the next start.
            event(log, "job_not_ended", level=logging.ERROR, job=job_id, error=str(exc))
            return
        event(log, "job_finished", job=job_id, status=state.value, error=reason)

    async def _on_disk(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, function, *arguments)

    # --- one job ---

    async def _work(self, job_id: str) -> None:
        job = await self._on_disk(self._store.job, job_id)
        if job.state in ENDED_JOBS:
            return
        if job.cancel_requested:
            await self._end(job_id, JobState.CANCELLED, CANCELLED)
            return
        left = None if job.timeout is None else max(0.0, job.created_at + job.timeout - self._clock())
        try:
            await asyncio.wait_for(self._plan_and_run(job), left)
        except asyncio.TimeoutError:
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
            await self._on_disk(lambda: self._store.finish(job.job_id, JobState.COMPLETED, answer=answer))
            return
        await self._run_steps(job)
        await self._conclude(job.job_id)

    async def _run_steps(self, job: Job) -> None:
        """Run the subtasks as their dependencies allow, until none is left that could be run."""
        single = len(job.subtasks) == 1
        steps: dict[asyncio.Task[None], str] = {}
        try:
            while True:
                current = job if not steps else await self._on_disk(self._store.job, job.job_id)
                begun = set(steps.values())
                for record in current.subtasks:
                    if record.state in (SubtaskState.READY, SubtaskState.LEASED) and record.task_id not in begun:
                        subtask = self._with_needed(record, current)
                        run = self._run_step(job.job_id, subtask, record, single)
                        steps[asyncio.ensure_future(run)] = record.task_id
                if not steps:
                    return
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
        return with_results(_subtask(record), [(step, result) for step, result in needed if result is not None])

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
        await self._on_disk(lambda: self._store.finish(job_id, state, answer=answer or None, error=error, usage=usage))
        event(log, "job_finished", job=job_id, status=state.value, error=error)

    # --- one subtask ---

    async def _run_step(self, job_id: str, subtask: SubTask, record: SubtaskRecord, single: bool) -> None:
        """Run one subtask to its end, with as many attempts as it gets.

        A lease found in the store is from before a restart: the same task is sent to the same worker again, which
        answers with the result that it has, goes on with what it runs, or begins anew where it has forgotten it.
        """
        tried = [attempt.worker_id for attempt in record.attempts]
        lease = record.lease
        reserved = False
        while True:
            if lease is None:
                lease = await self._take_lease(job_id, subtask.task_id, tried)
                if lease is None:
                    return
                reserved = True
            try:
                wait = await self._attempt(lease, subtask, finish_job=single)
            finally:
                if reserved:
                    self._pool.release(lease.worker_id)
            if wait is None:
                return
            if wait:
                tried.append(lease.worker_id)
                await self._timing.sleep(wait)
            lease = None

    async def _take_lease(self, job_id: str, task_id: str, tried: Collection[str]) -> Lease | None:
        """Reserve a free worker and lease the subtask to it; None where none was to be had and the subtask failed."""
        try:
            worker_id = await self._pool.acquire(self._timing.no_worker, avoid=tried)
        except NoWorkers as exc:
            reason = str(exc)
        except asyncio.TimeoutError:
            reason = f"no worker came free within {self._timing.no_worker:g} seconds"
        else:
            try:
                return await self._on_disk(self._store.lease, job_id, task_id, worker_id, self._timing.lease)
            except BaseException:
                self._pool.release(worker_id)
                raise
        await self._on_disk(self._store.give_up, job_id, task_id, reason)
        return None

    async def _attempt(self, lease: Lease, subtask: SubTask, *, finish_job: bool) -> float | None:
        """Run the subtask on the lease's worker and record what came of it.

        Returns:
            Seconds until another attempt; None where the subtask has ended.
        """
        beat = asyncio.ensure_future(self._keep(lease))
        try:
            result = await self._run_remotely(lease, subtask)
            await self._on_disk(lambda: self._store.complete(lease, result, finish_job=finish_job))
        except WorkerBusy:
            await self._on_disk(lambda: self._store.fail_attempt(lease, "busy", final=False, count=False))
            return 0.0
        except WorkerError as exc:
            reason, final = str(exc), lease.attempt >= ATTEMPTS
            await self._on_disk(lambda: self._store.fail_attempt(lease, reason, final=final))
            event(log, "attempt_failed", job=lease.job_id, task=lease.task_id, worker=lease.worker_id, error=reason)
            return None if final else self._backoff(lease.attempt)
        except LeaseLost as exc:
            event(log, "lease_lost", level=logging.WARNING, error=str(exc))
        finally:
            beat.cancel()
        return None

    async def _run_remotely(self, lease: Lease, subtask: SubTask) -> TaskResult:
        seconds = subtask.timeout or SUBTASK_SECONDS
        request = TaskRequest(lease.remote_id, subtask.description, tuple(subtask.skills), seconds)
        try:
            result = await self._pool.run_on(lease.worker_id, request, timeout=seconds + WORKER_MARGIN)
        except asyncio.CancelledError:
            if not self._stopping:  # a hub that is started again takes the task up where it is
                await self._cancel_remotely(lease)
            raise
        if result.state is TaskState.CANCELLED:
            # Not by this hub: the worker was stopped, or somebody cancelled the task there.
            raise WorkerUnreachable(lease.worker_id, result.error or "the task was cancelled there")
        return replace(result, task_id=subtask.task_id)

    async def _cancel_remotely(self, lease: Lease) -> None:
        try:
            await self._pool.cancel(lease.worker_id, lease.remote_id)
        except (WorkerError, WorkerBusy) as exc:
            event(log, "cancel_failed", level=logging.WARNING, task=lease.remote_id, error=str(exc))

    async def _keep(self, lease: Lease) -> None:
        """Renew the lease for as long as its worker is being waited for."""
        while True:
            await self._timing.sleep(self._timing.lease / 3)
            try:
                await self._on_disk(self._store.renew, lease, self._timing.lease)
            except StoreError as exc:
                event(log, "lease_not_renewed", level=logging.WARNING, task=lease.remote_id, error=str(exc))

    def _backoff(self, attempt: int) -> float:
        full = min(MAX_BACKOFF, self._timing.backoff * 2 ** (attempt - 1))
        return float(full * (1 - self._timing.jitter() / 2))


def _subtask(record: SubtaskRecord) -> SubTask:
    return SubTask(record.task_id, record.description, record.skills, record.depends_on, record.timeout)


def _result_of(record: SubtaskRecord) -> TaskResult:
    """The subtask's result; one that says why where there is none."""
    if record.result is not None:
        return record.result
    return TaskResult(record.task_id, record.worker_id, TaskState.FAILED, error=record.error or record.state.value)
