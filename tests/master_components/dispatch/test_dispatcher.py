from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any, Callable

import pytest

from pibot.contracts import (
    Clock,
    Decision,
    NoWorkerKind,
    NoWorkerReason,
    TaskComplexity,
    TaskPlan,
    TaskRequest,
    TaskResult,
    TaskState,
    Usage,
)
from pibot.errors import (
    JobNotFound,
    LLMUnavailable,
    NoWorkers,
    StoreError,
    StoreUnwritable,
    WorkerBusy,
    WorkerNotReached,
    WorkerRejected,
    WorkerUnreachable,
)
from pibot.master_components.dispatch.dispatcher import Dispatcher
from pibot.master_components.dispatch.late_results import ASK_AGAIN
from pibot.master_components.dispatch.step_runner import StepRunner
from pibot.master_components.dispatch.timing import NO_WORKER_CHECKS, DispatchTiming
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Job, Submission
from pibot.master_components.store.states import MAX_ATTEMPTS, JobState, StepState
from pibot.master_components.store.thread import StoreThread
from pibot.master_components.workers.exchange import ExchangeTerms
from pibot.master_components.workers.queue import QueueKey
from tests.support.clocks import FakeClock
from tests.support.planners import FakePlanner, plan


class FakePool:
    """Workers whose answers are its test's; it keeps what they were asked."""

    def __init__(self, answer: Callable[[str, TaskRequest], Any], workers: int = 3) -> None:
        self.free = [f"worker-{n}" for n in range(1, workers + 1)]
        self.known = len(self.free)
        self.asked: list[tuple[str, TaskRequest]] = []
        self.asked_first: list[bool] = []
        self.cancelled: list[tuple[str, str]] = []
        self.hopeless = False
        self.lost: list[tuple[str, str]] = []
        self.released: list[str] = []
        self.silent: dict[str, float] = {}
        self.late: dict[str, TaskResult] = {}
        self.ranks: list[QueueKey] = []
        self.decided: list[tuple[str, str, str, Decision]] = []
        self.undecided: Exception | None = None
        self._line: list[tuple[QueueKey, int]] = []
        self._answer = answer
        self._freed = asyncio.Event()

    async def acquire(
        self, timeout: float | None, *, avoid: Collection[str] = (), skills: Collection[str] = (), queue_key: QueueKey
    ) -> str:
        if not self.known:
            raise NoWorkers("no worker is known; set WORKER_1_IP")
        self.ranks.append(queue_key)
        place = (queue_key, len(self.ranks))
        self._line.append(place)
        try:
            deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
            return await self._next(place, avoid, deadline)
        finally:
            self._line.remove(place)
            self._freed.set()

    async def _next(self, place: tuple[QueueKey, int], avoid: Collection[str], deadline: float | None) -> str:
        while True:
            wanted = [w for w in self.free if w not in avoid] or (list(self.free) if len(avoid) >= self.known else [])
            if wanted and place == min(self._line):
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

    def has_candidate(self, skills: Collection[str] = ()) -> bool:
        return not self.hopeless

    def why_none(self, skills: Collection[str] = ()) -> NoWorkerReason:
        return NoWorkerReason(NoWorkerKind.ALL_BUSY, "every worker is busy")

    async def fetch_result(self, worker_id: str, task_id: str, *, wait: float = 0) -> TaskResult | None:
        if self.silence(worker_id) > 0:
            raise WorkerUnreachable(worker_id, "silent")
        return self.late.get(task_id)

    async def run_on(self, worker_id: str, terms: ExchangeTerms) -> TaskResult:
        self.asked_first.append(terms.ask_first)
        self.asked.append((worker_id, terms.request))
        answer = self._answer(worker_id, terms.request)
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


