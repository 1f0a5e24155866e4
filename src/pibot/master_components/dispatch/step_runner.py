"""Runs one step to its end: finds a worker, leases the step to it, and tries again where an attempt failed."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from pibot.contracts import MAX_TASK_TIMEOUT, Fault, SubTask, TaskResult, TaskState, Usage
from pibot.errors import (
    LeaseLost,
    NoWorkers,
    WorkerBusy,
    WorkerError,
    WorkerNotReached,
    WorkerUnreachable,
)
from pibot.logs import event
from pibot.master_components.dispatch.approvals import ApprovalBroker
from pibot.master_components.dispatch.heartbeat import Heartbeat
from pibot.master_components.dispatch.job_activity import JobActivity
from pibot.master_components.dispatch.late_results import LateResults
from pibot.master_components.dispatch.model_outage import ModelOutage, Patience
from pibot.master_components.dispatch.protocols import StepPool
from pibot.master_components.dispatch.resumed_leases import ResumedLeases
from pibot.master_components.dispatch.timing import (
    CANCEL_SECONDS,
    MAX_RESULT_WAIT,
    NO_WORKER_CHECKS,
    WORKER_MARGIN,
    DispatchTiming,
)
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Lease, StepRecord
from pibot.master_components.store.states import MAX_ATTEMPTS
from pibot.master_components.store.thread import StoreThread
from pibot.master_components.workers.exchange import ExchangeTerms
from pibot.master_components.workers.queue import QueueKey

log = logging.getLogger("pibot.dispatcher")


class _WorkerSilent(WorkerUnreachable):
    """The worker gave no sign of life for the length of its lease; it may still run the task."""


class StepRunner:
    """Runs steps on workers. Its state is in the store, so that it can be killed at any point.

    Args:
        store: the jobs.
        on_disk: runs the store's calls.
        pool: the workers.
        timing: how long it waits for what.
        outage: what is known of the model's provider.
    """

    def __init__(
        self, store: JobStore, on_disk: StoreThread, pool: StepPool, timing: DispatchTiming, outage: ModelOutage
    ) -> None:
        self._outage = outage
        self._store = store
        self._on_disk = on_disk
        self._pool = pool
        self._timing = timing
        self.approvals = ApprovalBroker(store.approvals, on_disk, pool)
        self._late = LateResults(store, on_disk, pool, timing.sleep)
        self._heartbeat = Heartbeat(store, on_disk, pool, timing)
        self._resumed = ResumedLeases(pool)
        self.leave_running = False
        """Set when the hub stops: tasks are not cancelled on their workers then."""

    def resume(self, leases: Sequence[Lease]) -> None:
        """Keep the workers of leases from before a restart, so that they get no other task meanwhile."""
        self._resumed.keep(leases)

    async def abandon(self, job_id: str) -> None:
        """Cancel the tasks of a job from before a restart that no step has resumed."""
        await asyncio.gather(*(self._cancel_remotely(lease) for lease in self._resumed.not_resumed(job_id)))

    def let_go(self, job_id: str) -> None:
        """Release the workers that were kept for a job's leases and not used."""
        for lease in self._resumed.not_resumed(job_id):
            self._resumed.release(lease)

    async def run(
        self,
        job_id: str,
        step: SubTask,
        record: StepRecord,
        *,
        finish_job: bool,
        look_again: bool = False,
        queue_key: QueueKey,
        activity: JobActivity,
    ) -> None:
        """Run one step to its end, with as many attempts as it gets.

        A lease in ``record`` is from before a restart: its worker is asked for the result that it may have, and gets
        the same task again only if it does not know it (docs/decisions.md, D25).

        Args:
            job_id: the job of the step.
            step: what to run; its description holds the results that it needs.
            record: the step as it is stored.
            finish_job: end the job with the step's result in the same commit; for a job of one step.
            look_again: do not end the job with a failure, since its plan may be changed.
            queue_key: the job's order among those that wait for a worker.
            activity: counts the step while it waits and while it has a worker.
        """
        tried = [attempt.worker_id for attempt in record.attempts]
        lease = record.lease
        patience = Patience(self._outage, self._timing)
        while True:
            resumed = lease is not None
            if lease is None:
                with activity.step_waits():
                    worker_id = await self._find_model_and_worker(job_id, step, tried, queue_key, patience)
                if worker_id is None:
                    return
            else:
                worker_id = lease.worker_id
                self._resumed.resume(lease)
            with activity.step_has_worker():
                try:
                    if lease is None:
                        lease = await self._on_disk(
                            self._store.leases.grant, job_id, step.task_id, worker_id, self._timing.lease
                        )
                    ending = {"finish_job": finish_job, "look_again": look_again}
                    pause = await self._attempt(lease, step, tried, patience, ending, resumed=resumed)
                finally:
                    if not resumed:
                        self._pool.release(worker_id)
                    elif lease is not None:
                        self._resumed.release(lease)
            if pause is None:
                return
            if pause:
                tried.append(worker_id)
                with activity.step_waits():
                    await self._timing.sleep(pause)
            lease = None

    async def stop(self) -> None:
        """Stop asking for late results."""
        await self._late.stop()

    async def _find_model_and_worker(
        self, job_id: str, step: SubTask, tried: Collection[str], queue_key: QueueKey, patience: Patience
    ) -> str | None:
        """Wait until the model may be asked, then reserve a worker. If that is not to be, fail the step; return None"""
        while True:
            too_late = await patience.wait_for_model()
            if too_late is not None:
                await self._on_disk(self._store.give_up, job_id, step.task_id, too_late)
                return None
            worker_id = await self._find_worker(job_id, step, tried, queue_key)
            if worker_id is None or not self._outage.rests:
                return worker_id
            self._pool.release(worker_id)  # the rest began while the step waited for it

    async def _find_worker(self, job_id: str, step: SubTask, tried: Collection[str], queue_key: QueueKey) -> str | None:
        """Reserve a worker. If none is to be had, fail the step and return None."""
        seconds = self._timing.no_worker
        between_checks = None if seconds is None else seconds / NO_WORKER_CHECKS
        failed_checks = 0
        while True:
            try:
                return await self._pool.acquire(between_checks, avoid=tried, skills=step.skills, queue_key=queue_key)
            except NoWorkers as exc:
                reason = str(exc)
            except asyncio.TimeoutError:
                # While a worker may come, the step only waits for other steps to end.
                failed_checks = 0 if self._pool.has_candidate(step.skills) else failed_checks + 1
                if failed_checks < NO_WORKER_CHECKS:
                    continue
                reason = f"no worker could take it within {seconds:g} seconds: {self._pool.why_none(step.skills)}"
            break
        await self._on_disk(self._store.give_up, job_id, step.task_id, reason)
        return None

    async def _attempt(
        self,
        lease: Lease,
        step: SubTask,
        tried: list[str],
        patience: Patience,
        ending: Mapping[str, bool],
        *,
        resumed: bool,
    ) -> float | None:
        """Run a step on its lease's worker and record the outcome.

        Args:
            tried: the workers that had the step; one that could not do it is added.
            patience: how long the step waits for what can do it.
            ending: whether the result ends the job; see :meth:`LeaseStore.complete`.

        Returns:
            Seconds until another attempt, 0 if none was made; None if the step has ended.
        """
        began = patience.try_began()
        try:
            result = await self._run_remotely(lease, step, resumed=resumed)
            if result.fault is not None:
                if result.fault is Fault.WORKER and not patience.spares(lease.worker_id):
                    exc = WorkerUnreachable(lease.worker_id, result.error or "can't work")
                    return await self._fail(lease, exc, result.usage)
                too_late = self._may_not_wait(result, step, [*tried, lease.worker_id], patience, began)
                if too_late is None:
                    await self._spare(lease, result)
                    tried.append(lease.worker_id)
                    return 0.0
                result = replace(result, error=f"{result.error}{too_late}")
            elif result.usage.llm_calls > 0:
                self._outage.answered(began)
            await self._on_disk.shielded(lambda: self._store.leases.complete(lease, result, **ending))
        except (WorkerBusy, WorkerError) as exc:
            # A worker that did not get the task made no attempt (docs/decisions.md, D27). A resumed task may have
            # reached its worker before the restart.
            if isinstance(exc, (WorkerBusy, WorkerNotReached)) and not resumed:
                event(log, "not_taken", job=lease.job_id, task=lease.task_id, worker=lease.worker_id, error=str(exc))
                await self._on_disk(lambda: self._store.leases.fail(lease, "not taken", final=False, count=False))
                return 0.0
            return await self._fail(lease, exc)
        except LeaseLost as exc:
            event(log, "lease_lost", level=logging.WARNING, error=str(exc))
        return None

    def _may_not_wait(
        self, result: TaskResult, step: SubTask, tried: Sequence[str], patience: Patience, began: float
    ) -> str | None:
        """Decide whether a step fails with the result of a worker that could not do it (docs/decisions.md, D117).

        Args:
            tried: the workers that had the step; that of the result is the last.

        Returns:
            None if the step waits for another worker, or for the model; else what to add to the error.
        """
        if result.fault is Fault.SETTING and not self._pool.knows_another(step.skills, tried):
            return ""
        if result.fault is Fault.MODEL:
            error = result.error or "the model's provider does not answer it"
            only_one = not self._pool.knows_another((), tried[-1:])
            if not self._outage.failed_for(tried[-1], error, only_one=only_one, rest=result.model_rest):
                self._pool.cannot_work(tried[-1], error, result.model_rest)
            if patience.own_fault(began, result.model_rest):
                return "; it answers other tasks meanwhile"
        used_up = patience.used_up()
        return None if used_up is None else f"; {used_up}"

    async def _spare(self, lease: Lease, result: TaskResult) -> None:
        """Make a step ready again that a worker could not do, through no fault of the step's."""
        fault, error = result.fault, result.error or ""
        assert fault is not None
        # An outage is told as a whole, and not once for each step.
        told = "" if fault is Fault.MODEL else error
        await self._on_disk(lambda: self._store.leases.spare(lease, result.usage, told))
        event(
            log,
            "attempt_spared",
            job=lease.job_id,
            task=lease.task_id,
            worker=lease.worker_id,
            fault=fault.value,
            error=error,
        )

    async def _fail(self, lease: Lease, exc: WorkerBusy | WorkerError, usage: Usage | None = None) -> float | None:
        """Record a failed attempt; return the seconds until the next one, or None if it was the last."""
        reason, final = str(exc), lease.attempt >= MAX_ATTEMPTS
        if isinstance(exc, WorkerBusy):
            reason = f"{lease.worker_id}: the task was lost while the hub was down, and it is {exc}"
        await self._on_disk(lambda: self._store.leases.fail(lease, reason, final=final, usage=usage))
        event(log, "attempt_failed", job=lease.job_id, task=lease.task_id, worker=lease.worker_id, error=reason)
        if isinstance(exc, _WorkerSilent):
            self._pool.task_lost(lease.worker_id, exc.problem)
            self._late.expect(lease)
        return None if final else self._timing.pause_after(lease.attempt)

    async def _run_remotely(self, lease: Lease, step: SubTask, *, resumed: bool) -> TaskResult:
        """Run a step on its lease's worker, and renew the lease meanwhile.

        Raises:
            WorkerBusy, WorkerError: the worker refused the task, forgot it, cancelled it, or fell silent.
        """
        terms = ExchangeTerms(
            step.to_request(lease.remote_id),
            # A step without a timeout gets the worker's own PIBOT_TASK_TIMEOUT.
            timeout=(step.timeout or MAX_TASK_TIMEOUT) + WORKER_MARGIN,
            patience=math.inf,  # the heartbeat decides
            chunk=min(MAX_RESULT_WAIT, self._timing.heartbeat),
            ask_first=resumed,
            on_pending=self.approvals.of(lease),
        )
        running = asyncio.ensure_future(self._pool.run_on(lease.worker_id, terms))
        beating = asyncio.ensure_future(self._heartbeat.keep(lease))
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
            if not self.leave_running:  # when the hub stops, the next one resumes the task
                await self._cancel_remotely(lease)
            raise
        finally:
            beating.cancel()
            running.cancel()
        if result.state is TaskState.CANCELLED:
            # This hub did not cancel it: the worker was stopped, or somebody cancelled the task there.
            raise WorkerUnreachable(lease.worker_id, result.error or "the task was cancelled there")
        return replace(result, task_id=step.task_id)

    async def _cancel_remotely(self, lease: Lease) -> None:
        """Cancel a lease's task on its worker; if the worker can't be reached, do it when it is back."""
        try:
            await asyncio.wait_for(self._pool.cancel(lease.worker_id, lease.remote_id), CANCEL_SECONDS)
        except (WorkerError, WorkerBusy, asyncio.TimeoutError) as exc:
            error = str(exc) or f"no answer within {CANCEL_SECONDS:g} s"
            event(log, "cancel_failed", level=logging.WARNING, task=lease.remote_id, error=error)
            self._late.expect(lease)
