"""The queue for workers, the choice of a worker, and the circuit breaker, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from pibot.contracts import HostReading, NoWorkerKind, NoWorkerReason, WorkerAddress, WorkerReport, WorkerState
from pibot.errors import NoWorkers, WorkerUnreachable
from pibot.master_components.workers.placement import MEGABYTE, UNTHROTTLED_SECONDS, FitnessLimits, note_report
from pibot.master_components.workers.queue import QueueKey, WorkerQueue
from pibot.master_components.workers.record import ASIDE, FAILURES, MAX_ASIDE, Breaker
from tests.support.clocks import FakeClock

LIMITS = FitnessLimits()


class Queue:
    """A queue for three workers, with a clock that the test sets."""

    def __init__(self, count: int = 3) -> None:
        self.clock = FakeClock(1000.0)
        addresses = [WorkerAddress(f"worker-{n}", "127.0.0.1", 1) for n in range(1, count + 1)]
        self.queue = WorkerQueue(addresses, self.clock)

    def report(self, number: int, skills: frozenset[str] | None = None, **reading: Any) -> None:
        """Let worker ``number`` report these skills and this state of its machine."""
        report = WorkerReport(skills=skills, host=HostReading(**reading))
        note_report(self.queue.workers[f"worker-{number}"], report, LIMITS, self.clock.now)
        self.queue.serve()

    async def get(
        self, *, avoid: Collection[str] = (), skills: Collection[str] = (), queue_key: QueueKey = (0, 0)
    ) -> str:
        return await self.queue.acquire(None, avoid, skills, queue_key)

    async def waiting(self, **wishes: Any) -> asyncio.Future[str]:
        """Start :meth:`get`, and return its future once it waits."""
        one = asyncio.ensure_future(self.get(**wishes))
        await asyncio.sleep(0)
        return one

    def why_none(self, *skills: str) -> NoWorkerReason:
        return self.queue.why_none(skills)


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_task_that_waits_while_the_last_worker_restarts_gets_it_when_it_is_back() -> None:
    case = Queue(1)
    worker = case.queue.workers["worker-1"]
    case.queue.remove("worker-1")
    waiting = await case.waiting()
    assert case.why_none() == NoWorkerReason(NoWorkerKind.NONE_KNOWN, "no worker is known")
    case.queue.add(worker)
    assert await waiting == "worker-1"


async def test_a_fleet_that_never_had_a_worker_makes_no_task_wait() -> None:
    with pytest.raises(NoWorkers, match=r"WORKER_1_IP .* or PIBOT_HUB_URL on each worker"):
        await Queue(0).get()


# --- the order of the queue ---


async def test_the_most_urgent_task_is_served_first_then_the_oldest() -> None:
    case = Queue(1)
    held = await case.get()
    served: list[str] = []
    waiting = {
        "late": await case.waiting(queue_key=(0, 3.0)),
        "old": await case.waiting(queue_key=(0, 1.0)),
        "low": await case.waiting(queue_key=(5, 0.5)),
        "urgent": await case.waiting(queue_key=(-5, 9.0)),
    }
    for name, future in waiting.items():
        future.add_done_callback(lambda _, name=name: served.append(name))  # type: ignore[misc]
    for _ in waiting:
        case.queue.release(held)
        await settled()
    assert served == ["urgent", "old", "late", "low"]


async def test_a_task_that_needs_a_busy_skill_does_not_hold_up_one_that_does_not() -> None:
    case = Queue(2)
    case.report(1, skills=frozenset({"camera"}))
    case.report(2, skills=frozenset())
    held = {await case.get(), await case.get()}
    assert held == {"worker-1", "worker-2"}
    camera = await case.waiting(skills=["camera"], queue_key=(-9, 0))
    anything = await case.waiting()
    case.queue.release("worker-2")
    await settled()
    assert anything.result() == "worker-2"
    assert not camera.done()
    case.queue.release("worker-1")
    assert await camera == "worker-1"


async def test_a_caller_cancelled_just_as_it_gets_a_worker_releases_it() -> None:
    case = Queue(1)
    held = await case.get()
    waiting = await case.waiting()
    case.queue.release(held)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await case.get() == "worker-1"


# --- the choice of a worker ---


async def test_a_worker_that_is_cooler_less_loaded_or_has_more_memory_is_preferred() -> None:
    for better in ({"temperature": 50.0}, {"load_1m": 0.1}, {"memory_available": 300 * MEGABYTE}):
        case = Queue(3)
        for number in (1, 2, 3):
            case.report(number, temperature=72.0, load_1m=4.5, processors=4, memory_available=100 * MEGABYTE)
        reading: dict[str, Any] = {
            "temperature": 72.0,
            "load_1m": 4.5,
            "processors": 4,
            "memory_available": 100 * MEGABYTE,
            **better,
        }
        case.report(2, **reading)
        assert await case.get() == "worker-2"


async def test_equally_burdened_workers_take_turns() -> None:
    case = Queue(2)
    case.report(1, temperature=48.0)
    case.report(2, temperature=51.0)
    got = []
    for _ in range(4):
        got.append(await case.get())
        case.queue.release(got[-1])
    assert got == ["worker-1", "worker-2", "worker-1", "worker-2"]


@pytest.mark.parametrize(
    ("unfit", "still_unfit", "fit", "reason"),
    [
        ({"temperature": 80.0}, {"temperature": 76.0}, {"temperature": 74.0}, "hot: 80 °C"),
        (
            {"memory_available": 59 * MEGABYTE},
            {"memory_available": 79 * MEGABYTE},
            {"memory_available": 80 * MEGABYTE},
            "short of memory: 59 MB available",
        ),
    ],
)
async def test_an_unfit_worker_gets_no_task_until_it_is_well_within_the_limit(
    unfit: dict[str, Any], still_unfit: dict[str, Any], fit: dict[str, Any], reason: str
) -> None:
    case = Queue(1)
    case.report(1, **still_unfit)
    case.queue.release(await case.get())  # a fit worker stays fit at this reading
    case.report(1, **unfit)
    waiting = await case.waiting()
    assert case.why_none() == NoWorkerReason(NoWorkerKind.UNAVAILABLE, f"worker-1 is {reason}")
    case.report(1, **still_unfit)
    await settled()
    assert not waiting.done()
    case.report(1, **fit)
    assert await waiting == "worker-1"


async def test_a_throttled_worker_is_fit_again_only_some_time_after() -> None:
    case = Queue(1)
    case.report(1, throttled=("under-voltage",))
    waiting = await case.waiting()
    assert "throttled by its firmware: under-voltage" in case.why_none().detail
    case.clock.now += UNTHROTTLED_SECONDS - 1
    case.report(1)
    await settled()
    assert not waiting.done()
    case.clock.now += 1
    case.report(1)
    assert await waiting == "worker-1"


async def test_a_worker_without_the_skill_is_skipped_and_one_that_reports_no_skills_is_not() -> None:
    case = Queue(2)
    case.report(1, skills=frozenset({"web_fetch"}))
    assert await case.get(skills=["shell_exec"]) == "worker-2"
    case.report(2, skills=frozenset())
    assert case.why_none("shell_exec") == NoWorkerReason(NoWorkerKind.NO_SKILL, "no worker has the skill 'shell_exec'")


async def test_a_worker_to_avoid_is_taken_only_if_no_other_can_be_expected() -> None:
    case = Queue(2)
    busy = await case.get(avoid=["worker-1"])
    waiting = await case.waiting(avoid=["worker-1"])
    assert not waiting.done()  # worker-2 can be expected to end its task
    case.queue.workers[busy].unreachable(WorkerUnreachable(busy, "gone"), case.clock.now)
    case.queue.release(busy)
    assert await waiting == "worker-1"


# --- why no worker ---


async def test_each_worker_that_takes_no_task_has_its_reason() -> None:
    case = Queue(4)
    await case.get()
    case.queue.workers["worker-2"].unreachable(WorkerUnreachable("worker-2", "no answer"), case.clock.now)
    case.queue.workers["worker-3"].drained = True
    for _ in range(FAILURES):
        case.queue.workers["worker-4"].lost_task("it forgot the task", 0.0, case.clock.now)
    assert case.why_none() == NoWorkerReason(
        NoWorkerKind.UNAVAILABLE,
        "worker-1 is busy; worker-2 is offline (no answer); worker-3 is being drained; "
        "worker-4 is set aside until 00:00:30 UTC (it forgot the task)",
    )


async def test_a_busy_fleet_is_told_from_a_free_worker_that_is_next() -> None:
    case = Queue(2)
    await case.get()
    await case.get()
    assert case.why_none() == NoWorkerReason(NoWorkerKind.ALL_BUSY, "every worker is busy")
    case.queue.release("worker-1")
    case.queue.release("worker-2")
    assert case.why_none().kind is NoWorkerKind.NEXT


# --- the circuit breaker ---


def test_a_worker_that_loses_tasks_in_a_row_is_set_aside_for_a_growing_time() -> None:
    breaker, now, times = Breaker(), 100.0, []
    for _ in range(FAILURES - 1):
        assert not breaker.failed("lost", now)
    for _ in range(7):
        assert breaker.failed("lost", now)
        times.append(breaker.until - now)
        now = breaker.until
    assert times == [ASIDE, 60.0, 120.0, 240.0, 480.0, MAX_ASIDE, MAX_ASIDE]


def test_one_result_resets_the_breaker() -> None:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.failed("lost", 0.0)
    breaker.succeeded()
    assert (breaker.until, breaker.reason) == (0.0, "")
    assert not breaker.failed("lost", 0.0)


async def test_a_worker_set_aside_gets_one_task_when_its_time_is_over() -> None:
    case = Queue(1)
    for _ in range(FAILURES):
        case.queue.workers["worker-1"].lost_task("lost", 0.0, case.clock.now)
    waiting = [await case.waiting(), await case.waiting()]
    assert not any(one.done() for one in waiting)
    case.clock.now += ASIDE
    case.queue.serve()  # as the timer does
    await settled()
    assert [one.done() for one in waiting] == [True, False]
    waiting[1].cancel()
    case.queue.close()


# --- reserving out of turn ---


async def test_a_reserved_worker_gets_no_other_task_until_it_is_released() -> None:
    case = Queue(1)
    assert case.queue.reserve("worker-1")
    assert not case.queue.reserve("worker-1")
    assert not case.queue.reserve("worker-9")
    waiting = await case.waiting()
    assert not waiting.done()
    case.queue.release("worker-1")
    assert await waiting == "worker-1"
    assert case.queue.workers["worker-1"].state is WorkerState.IDLE


async def test_another_worker_is_known_although_it_is_offline_set_aside_or_unfit() -> None:
    case = Queue(3)
    known = case.queue.workers
    known["worker-1"].unreachable(WorkerUnreachable("worker-1", "silent"), case.clock.now)
    assert case.queue.knows_another((), ["worker-2", "worker-3"])
    known["worker-1"].cannot_work("sick", 0.0, case.clock.now)
    assert case.queue.knows_another((), ["worker-2", "worker-3"])
    case.report(1, frozenset({"files"}), temperature=99.0)
    assert case.queue.knows_another(["files"], ["worker-2", "worker-3"])
    assert not case.queue.knows_another(["shell_exec"], ["worker-2", "worker-3"])
    known["worker-1"].drained = True
    assert not case.queue.knows_another((), ["worker-2", "worker-3"])