class Sleeps:
    """Keeps how long the dispatcher wished to sleep."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        if seconds == 20.0:  # a third of the lease: the heartbeat
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
    while not condition():  # noqa: ASYNC110  # the store's thread has its part in it
        await asyncio.sleep(0)


# --- the way of a job ---


async def test_a_job_is_planned_run_and_answered(tmp_path: Path) -> None:
    pool = FakePool(ok)
    async with dispatching(tmp_path, pool, FakePlanner(plan(a=(), b=()))) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("the job"))
        assert (job.state, job.answer, job.error) == (JobState.COMPLETED, "a=did a; b=did b", None)
        assert job.usage == Usage(1 + 2 + 6, 1 + 2 + 6, 4)
        assert {s.state for s in job.steps} == {StepState.COMPLETED}
        assert {worker for worker, _ in pool.asked} == {"worker-1", "worker-2"}
        assert sorted(pool.free) == ["worker-1", "worker-2", "worker-3"]


async def test_a_job_with_skills_is_not_planned_and_not_summed_up(tmp_path: Path) -> None:
    planner = FakePlanner(LLMUnavailable("down"))
    async with dispatching(tmp_path, FakePool(ok), planner) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("list files", ("shell_exec",)))
        assert (job.state, job.answer, planner.planned) == (JobState.COMPLETED, "did list files", 0)


async def test_a_job_that_the_master_handles_needs_no_worker(tmp_path: Path) -> None:
    planner = FakePlanner(TaskPlan(TaskComplexity.SIMPLE, True, (), "4"))
    pool = FakePool(ok, workers=0)
    async with dispatching(tmp_path, pool, planner) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("what is 2+2?"))
        assert (job.state, job.answer, pool.asked) == (JobState.COMPLETED, "4", [])


async def test_independent_steps_run_at_the_same_time_and_needed_results_are_handed_on(tmp_path: Path) -> None:
    together = asyncio.Event()

    async def both(worker_id: str, request: TaskRequest) -> TaskResult:
        if request.description in ("a", "b"):
            if len(pool.asked) == 2:
                together.set()
            await together.wait()
        return ok(worker_id, request)

    pool = FakePool(both)
    async with dispatching(tmp_path, pool, FakePlanner(plan(a=(), b=(), c=("a",)))) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x"))
        assert job.state is JobState.COMPLETED
        last = pool.asked[-1][1].description
        assert last.startswith("c\n\nResults of earlier steps")
        assert '"did a"' in last
        assert "did b" not in last


async def test_a_failed_step_keeps_the_others_results_and_names_itself(tmp_path: Path) -> None:
    def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        if request.description == "a":
            return TaskResult(request.task_id, worker_id, TaskState.FAILED, error="no such file")
        return ok(worker_id, request)

    pool = FakePool(answer)
    async with dispatching(tmp_path, pool, FakePlanner(plan(a=(), b=("a",), c=()))) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x"))
        assert job.state is JobState.FAILED
        assert "step 'a' failed: no such file" in (job.error or "")
        assert "step 'b' skipped: it needs 'a'" in (job.error or "")
        assert "c=did c" in (job.answer or "")
        assert len(pool.asked) == 2  # what the agent says it could not do is not tried again


async def test_a_job_that_cannot_be_planned_fails_with_the_models_sentence(tmp_path: Path) -> None:
    async with dispatching(tmp_path, FakePool(ok), FakePlanner(LLMUnavailable("set VOLC_API_KEY"))) as (d, store):
        job = await ended(d, store, Submission("x"))
        assert (job.state, job.error) == (JobState.FAILED, "the job could not be planned: set VOLC_API_KEY")


async def test_a_job_without_any_worker_fails_and_says_what_to_set(tmp_path: Path) -> None:
    async with dispatching(tmp_path, FakePool(ok, workers=0)) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert job.state is JobState.FAILED
        assert "WORKER_1_IP" in (job.error or "")


# --- workers that fail ---


async def test_a_lost_worker_is_replaced_and_each_attempts_error_is_kept(tmp_path: Path) -> None:
    def answer(worker_id: str, request: TaskRequest) -> Any:
        return ok(worker_id, request) if worker_id == "worker-3" else WorkerUnreachable(worker_id, "no answer")

    pool, sleeps = FakePool(answer), Sleeps()
    timing = DispatchTiming(lease=60.0, sleep=sleeps, jitter=lambda: 0.0)
    async with dispatching(tmp_path, pool, timing=timing) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert job.state is JobState.COMPLETED
        assert [(a.worker_id, a.error) for a in job.steps[0].attempts] == [
            ("worker-1", "worker-1: no answer"),
            ("worker-2", "worker-2: no answer"),
            ("worker-3", None),
        ]
        assert sleeps.seconds == [1.0, 2.0]
        assert len({request.task_id for _, request in pool.asked}) == 3


async def test_after_the_last_attempt_the_step_fails(tmp_path: Path) -> None:
    pool = FakePool(lambda worker_id, request: WorkerRejected(worker_id, "unknown skill 'x'"), workers=2)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert job.state is JobState.FAILED
        assert "unknown skill 'x'" in (job.error or "")
        assert len(pool.asked) == MAX_ATTEMPTS
        assert sorted(pool.free) == ["worker-1", "worker-2"]


async def test_a_busy_worker_is_no_attempt(tmp_path: Path) -> None:
    busy = [True] * 5

    def answer(worker_id: str, request: TaskRequest) -> Any:
        return WorkerBusy("other") if busy and busy.pop() else ok(worker_id, request)

    async with dispatching(tmp_path, FakePool(answer)) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert job.state is JobState.COMPLETED
        assert [a.number for a in job.steps[0].attempts] == [1]


async def test_a_task_that_its_worker_cancelled_is_tried_elsewhere(tmp_path: Path) -> None:
    def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        if worker_id == "worker-1":
            return TaskResult(request.task_id, worker_id, TaskState.CANCELLED, error="worker-1 was stopped")
        return ok(worker_id, request)

    async with dispatching(tmp_path, FakePool(answer)) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert (job.state, job.steps[0].worker_id) == (JobState.COMPLETED, "worker-2")


async def test_a_lease_is_renewed_while_its_worker_works(tmp_path: Path) -> None:
    release = asyncio.Event()
    beats = 0

    async def beat(seconds: float) -> None:
        nonlocal beats
        assert seconds == 10.0
        beats += 1
        if beats == 3:
            release.set()
        await asyncio.sleep(0)

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await release.wait()
        return ok(worker_id, request)

    pool = FakePool(lambda w, r: answer(w, r))
    async with dispatching(tmp_path, pool, timing=DispatchTiming(lease=30.0, sleep=beat)) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert job.state is JobState.COMPLETED
        assert beats >= 3


async def test_a_defect_fails_its_job_and_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def answer(worker_id: str, request: TaskRequest) -> Any:
        return ZeroDivisionError("oh") if request.description == "bad" else ok(worker_id, request)

    async with dispatching(tmp_path, FakePool(answer)) as (dispatcher, store):
        bad = await ended(dispatcher, store, Submission("bad", ()))
        assert (bad.state, bad.error) == (JobState.FAILED, "a defect in the hub: ZeroDivisionError: oh")
        assert "Traceback" in caplog.text
        assert (await ended(dispatcher, store, Submission("good", ()))).state is JobState.COMPLETED


# --- cancelling and deadlines ---


async def hang(worker_id: str, request: TaskRequest) -> TaskResult:
    await asyncio.Event().wait()
    raise AssertionError


async def test_cancelling_a_job_reaches_its_workers_and_its_waiting_steps(tmp_path: Path) -> None:
    pool = FakePool(hang)
    async with dispatching(tmp_path, pool, FakePlanner(plan(a=(), b=("a",)))) as (dispatcher, store):
        job_id = store.submit(Submission("x")).job_id
        dispatcher.notify(job_id)
        await begun(pool)
        await dispatcher.cancel(job_id)
        job = store.queries.job(job_id)
        assert (job.state, job.error) == (JobState.CANCELLED, "the job was cancelled")
        assert {s.state for s in job.steps} == {StepState.CANCELLED}
        assert pool.cancelled == [("worker-1", pool.asked[0][1].task_id)]
        assert sorted(pool.free) == ["worker-1", "worker-2", "worker-3"]
        await dispatcher.cancel(job_id)  # again: nothing more
        assert len(pool.cancelled) == 1


async def test_cancelling_twice_waits_twice_until_the_workers_have_let_go(tmp_path: Path) -> None:
    pool = FakePool(hang)
    asked, may_end = asyncio.Event(), asyncio.Event()

    async def slowly(worker_id: str, task_id: str) -> None:
        asked.set()
        await may_end.wait()
        pool.cancelled.append((worker_id, task_id))

    pool.cancel = slowly  # type: ignore[method-assign]  # the same pool, with slower workers
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(pool)
        calls = [asyncio.ensure_future(dispatcher.cancel(job_id)) for _ in range(2)]
        await asked.wait()
        calls.append(asyncio.ensure_future(dispatcher.cancel(job_id)))
        # Each store call of the three has been made when this one has: they take turns in one thread.
        assert not await dispatcher.wait(job_id, 0.05)
        assert not any(call.done() for call in calls)
        may_end.set()
        await asyncio.gather(*calls)
        assert (store.queries.job(job_id).state, len(pool.cancelled)) == (JobState.CANCELLED, 1)


async def test_cancelling_a_job_that_was_begun_just_now_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dispatching(tmp_path, FakePool(hang)) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        write = dispatcher._on_disk.once

        async def write_and_begin(*arguments: Any) -> Any:
            written = await write(*arguments)
            dispatcher.notify(job_id)  # its work has not taken its first step when the cancel goes on
            return written

        monkeypatch.setattr(dispatcher._on_disk, "once", write_and_begin)
        await dispatcher.cancel(job_id)
        assert store.queries.job(job_id).state is JobState.CANCELLED
        assert dispatcher._running == {}


async def test_cancelling_a_job_that_waits_for_its_turn_ends_it_and_tells_who_waits(tmp_path: Path) -> None:
    pool = FakePool(hang)
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        first, second = (store.submit(Submission(text, ())).job_id for text in ("1", "2"))
        for job_id in (first, second):
            dispatcher.notify(job_id)
        await begun(pool)
        waiting = asyncio.ensure_future(dispatcher.wait(second, 20))
        await dispatcher.cancel(second)
        assert await waiting
        assert store.queries.job(second).state is JobState.CANCELLED
        with pytest.raises(JobNotFound):
            await dispatcher.cancel("nope")


async def test_a_job_whose_time_is_up_fails_and_its_tasks_are_cancelled(tmp_path: Path) -> None:
    pool = FakePool(hang)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", (), timeout=0.1))
        assert (job.state, job.error) == (JobState.FAILED, "the job's 0.1 seconds were up")
        assert len(pool.cancelled) == len(pool.asked)
        assert {s.state for s in job.steps} == {StepState.CANCELLED}


async def test_a_step_may_take_the_time_that_its_job_was_given(tmp_path: Path) -> None:
    pool = FakePool(ok)
    async with dispatching(tmp_path, pool, FakePlanner(plan(a=()))) as (dispatcher, store):
        await ended(dispatcher, store, Submission("given skills", (), timeout=3600.0))
        await ended(dispatcher, store, Submission("planned", timeout=1800.0))
        await ended(dispatcher, store, Submission("no time named", ()))
        assert [request.timeout for _, request in pool.asked] == [3600.0, 1800.0, None]


# --- clocks that jump ---


async def test_a_wall_clock_that_jumps_ends_no_job(tmp_path: Path) -> None:
    wall = FakeClock(3600.0)  # 1970, as a Pi without a clock has it
    pool, may_end = FakePool(lambda w, r: answer(w, r)), asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    async with dispatching(tmp_path, pool, clock=wall, jobs_at_once=1) as (dispatcher, store):
        ids = [store.submit(Submission(text, (), timeout=60.0)).job_id for text in ("running", "queued")]
        for job_id in ids:
            dispatcher.notify(job_id)
        await begun(pool)
        wall.now = 1_800_000_000.0
        may_end.set()
        for job_id in ids:
            assert await dispatcher.wait(job_id, 20)
        assert [store.queries.job(job_id).state for job_id in ids] == [JobState.COMPLETED] * 2


async def test_a_jobs_time_is_the_time_that_hubs_ran_since_it_was_taken(tmp_path: Path) -> None:
    monotonic = FakeClock(500.0)
    pool = FakePool(hang)
    store = JobStore(tmp_path / "jobs.db", monotonic=monotonic)
    first, second = (store.submit(Submission("x", (), timeout=60.0)).job_id for _ in range(2))
    monotonic.now += 59.9
    store.close()
    monotonic.now = 3.0  # the machine was started again, after however long a time
    async with dispatching(tmp_path, pool, monotonic=monotonic) as (dispatcher, store):
        assert store.queries.time_left(store.queries.job(second)) == pytest.approx(0.1)
        assert await dispatcher.wait(first, 20)
        assert store.queries.job(first).error == "the job's 60 seconds were up"


# --- a full disk ---


class FullDisk:
    """SQLite's own way to say that the disk is full, and a sleep that makes room at its third call."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.store: JobStore | None = None
        self.states: list[JobState] = []
        self.told: Callable[[], bool] = lambda: False
        self.told_early = False

    def limit(self, pages: int) -> None:
        assert self.store is not None
        self.store.database.connection.execute(f"PRAGMA max_page_count = {pages}")

    def fill(self, store: JobStore) -> None:
        self.store = store
        self.limit(1)  # as small as the file is
        for size in (1000, 100, 0):
            with contextlib.suppress(StoreUnwritable):
                while True:
                    store.note("worker_online", message="x" * size)

    async def sleep(self, seconds: float) -> None:
        if seconds == 20.0:  # the heartbeat
            await asyncio.Event().wait()
        assert self.store is not None
        self.seconds.append(seconds)
        self.states += [job.state for job in self.store.queries.jobs()]
        self.told_early = self.told_early or self.told()
        await asyncio.sleep(0)
        if len(self.seconds) == 3:
            self.limit(1_000_000)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (ok, (JobState.COMPLETED, None)),
        (
            lambda w, r: TaskResult(r.task_id, w, TaskState.FAILED, error="no such file"),
            (JobState.FAILED, "no such file"),
        ),
        (lambda w, r: ZeroDivisionError("oh"), (JobState.FAILED, "a defect in the hub: ZeroDivisionError: oh")),
    ],
)
async def test_an_end_that_the_full_disk_does_not_take_is_written_when_there_is_room_and_only_then_told(
    tmp_path: Path, answer: Callable[[str, TaskRequest], Any], expected: tuple[JobState, str | None]
) -> None:
    disk, may_end = FullDisk(), asyncio.Event()

    async def answer_later(worker_id: str, request: TaskRequest) -> Any:
        await may_end.wait()
        return answer(worker_id, request)

    timing = DispatchTiming(lease=60.0, sleep=disk.sleep)
    pool = FakePool(lambda w, r: answer_later(w, r))
    async with dispatching(tmp_path, pool, timing=timing) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(pool)
        waiting = asyncio.ensure_future(dispatcher.wait(job_id, 20))
        disk.told = waiting.done
        disk.fill(store)
        assert "free some space" in (store.trouble or "")
        may_end.set()
        assert await waiting
        job = store.queries.job(job_id)
        assert (job.state, job.error) == expected
        assert (disk.seconds, disk.told_early) == ([1.0, 2.0, 4.0], False)
        assert set(disk.states) == {JobState.RUNNING}
        assert store.trouble is None
        assert store.used == job.usage  # counted once, however often it was written
        assert len(pool.asked) == 1


