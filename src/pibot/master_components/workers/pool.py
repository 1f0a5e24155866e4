"""The master's workers: who is there, who is free, and one task to one of them over HTTP."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Callable, cast

from pibot.contracts import (
    MAX_TASK_TIMEOUT,
    Clock,
    Decision,
    SubTask,
    TaskRequest,
    TaskResult,
    TaskResultDict,
    TaskState,
    WorkerAddress,
    WorkerState,
    WorkerStatus,
    valid_description,
    valid_id,
    valid_skills,
    valid_timeout,
)
from pibot.errors import NoWorkers, TaskNotFound, WorkerBusy, WorkerError, WorkerRejected, WorkerUnreachable
from pibot.logs import event
from pibot.master_components.workers.client import WorkerClient
from pibot.master_components.workers.exchange import CANCEL_TIMEOUT, CHECK_TIMEOUT, WAIT_CHUNK, Heard, WorkerTalk
from pibot.master_components.workers.keys import WorkerKeys
from pibot.master_components.workers.placement import MEGABYTE, Limits
from pibot.master_components.workers.queue import Rank, Reservations
from pibot.master_components.workers.record import Worker
from pibot.settings import Settings
from pibot.tls import client_tls

if TYPE_CHECKING:
    import ssl

log = logging.getLogger("pibot.pool")

DEFAULT_TIMEOUT = 300.0
"""Seconds that ``execute_task`` waits for a free worker and its result together."""

PATIENCE = 60.0
"""Seconds without any sign of life after which ``execute_task`` gives a worker up that has its task."""

ATTEMPTS = 3
"""Workers that ``execute_task`` tries before it gives up on a task that none of them brought to an end."""

LOOKS_AT_ONCE = 64
"""Workers that are asked at once how they are."""

SILENT = 15.0
"""Seconds without a sign of life after which a worker is not waited for when its task is cancelled."""

FIRST: Rank = (0.0, 0.0)


class WorkerPool:
    """Sends tasks to workers, one at a time to each. Made anywhere; used within one event loop.

    Args:
        workers: where they are.
        keys: what they ask for.
        ssl_context: for workers over HTTPS, what they are shown and which are believed.
        limits: beyond what a worker gets no task.
        clock: seconds since the epoch, for what is shown.
        monotonic: seconds, for delays and deadlines.
        sleep, jitter: waits some seconds; a number from 0 to 1.
    """

    def __init__(
        self,
        workers: Iterable[WorkerAddress],
        *,
        keys: WorkerKeys | None = None,
        ssl_context: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        clock: Clock = time.time,
        monotonic: Clock = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._line = Reservations(workers, monotonic)
        self._workers = self._line.workers
        self._client = WorkerClient(keys or WorkerKeys(), ssl_context)
        self._talk = WorkerTalk(
            self._workers, self._client, limits or Limits(), clock, monotonic, sleep=sleep, jitter=jitter
        )

    # --- what the guide's scripts use ---

    async def check_all_workers_health(self) -> dict[str, bool]:
        """Ask every worker's ``/health`` at once; which of them answered as they should."""
        names = list(self._workers)
        healthy = await asyncio.gather(*(self._talk.check(name) for name in names))
        self._line.serve()
        return dict(zip(names, healthy))

    def get_status_summary(self) -> dict[str, Any]:
        """``total``, ``idle``, ``busy``, ``offline`` and ``workers``, as of the last time each was heard of.

        A worker that was not asked yet counts as idle.
        """
        statuses = self.statuses()
        summary: dict[str, Any] = {"total": len(statuses)}
        for state in WorkerState:
            summary[state.value] = sum(status.state is state for status in statuses)
        summary["workers"] = [status.to_json() for status in statuses]
        return summary

    async def execute_task(self, subtask: SubTask, timeout: float | None = None) -> TaskResultDict:
        """Run one task on a free worker and return its result in its JSON form.

        A worker that can't be reached, or vanishes while the task runs, is replaced by another, three in all; so a
        task may run more than once. Each call is an execution of its own, also for the same ``task_id``.

        Args:
            subtask: what to do; its ``depends_on`` is the caller's to mind.
            timeout: seconds to wait for a free worker and the result together; 300 by default.

        Returns:
            The result; ``success`` is False and ``error`` says why where there is none.

        Raises:
            InvalidRequest: the subtask or the timeout does not fit; it names the field.
        """
        timeout = DEFAULT_TIMEOUT if timeout is None else cast(float, valid_timeout(timeout))
        task = TaskRequest(
            valid_id(subtask.task_id, "task_id"),
            valid_description(subtask.description),
            valid_skills(list(subtask.skills)),
            valid_timeout(subtask.timeout),
        )
        deadline = self._monotonic() + timeout
        tried: list[str] = []
        problems: list[str] = []
        while len(tried) < ATTEMPTS:
            try:
                left = max(0.0, deadline - self._monotonic())
                worker_id = await self.acquire(left, avoid=tried, skills=task.skills)
            except NoWorkers as exc:
                return _no_result(task.task_id, TaskState.FAILED, [str(exc)])
            except asyncio.TimeoutError:
                problems.append(f"no worker was free within {timeout:g} s ({self.why_none(task.skills)})")
                return _no_result(task.task_id, TaskState.TIMEOUT, problems)
            try:
                result = await self._run(worker_id, task, deadline)
            except WorkerBusy:
                continue
            except WorkerError as exc:
                problems.append(str(exc))
                tried.append(worker_id)
                continue
            finally:
                self.release(worker_id)
            result["task_id"] = task.task_id
            return result
        return _no_result(task.task_id, TaskState.FAILED, problems)

    async def close(self) -> None:
        """Close the connections. Calling it twice is fine."""
        self._line.close()
        await self._client.close()

    # --- what is known of the workers ---

    def statuses(self) -> tuple[WorkerStatus, ...]:
        """What is known of each worker, in the order they came. May be called from any thread."""
        now = self._monotonic()
        return tuple(worker.status(now) for worker in list(self._workers.values()))

    def why_none(self, skills: Collection[str] = ()) -> str:
        """Why no worker takes a task with these skills now, for people. May be called from any thread."""
        return self._line.why_none(skills)

    def hopeful(self, skills: Collection[str] = ()) -> bool:
        """Whether a worker can be expected to take a task with these skills once it is free."""
        return self._line.hopeful(skills)

    def silence(self, worker_id: str) -> float:
        """Seconds since a worker's last sign of life."""
        worker = self._workers.get(worker_id)
        return float("inf") if worker is None else self._monotonic() - worker.heard

    async def look(self) -> None:
        """Ask every worker how it is: its memory, temperature, load and skills decide what it gets."""
        turn = asyncio.Semaphore(LOOKS_AT_ONCE)

        async def look_at(worker_id: str) -> None:
            async with turn:
                await self._talk.look(worker_id)

        await asyncio.gather(*(look_at(name) for name in list(self._workers)))
        self._line.serve()

    # --- coming and going ---

    def join(self, address: WorkerAddress, *, registered: bool) -> None:
        """A worker came, came back, or has another address than before.

        Args:
            registered: it came by itself, and goes for good when it leaves.
        """
        known = self._workers.get(address.worker_id)
        if known is None:
            self._line.add(Worker(address, self._monotonic(), registered=registered))
            event(log, "worker_joined", worker=address.worker_id, url=address.url)
            return
        known.leaving = False
        if known.state is WorkerState.OFFLINE and not known.reserved:
            known.seen(self._clock(), self._monotonic())
            known.idle()
        if known.address != address:
            known.address = address
            event(log, "worker_moved", worker=address.worker_id, url=address.url)
        self._line.serve()

    def leave(self, worker_id: str) -> None:
        """Give a worker no new task; once its task has ended it is forgotten, if it had come by itself.

        Raises:
            WorkerUnreachable: there is none of that id.
        """
        worker = self._talk.known(worker_id)
        worker.leaving = True
        if worker.registered and not worker.reserved:
            self._line.remove(worker_id)
        event(log, "worker_leaves", worker=worker_id)

    def drain(self, worker_id: str, drained: bool = True) -> None:
        """Give a worker no new task until this is called with False.

        Raises:
            WorkerUnreachable: there is none of that id.
        """
        worker = self._talk.known(worker_id)
        worker.drained = drained
        if not drained:
            worker.leaving = False
        event(log, "worker_drained" if drained else "worker_undrained", worker=worker_id)
        self._line.serve()

    # --- what the dispatcher uses ---

    async def acquire(
        self,
        timeout: float | None,
        *,
        avoid: Collection[str] = (),
        skills: Collection[str] = (),
        rank: Rank = FIRST,
    ) -> str:
        """Reserve a free worker and return its id; :meth:`release` gives it back.

        Of the free ones that have the skills and are well, the least burdened is taken, and among equals the longest
        idle. Of those who wait for one, the smallest rank is served first, then who came first.

        Args:
            timeout: seconds to wait for one; None for ever.
            avoid: workers to take only if no others can be expected to take the task soon.
            skills: what the task needs.
            rank: the job's priority, negative, and when it was accepted.

        Raises:
            NoWorkers: the pool has never known any.
            asyncio.TimeoutError: none came free in time.
        """
        return await self._line.acquire(timeout, avoid, skills, rank)

    def reserve(self, worker_id: str) -> bool:
        """Take one worker out of turn, because it has a task from before; whether it was free and known."""
        return self._line.reserve(worker_id)

    def release(self, worker_id: str) -> None:
        """Give back a worker that :meth:`acquire` or :meth:`reserve` gave."""
        self._line.release(worker_id)

    async def run_on(
        self,
        worker_id: str,
        request: TaskRequest,
        *,
        timeout: float,
        patience: float = 0.0,
        chunk: float = WAIT_CHUNK,
        ask_first: bool = False,
        heard: Heard | None = None,
    ) -> TaskResult:
        """Run a task on a worker that was acquired, and wait for its result.

        Args:
            request: its ``task_id`` must be new to the worker, or the same task again.
            timeout: seconds; past it the task is cancelled there.
            patience: seconds without a sign of life for which a worker that has the task is asked again.
            chunk: seconds that one request may wait there.
            ask_first: it may have the task from before: ask for its result before it is sent.
            heard: called with its calls that wait for the owner; that waiting is not its time.

        Raises:
            WorkerBusy: it runs another task.
            WorkerNotReached: the task did not get there.
            WorkerUnreachable: it gave no sign of life, or forgot the task.
            WorkerRejected: it refused the task.
        """
        deadline = self._monotonic() + timeout
        body = await self._exchange(
            worker_id, request, deadline, patience=patience, chunk=chunk, ask_first=ask_first, heard=heard
        )
        return self._talk.parse(worker_id, body)

    async def fetch_result(self, worker_id: str, task_id: str, *, wait: float = 0) -> TaskResult | None:
        """Ask a worker for a result; None where the task still runs after ``wait`` seconds.

        Raises:
            TaskNotFound: it does not know the task.
            WorkerUnreachable: it did not answer.
            WorkerRejected: it refused to answer.
        """
        status, body = await self._talk.get_result(worker_id, task_id, int(wait))
        return self._talk.parse(worker_id, body) if status == 200 else None

    async def cancel(self, worker_id: str, task_id: str) -> None:
        """End a task on its worker; a task that it does not know counts as ended.

        Raises:
            WorkerUnreachable: it did not answer.
            WorkerRejected: it refused.
        """
        there = self.silence(worker_id) < SILENT
        try:
            await self._talk.request(
                worker_id, "POST", f"/task/{task_id}/cancel", timeout=CANCEL_TIMEOUT if there else CHECK_TIMEOUT
            )
        except TaskNotFound:
            log.info("cancelled task=%s worker=%s was not known there", task_id, worker_id)

    async def decide(self, worker_id: str, task_id: str, call_id: str, decision: Decision) -> None:
        """Tell a worker what the owner has decided of a call that waits there.

        Raises:
            TaskNotFound: it knows no such task, or no such call of it.
            WorkerUnreachable: it did not answer.
            WorkerRejected: with 409 or 410, the call does not wait there, or is another.
        """
        path = f"/task/{task_id}/approvals/{call_id}"
        await self._talk.request(worker_id, "POST", path, decision.to_json(), timeout=CHECK_TIMEOUT)

    def task_lost(self, worker_id: str, reason: str) -> None:
        """Note that a worker lost its task; one that does so again and again is set aside for a growing time."""
        worker = self._workers.get(worker_id)
        if worker is not None and worker.failed(reason, self._clock(), self._monotonic()):
            event(log, "worker_set_aside", level=logging.WARNING, worker=worker_id, error=reason)

    # --- one task on one worker ---

    async def _run(self, worker_id: str, task: TaskRequest, deadline: float) -> TaskResultDict:
        """One execution: under an id of its own, because an id that a worker has seen is not run again."""
        left = max(0.001, deadline - self._monotonic())  # a caller that has left wants no result
        remote = TaskRequest(
            f"{task.task_id[:80]}.{secrets.token_hex(6)}",
            task.description,
            task.skills,
            round(min(task.timeout or left, left, MAX_TASK_TIMEOUT), 3),
        )
        return await self._exchange(worker_id, remote, deadline, patience=PATIENCE)

    async def _exchange(
        self,
        worker_id: str,
        request: TaskRequest,
        deadline: float,
        *,
        patience: float,
        chunk: float = WAIT_CHUNK,
        ask_first: bool = False,
        heard: Heard | None = None,
    ) -> TaskResultDict:
        """The task's way there and back, and what it says of the worker."""
        worker = self._talk.known(worker_id)
        was_there = worker.state is not WorkerState.OFFLINE
        try:
            body = await self._talk.exchange(
                worker_id, request, deadline, patience=patience, chunk=chunk, ask_first=ask_first, heard=heard
            )
        except asyncio.CancelledError:
            # Nobody waits for it any more; a worker that can't be told ends it by the task's own timeout.
            log.info("abandoned task=%s worker=%s", request.task_id, worker_id)
            raise
        except WorkerUnreachable as exc:
            if was_there:  # one that was not is tried again by its own delays
                self.task_lost(worker_id, exc.problem)
            raise
        except WorkerRejected as exc:
            if exc.status not in (400, 413):  # these are the task's fault
                self.task_lost(worker_id, exc.problem)
            raise
        worker.breaker.succeeded()
        return body


def create_default_worker_pool(environ: Mapping[str, str] | None = None) -> WorkerPool:
    """The pool of ``WORKER_1_IP`` … ``WORKER_n_IP`` (and their ``_PORT``), with ``PIBOT_API_KEY``.

    Args:
        environ: the environment; the process's own by default.

    Raises:
        SettingsError: a variable does not fit; it is named.
    """
    return create_worker_pool(Settings.load(environ))


def create_worker_pool(settings: Settings, clock: Clock = time.time) -> WorkerPool:
    """The pool as the settings have it.

    Args:
        clock: seconds since the epoch, for what is shown.

    Raises:
        SettingsError: a file of PIBOT_TLS_… can't be used.
    """
    return WorkerPool(
        settings.workers,
        keys=WorkerKeys.of(settings),
        ssl_context=client_tls(settings),
        limits=Limits(settings.hot_celsius, settings.min_memory_mb * MEGABYTE),
        clock=clock,
    )


def _no_result(task_id: str, state: TaskState, problems: list[str]) -> TaskResultDict:
    return TaskResult(task_id, None, state, error="; ".join(problems)).to_json()
