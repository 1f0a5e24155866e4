"""A dispatcher on a real job store, with a pool and a planner whose answers the test gives."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any, Callable

from pibot.contracts import (
    Clock,
    Decision,
    NoWorkerKind,
    NoWorkerReason,
    TaskRequest,
    TaskResult,
    TaskState,
    Usage,
)
from pibot.errors import (
    NoWorkers,
    WorkerUnreachable,
)
from pibot.master_components.dispatch.dispatcher import Dispatcher
from pibot.master_components.dispatch.timing import DispatchTiming
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Job, Submission
from pibot.master_components.workers.exchange import ExchangeTerms
from pibot.master_components.workers.queue import QueueKey
from tests.support.planners import FakePlanner, plan


class FakePool:
    """Workers that answer as ``answer`` says. Keeps what they were asked."""

    def __init__(self, answer: Callable[[str, TaskRequest], Any], workers: int = 3) -> None:
        self.free = [f"worker-{n}" for n in range(1, workers + 1)]
        self.known = len(self.free)
        self.asked: list[tuple[str, TaskRequest]] = []
        self.asked_first: list[bool] = []
        self.cancelled: list[tuple[str, str]] = []
        self.no_candidate = False
        self.lost: list[tuple[str, str]] = []
        self.sick: list[str] = []
        self.set_aside: list[tuple[str, float | None]] = []
        self.released: list[str] = []
        self.silent: dict[str, float] = {}
        self.late: dict[str, TaskResult] = {}
        self.queue_keys: list[QueueKey] = []
        self.decided: list[tuple[str, str, str, Decision]] = []
        self.undecided: Exception | None = None
        self.waiters: list[tuple[QueueKey, int]] = []
        self.answer = answer
        self._freed = asyncio.Event()

    async def acquire(
        self, timeout: float | None, *, avoid: Collection[str] = (), skills: Collection[str] = (), queue_key: QueueKey
    ) -> str:
        if not self.known:
            raise NoWorkers("no worker is known; set WORKER_1_IP")
        self.queue_keys.append(queue_key)
        place = (queue_key, len(self.queue_keys))
        self.waiters.append(place)
        try:
            deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
            return await self._next(place, avoid, deadline)
        finally:
            self.waiters.remove(place)
            self._freed.set()

    async def _next(self, place: tuple[QueueKey, int], avoid: Collection[str], deadline: float | None) -> str:
        while True:
            wanted = [w for w in self.free if w not in avoid] or (list(self.free) if len(avoid) >= self.known else [])
            if wanted and place == min(self.waiters):
                self.free.remove(wanted[0])
                return wanted[0]
            if deadline is not None and asyncio.get_running_loop().time() >= deadline:
                raise asyncio.TimeoutError
            self._freed.clear()
            if deadline is None:
                await self._freed.wait()
            else:
                await asyncio.sleep(0)

    def release(self, worker_id: str) -> None:
        assert worker_id not in self.free
        self.released.append(worker_id)
        self.free.append(worker_id)
        self._freed.set()

    def reserve(self, worker_id: str) -> bool:
        if worker_id not in self.free:
            return False
        self.free.remove(worker_id)
        return True

    def silence(self, worker_id: str) -> float:
        return self.silent.get(worker_id, 0.0)

    def task_lost(self, worker_id: str, reason: str) -> None:
        self.lost.append((worker_id, reason))

    def cannot_work(self, worker_id: str, reason: str, seconds: float | None = None) -> None:
        self.sick.append(worker_id)
        self.set_aside.append((worker_id, seconds))

    def knows_another(self, skills: Collection[str], tried: Collection[str]) -> bool:
        return len(set(tried)) < self.known

    def has_candidate(self, skills: Collection[str] = (), avoid: Collection[str] = ()) -> bool:
        return not self.no_candidate and len(set(avoid)) < self.known

    def why_none(self, skills: Collection[str] = ()) -> NoWorkerReason:
        return NoWorkerReason(NoWorkerKind.ALL_BUSY, "every worker is busy")

    async def fetch_result(self, worker_id: str, task_id: str, *, wait: float = 0) -> TaskResult | None:
        if self.silence(worker_id) > 0:
            raise WorkerUnreachable(worker_id, "silent")
        return self.late.get(task_id)

    async def run_on(self, worker_id: str, terms: ExchangeTerms) -> TaskResult:
        self.asked_first.append(terms.ask_first)
        self.asked.append((worker_id, terms.request))
        answer = self.answer(worker_id, terms.request)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, TaskResult)
        return answer

    async def cancel(self, worker_id: str, task_id: str) -> None:
        self.cancelled.append((worker_id, task_id))

    async def decide(self, worker_id: str, task_id: str, call_id: str, decision: Decision) -> None:
        self.decided.append((worker_id, task_id, call_id, decision))
        if self.undecided is not None:
            raise self.undecided


def ok(worker_id: str, request: TaskRequest) -> TaskResult:
    return TaskResult(
        request.task_id, worker_id, TaskState.COMPLETED, f"did {request.description}", usage=Usage(3, 3, 1)
    )


async def hang(worker_id: str, request: TaskRequest) -> TaskResult:
    await asyncio.Event().wait()
    raise AssertionError


class Sleeps:
    """A sleep that returns at once and keeps the seconds. The heartbeat's sleep never returns."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        if seconds == 20.0:  # the heartbeat: a third of the lease
            await asyncio.Event().wait()
        self.seconds.append(seconds)


@contextlib.asynccontextmanager
async def dispatching(
    path: Path,
    pool: FakePool,
    planner: FakePlanner | None = None,
    timing: DispatchTiming | None = None,
    *,
    clock: Clock = time.time,
    monotonic: Clock = time.monotonic,
    **more: Any,
) -> AsyncIterator[tuple[Dispatcher, JobStore]]:
    store = JobStore(path / "jobs.db", clock=clock, monotonic=monotonic)
    timing = timing or DispatchTiming(lease=60.0, sleep=Sleeps(), jitter=lambda: 0.0)
    plans = planner or FakePlanner(plan(a=()))
    dispatcher = Dispatcher(store, lambda job_id: plans, pool, timing=timing, **more)
    await dispatcher.start()
    try:
        yield dispatcher, store
    finally:
        await dispatcher.stop()
        store.close()


async def ended(dispatcher: Dispatcher, store: JobStore, submission: Submission) -> Job:
    job_id = store.submit(submission).job_id
    dispatcher.notify(job_id)
    assert await dispatcher.wait(job_id, 20)
    return store.queries.job(job_id)


async def begun(pool: FakePool, count: int = 1) -> None:
    await until(lambda: len(pool.asked) >= count)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # the store's thread changes the condition too
        await asyncio.sleep(0)