async def test_cancelling_while_the_disk_is_full_is_refused_and_the_job_goes_on(tmp_path: Path) -> None:
    disk, may_end = FullDisk(), asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    pool = FakePool(lambda w, r: answer(w, r))
    async with dispatching(tmp_path, pool, timing=DispatchTiming(lease=60.0, sleep=disk.sleep)) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(pool)
        disk.fill(store)
        with pytest.raises(StoreUnwritable, match="free some space"):
            await dispatcher.cancel(job_id)
        disk.limit(1_000_000)
        may_end.set()
        assert await dispatcher.wait(job_id, 20)
        assert store.queries.job(job_id).state is JobState.COMPLETED


async def test_a_cancel_that_comes_while_an_end_waits_for_room_does_not_lose_the_end(tmp_path: Path) -> None:
    disk, sleeping = FullDisk(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        sleeping.set()
        await asyncio.Event().wait()

    planner, timing = FakePlanner(LLMUnavailable("down")), DispatchTiming(sleep=sleep)
    async with dispatching(tmp_path, FakePool(hang), planner, timing=timing) as (
        dispatcher,
        store,
    ):
        job_id = store.submit(Submission("x")).job_id
        disk.fill(store)
        dispatcher.notify(job_id)
        await sleeping.wait()  # that it can't be planned is its end, and can't be written
        disk.limit(1_000_000)
        waiting = asyncio.ensure_future(dispatcher.wait(job_id, 20))
        await dispatcher.cancel(job_id)
        assert await waiting
        job = store.queries.job(job_id)
        assert (job.state, job.error) == (JobState.FAILED, "the job could not be planned: down")


@pytest.mark.parametrize(
    ("skills", "expected"),
    [
        ((), (JobState.COMPLETED, "did x", None)),
        (None, (JobState.FAILED, None, "the job's 0.05 seconds were up")),
    ],
)
async def test_a_result_that_came_in_time_is_recorded_though_the_disk_has_room_only_after_the_jobs_time(
    tmp_path: Path, skills: tuple[str, ...] | None, expected: tuple[JobState, str | None, str | None]
) -> None:
    disk = FullDisk()

    async def sleep(seconds: float) -> None:
        if seconds == 20.0:  # the heartbeat
            await asyncio.Event().wait()
        late = asyncio.get_running_loop().time() + 0.1
        await until(lambda: asyncio.get_running_loop().time() > late)
        disk.limit(1_000_000)

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        if request.description != "b":
            disk.fill(store)
        return ok(worker_id, request) if request.description != "b" else await hang(worker_id, request)

    pool = FakePool(lambda w, r: answer(w, r))
    planner = FakePlanner(plan(x=(), b=("x",)))
    async with dispatching(tmp_path, pool, planner, DispatchTiming(lease=60.0, sleep=sleep)) as (dispatcher, store):
        job_id = store.submit(Submission("x", skills, timeout=0.05)).job_id
        dispatcher.notify(job_id)
        assert await dispatcher.wait(job_id, 20)
        job = store.queries.job(job_id)
        assert (job.state, job.answer, job.error) == expected
        assert job.steps[0].state is StepState.COMPLETED


async def test_a_hub_that_stops_while_the_disk_is_full_leaves_its_jobs_for_the_next(tmp_path: Path) -> None:
    disk, sleeping = FullDisk(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        sleeping.set()
        await asyncio.Event().wait()

    async with dispatching(tmp_path, FakePool(ok), timing=DispatchTiming(sleep=sleep)) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        disk.fill(store)
        dispatcher.notify(job_id)
        await sleeping.wait()
    async with dispatching(tmp_path, FakePool(ok)) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        assert store.queries.job(job_id).state is JobState.COMPLETED


# --- cancels and deadlines of what waits ---


async def test_cancelling_reaches_a_job_that_waits_for_a_worker(tmp_path: Path) -> None:
    pool = FakePool(hang, workers=1)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        first, second = (store.submit(Submission(text, ())).job_id for text in ("1", "2"))
        for job_id in (first, second):
            dispatcher.notify(job_id)
        await begun(pool)
        await until(lambda: len(pool.ranks) >= 2)
        await dispatcher.cancel(second)
        assert store.queries.job(second).state is JobState.CANCELLED
        assert (pool.cancelled, pool._line) == ([], [])


async def test_the_time_of_a_job_holds_while_it_waits_for_a_worker(tmp_path: Path) -> None:
    pool = FakePool(hang, workers=1)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        dispatcher.notify(store.submit(Submission("1", ())).job_id)
        await begun(pool)
        job = await ended(dispatcher, store, Submission("2", (), timeout=0.05))
        assert (job.state, job.error) == (JobState.FAILED, "the job's 0.05 seconds were up")
        assert (pool.cancelled, pool._line) == ([], [])


async def test_the_time_of_a_job_holds_while_it_waits_for_its_turn(tmp_path: Path) -> None:
    pool = FakePool(hang, workers=1)
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        for text in ("has the worker", "waits for it"):
            dispatcher.notify(store.submit(Submission(text, (), priority=1)).job_id, 1)
        await until(lambda: len(pool.ranks) >= 2)
        job_id = store.submit(Submission("waits in the store", (), timeout=0.05)).job_id
        dispatcher.notify(job_id, 0, 0.05)
        assert await dispatcher.wait(job_id, 20)
        assert store.queries.job(job_id).error == "the job's 0.05 seconds were up"
        assert len(pool.ranks) == 2


async def test_the_time_of_a_job_holds_though_it_was_found_in_the_store_before_it_was_told_of(tmp_path: Path) -> None:
    async with dispatching(tmp_path, FakePool(hang)) as (dispatcher, store):
        job_id = store.submit(Submission("x", (), timeout=1000.0)).job_id
        dispatcher._begin(job_id)
        dispatcher.notify(job_id, 0, 1000.0)
        assert set(dispatcher._deadlines) == {job_id}  # it may have to wait in the store again
        await dispatcher.cancel(job_id)
        assert dispatcher._deadlines == {}


async def test_the_time_of_a_job_that_waits_for_its_turn_holds_after_a_restart_too(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.db")
    for text in ("has the worker", "waits for it"):
        store.submit(Submission(text, (), priority=1))
    job_id = store.submit(Submission("waits in the store", (), timeout=0.05)).job_id
    store.close()
    pool = FakePool(hang, workers=1)
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 5)
        assert store.queries.job(job_id).error == "the job's 0.05 seconds were up"


async def test_jobs_that_wait_are_found_though_the_store_could_not_be_read_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pibot.master_components.dispatch.dispatcher.RETRY_SECONDS", 0.0)
    may_end = asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    pool = FakePool(lambda w, r: answer(w, r), workers=1)
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        ids = [store.submit(Submission(text, ())).job_id for text in "abc"]
        for job_id in ids:
            dispatcher.notify(job_id)
        await begun(pool)
        await until(lambda: not dispatcher._filling)
        unfinished, failures = store.queries.unfinished, [StoreError("can't be read: disk I/O error")]

        def unreadable(limit: int) -> tuple[str, ...]:
            if failures:
                raise failures.pop()
            return unfinished(limit)

        monkeypatch.setattr(store.queries, "unfinished", unreadable)
        may_end.set()
        assert all([await dispatcher.wait(job_id, 5) for job_id in ids])


async def test_cancelling_reaches_a_lease_from_before_a_restart(tmp_path: Path) -> None:
    before = FakePool(hang)
    async with dispatching(tmp_path, before) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(before)
    after = FakePool(hang)
    async with dispatching(tmp_path, after) as (dispatcher, store):
        await begun(after)
        await dispatcher.cancel(job_id)
        assert store.queries.job(job_id).state is JobState.CANCELLED
        assert after.cancelled == [("worker-1", before.asked[0][1].task_id)]
        assert sorted(after.free) == ["worker-1", "worker-2", "worker-3"]


# --- order, waiting, restart ---


async def test_the_more_urgent_job_goes_first_then_the_older(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await release.wait()
        return ok(worker_id, request)

    pool = FakePool(lambda w, r: answer(w, r))
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        submissions = [Submission("first", ()), Submission("low", (), priority=-1), Submission("high", (), priority=1)]
        ids = [store.submit(s).job_id for s in submissions]
        for job_id in ids:
            dispatcher.notify(job_id)
        await begun(pool)
        release.set()
        for job_id in ids:
            assert await dispatcher.wait(job_id, 20)
        assert [request.description for _, request in pool.asked] == ["first", "high", "low"]


async def test_a_new_job_does_not_overtake_a_more_urgent_one_that_waits(tmp_path: Path) -> None:
    may_end = asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    pool = FakePool(lambda w, r: answer(w, r))
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        first, urgent, late = (
            store.submit(s).job_id
            for s in (Submission("first", ()), Submission("urgent", (), priority=1), Submission("late", ()))
        )
        dispatcher.notify(first)
        await begun(pool)
        dispatcher.notify(urgent)
        may_end.set()
        assert await dispatcher.wait(first, 20)
        dispatcher.notify(late)  # there is room now, and the store is only just being asked who is next
        assert await dispatcher.wait(urgent, 20)
        assert await dispatcher.wait(late, 20)
        assert [request.description for _, request in pool.asked] == ["first", "urgent", "late"]


async def test_waiting_ends_with_the_time_of_the_one_who_waits(tmp_path: Path) -> None:
    async with dispatching(tmp_path, FakePool(hang)) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        assert await dispatcher.wait(job_id, 0.01) is False
        with pytest.raises(JobNotFound):
            await dispatcher.wait("nope", 1)


async def test_a_restart_takes_up_the_job_where_it_was_and_asks_its_worker_first(tmp_path: Path) -> None:
    def first(worker_id: str, request: TaskRequest) -> Any:
        return ok(worker_id, request) if request.description == "a" else hang(worker_id, request)

    before = FakePool(first)
    async with dispatching(tmp_path, before, FakePlanner(plan(a=(), b=("a",)))) as (dispatcher, store):
        job_id = store.submit(Submission("x")).job_id
        dispatcher.notify(job_id)
        await begun(before, 2)
    assert before.cancelled == []  # the task goes on at its worker

    after, planner = FakePool(ok), FakePlanner(AssertionError("it is planned already"))
    async with dispatching(tmp_path, after, planner) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        job = store.queries.job(job_id)
        assert job.state is JobState.COMPLETED
        # The same task, to the same worker, under the same id: it is not run twice there.
        assert after.asked == [before.asked[1]]
        assert [len(s.attempts) for s in job.steps] == [1, 1]


async def test_a_worker_that_left_the_fleet_while_the_hub_was_down_has_had_its_attempt(tmp_path: Path) -> None:
    before = FakePool(hang)
    async with dispatching(tmp_path, before) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(before)

    def left(worker_id: str, request: TaskRequest) -> Any:
        if worker_id == "worker-1":
            return WorkerNotReached(worker_id, "it is none of this master's workers any more")
        return ok(worker_id, request)

    after = FakePool(left)
    after.free.remove("worker-1")
    async with dispatching(tmp_path, after) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        first, second = store.queries.job(job_id).steps[0].attempts
        assert (first.worker_id, second.worker_id) == ("worker-1", "worker-2")
        assert "none of this master's workers" in (first.error or "")


async def test_a_worker_that_is_busy_with_something_else_after_a_restart_has_had_its_attempt(tmp_path: Path) -> None:
    before = FakePool(hang)
    async with dispatching(tmp_path, before) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(before)
    after = FakePool(lambda w, r: WorkerBusy("another's") if w == "worker-1" else ok(w, r))
    async with dispatching(tmp_path, after) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        first, second = store.queries.job(job_id).steps[0].attempts
        assert (first.number, first.worker_id, second.number, second.worker_id) == (1, "worker-1", 2, "worker-2")
        assert "lost while the hub was down, and it is busy" in (first.error or "")


async def test_a_restart_gives_a_lost_workers_task_to_another(tmp_path: Path) -> None:
    before = FakePool(hang)
    async with dispatching(tmp_path, before) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(before)

    def gone(worker_id: str, request: TaskRequest) -> Any:
        return WorkerUnreachable(worker_id, "gone") if worker_id == "worker-1" else ok(worker_id, request)

    async with dispatching(tmp_path, FakePool(gone)) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        assert [a.worker_id for a in store.queries.job(job_id).steps[0].attempts] == ["worker-1", "worker-2"]


async def test_a_job_cancelled_while_the_hub_was_down_is_not_run(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.db")
    job_id = store.submit(Submission("x", ())).job_id
    store.request_cancel(job_id)
    store.close()
    pool = FakePool(ok)
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        assert (store.queries.job(job_id).state, pool.asked) == (JobState.CANCELLED, [])


async def test_a_job_cancelled_just_before_a_restart_is_cancelled_on_its_worker_after_it(tmp_path: Path) -> None:
    before = FakePool(hang)
    async with dispatching(tmp_path, before) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(before)
    store = JobStore(tmp_path / "jobs.db")
    store.request_cancel(job_id)
    store.close()
    after = FakePool(ok)
    async with dispatching(tmp_path, after) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        assert after.cancelled == [("worker-1", before.asked[0][1].task_id)]
        assert (store.queries.job(job_id).state, after.asked) == (JobState.CANCELLED, [])
        await until(lambda: len(after.free) == 3)  # its end is told a moment before


async def test_a_job_whose_time_is_up_when_the_hub_is_back_is_cancelled_on_its_worker(tmp_path: Path) -> None:
    before, monotonic = FakePool(hang), FakeClock(500.0)
    async with dispatching(tmp_path, before, monotonic=monotonic) as (dispatcher, store):
        job_id = store.submit(Submission("x", (), timeout=30.0)).job_id
        dispatcher.notify(job_id)
        await begun(before)
        monotonic.now += 60.0  # the hub stood still, and was stopped before it saw to the job
    after = FakePool(hang)
    async with dispatching(tmp_path, after, monotonic=monotonic) as (dispatcher, store):
        assert await dispatcher.wait(job_id, 20)
        assert store.queries.job(job_id).error == "the job's 30 seconds were up"
        assert after.cancelled == [("worker-1", before.asked[0][1].task_id)]
        await until(lambda: len(after.free) == 3)  # its end is told a moment before


async def test_a_new_job_gets_no_worker_that_has_a_task_from_before_a_restart(tmp_path: Path) -> None:
    before = FakePool(hang, workers=1)
    async with dispatching(tmp_path, before) as (dispatcher, store):
        dispatcher.notify(store.submit(Submission("old", ())).job_id)
        await begun(before)
    after = FakePool(hang, workers=1)
    store = JobStore(tmp_path / "jobs.db")
    runner = StepRunner(store, StoreThread(), after, DispatchTiming())
    runner.resume(store.queries.leases())
    assert after.free == []
    store.close()


# --- more jobs than workers ---


def describe(pool: FakePool) -> list[str]:
    return [request.description for _, request in pool.asked]


async def test_jobs_that_only_wait_for_a_worker_do_not_hold_back_a_more_urgent_one(tmp_path: Path) -> None:
    may_end = asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    pool = FakePool(lambda w, r: answer(w, r), workers=1)
    async with dispatching(tmp_path, pool, jobs_at_once=2) as (dispatcher, store):
        ids = [store.submit(Submission(f"job {n}", ())).job_id for n in range(5)]
        for job_id in ids:
            dispatcher.notify(job_id)
        await begun(pool)
        await until(lambda: len(pool.ranks) >= 3)  # two more wait for the worker, and the others in the store
        urgent = store.submit(Submission("urgent", (), priority=9)).job_id
        dispatcher.notify(urgent, 9)
        await until(lambda: pool.ranks[-1][0] == -9)
        may_end.set()
        for job_id in (*ids, urgent):
            assert await dispatcher.wait(job_id, 20)
            assert store.queries.job(job_id).state is JobState.COMPLETED
        assert describe(pool) == ["job 0", "urgent", "job 1", "job 2", "job 3", "job 4"]


async def test_jobs_that_have_a_worker_leave_room_for_others(tmp_path: Path) -> None:
    pool = FakePool(hang, workers=5)
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        for n in range(5):
            dispatcher.notify(store.submit(Submission(str(n), ())).job_id)
        await begun(pool, 5)
        assert sorted(worker for worker, _ in pool.asked) == [f"worker-{n}" for n in range(1, 6)]


async def test_a_job_that_was_put_back_can_be_cancelled_and_its_waiter_is_told_only_of_its_end(tmp_path: Path) -> None:
    pool = FakePool(hang, workers=1)
    async with dispatching(tmp_path, pool, jobs_at_once=1) as (dispatcher, store):
        first, second = (store.submit(Submission(text, ())).job_id for text in ("1", "2"))
        for job_id in (first, second):
            dispatcher.notify(job_id)
        await begun(pool)
        await until(lambda: len(pool.ranks) >= 2)
        waiting = asyncio.ensure_future(dispatcher.wait(second, 20))
        dispatcher.notify(store.submit(Submission("urgent", (), priority=1)).job_id, 1)
        await until(lambda: len(pool.ranks) >= 3)
        assert not waiting.done()
        await dispatcher.cancel(second)
        assert await waiting
        assert store.queries.job(second).state is JobState.CANCELLED


# --- signs of life ---


class Beats:
    """The dispatcher's sleeps: each takes one turn of the loop; the time is its test's."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


async def test_a_silent_worker_loses_its_lease_and_what_it_brings_later_is_evidence(tmp_path: Path) -> None:
    def answer(worker_id: str, request: TaskRequest) -> Any:
        return hang(worker_id, request) if worker_id == "worker-1" else ok(worker_id, request)

    pool, beats, back = FakePool(answer), Beats(), asyncio.Event()
    pool.silent["worker-1"] = float("inf")

    async def sleep(seconds: float) -> None:
        await beats.sleep(seconds)
        if seconds == ASK_AGAIN:  # before the silent worker is asked once more
            await back.wait()

    timing = DispatchTiming(lease=60.0, sleep=sleep, monotonic=beats.monotonic, jitter=lambda: 1.0)
    async with dispatching(tmp_path, pool, timing=timing) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert (job.state, job.steps[0].worker_id) == (JobState.COMPLETED, "worker-2")
        error = job.steps[0].attempts[0].error or ""
        assert "no sign of life for 60 s (PIBOT_LEASE_SECONDS)" in error
        assert [worker for worker, _ in pool.lost] == ["worker-1"]
        late = pool.asked[0][1].task_id
        pool.late[late] = TaskResult(late, "worker-1", TaskState.COMPLETED, "too late")
        pool.silent["worker-1"] = 0.0
        back.set()
        await until(lambda: "late_result" in [happened.kind for happened in store.queries.events()])
        after = store.queries.job(job.job_id)
        first = after.steps[0].attempts[0]
        assert first.late_result is not None
        assert first.late_result.output == "too late"
        assert (after.answer, after.steps[0].result) == (job.answer, job.steps[0].result)


async def test_a_worker_that_answers_keeps_its_lease_however_long_its_task_takes(tmp_path: Path) -> None:
    beats, may_end = Beats(), asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    async def sleep(seconds: float) -> None:
        await beats.sleep(seconds)
        if beats.now > 600:
            may_end.set()

    pool = FakePool(lambda w, r: answer(w, r))
    pool.silent["worker-1"] = 39.0
    timing = DispatchTiming(lease=60.0, sleep=sleep, monotonic=beats.monotonic)
    async with dispatching(tmp_path, pool, timing=timing) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert [a.error for a in job.steps[0].attempts] == [None]


async def test_a_hub_that_stood_still_gives_its_workers_another_lease(tmp_path: Path) -> None:
    beats, may_end = Beats(), asyncio.Event()
    pool = FakePool(hang)
    stops = [500.0]

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    async def sleep(seconds: float) -> None:
        if stops:
            pool.silent["worker-1"] = stops[0]  # nothing could be heard meanwhile
            beats.now += stops.pop()
        elif pool.silent["worker-1"]:
            pool.silent["worker-1"] = 0.0  # then it is heard again
        else:
            may_end.set()
        await beats.sleep(seconds)

    pool._answer = lambda w, r: answer(w, r)
    timing = DispatchTiming(lease=60.0, sleep=sleep, monotonic=beats.monotonic)
    async with dispatching(tmp_path, pool, timing=timing) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert [a.worker_id for a in job.steps[0].attempts] == ["worker-1"]
        assert pool.lost == []


async def test_a_worker_that_could_not_be_reached_with_the_task_is_no_attempt(tmp_path: Path) -> None:
    unreached = 5

    def answer(worker_id: str, request: TaskRequest) -> Any:
        nonlocal unreached
        unreached -= 1
        return WorkerNotReached(worker_id, "no route") if unreached >= 0 else ok(worker_id, request)

    async with dispatching(tmp_path, FakePool(answer)) as (dispatcher, store):
        job = await ended(dispatcher, store, Submission("x", ()))
        assert (job.state, [a.number for a in job.steps[0].attempts]) == (JobState.COMPLETED, [1])


async def test_a_step_that_no_worker_may_take_in_time_fails_and_says_why(tmp_path: Path) -> None:
    timing = DispatchTiming(no_worker=0.01)
    pool = FakePool(hang, workers=1)
    async with dispatching(tmp_path, pool, timing=timing) as (dispatcher, store):
        dispatcher.notify(store.submit(Submission("x", ())).job_id)
        await begun(pool)
        job_id = store.submit(Submission("y", ())).job_id
        dispatcher.notify(job_id)
        await until(lambda: len(pool.ranks) > 3)  # behind others' tasks it waits on
        pool.hopeless = True
        assert await dispatcher.wait(job_id, 20)
        assert "no worker could take it within 0.01 seconds: every worker is busy" in (
            store.queries.job(job_id).error or ""
        )


async def test_a_moment_without_hope_fails_no_step(tmp_path: Path) -> None:
    looks = [False] * (NO_WORKER_CHECKS - 1) + [True] + [False] * (NO_WORKER_CHECKS - 1) + [True]
    may_end = asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        await may_end.wait()
        return ok(worker_id, request)

    def hopeful(skills: Collection[str] = ()) -> bool:
        hope = looks.pop(0) if looks else True
        if not looks:
            may_end.set()
        return hope

    pool = FakePool(lambda w, r: answer(w, r), workers=1)
    pool.has_candidate = hopeful  # type: ignore[method-assign]
    async with dispatching(tmp_path, pool, timing=DispatchTiming(no_worker=0.01)) as (dispatcher, store):
        ids = [store.submit(Submission(text, ())).job_id for text in "xy"]
        for job_id in ids:
            dispatcher.notify(job_id)
        for job_id in ids:
            assert await dispatcher.wait(job_id, 20)
        assert [store.queries.job(job_id).state for job_id in ids] == [JobState.COMPLETED] * 2


async def test_after_a_restart_each_worker_with_a_task_is_kept_for_it(tmp_path: Path) -> None:
    before = FakePool(hang, workers=2)
    async with dispatching(tmp_path, before) as (dispatcher, store):
        ids = [store.submit(Submission(text, ())).job_id for text in ("a", "b")]
        for job_id in ids:
            dispatcher.notify(job_id)
        await begun(before, 2)
        waiting = store.submit(Submission("urgent", (), priority=9)).job_id
    may_end = asyncio.Event()

    async def answer(worker_id: str, request: TaskRequest) -> TaskResult:
        if request.description != "urgent":
            await may_end.wait()
        return ok(worker_id, request)

    after = FakePool(lambda w, r: answer(w, r), workers=2)
    async with dispatching(tmp_path, after, jobs_at_once=1) as (dispatcher, store):
        await begun(after, 2)
        assert sorted(after.asked, key=str) == sorted(before.asked, key=str)
        assert after.asked_first == [True, True]
        may_end.set()
        assert await dispatcher.wait(waiting, 20)
        assert sorted(after.free) == ["worker-1", "worker-2"]
        assert sorted(after.released[:2]) == ["worker-1", "worker-2"]
        assert {len(store.queries.job(job_id).steps[0].attempts) for job_id in ids} == {1}


async def test_a_worker_that_can_not_be_told_of_a_cancel_is_told_when_it_is_back(tmp_path: Path) -> None:
    pool, told = FakePool(hang), asyncio.Event()

    async def unreachable(worker_id: str, task_id: str) -> None:
        pool.cancelled.append((worker_id, task_id))
        if len(pool.cancelled) == 1:
            raise WorkerUnreachable(worker_id, "no answer")
        told.set()

    pool.cancel = unreachable  # type: ignore[method-assign]  # the same pool, whose worker is away at first
    async with dispatching(tmp_path, pool) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        await begun(pool)
        await dispatcher.cancel(job_id)
        assert store.queries.job(job_id).state is JobState.CANCELLED
        await told.wait()
        assert len(set(pool.cancelled)) == 1


async def test_stopping_tells_who_waits(tmp_path: Path) -> None:
    async with dispatching(tmp_path, FakePool(hang)) as (dispatcher, store):
        job_id = store.submit(Submission("x", ())).job_id
        dispatcher.notify(job_id)
        waiting = asyncio.ensure_future(dispatcher.wait(job_id, 60))
        await asyncio.sleep(0)
    assert await waiting
