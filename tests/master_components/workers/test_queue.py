from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from pibot.contracts import WorkerAddress, WorkerReport, WorkerState
from pibot.errors import NoWorkers, WorkerUnreachable
from pibot.master_components.workers.breaker import ASIDE, FAILURES, MAX_ASIDE, Breaker
from pibot.master_components.workers.placement import MEGABYTE, WELL_SECONDS, Limits, examine
from pibot.master_components.workers.queue import Rank, Reservations

LIMITS = Limits()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Line:
    """Three workers, and who waits for one."""

    def __init__(self, count: int = 3) -> None:
        self.clock = Clock()
        addresses = [WorkerAddress(f"worker-{n}", "127.0.0.1", 1) for n in range(1, count + 1)]
        self.line = Reservations(addresses, self.clock)

    def says(self, number: int, **report: Any) -> None:
        """Worker ``number`` reports this."""
        examine(self.line.workers[f"worker-{number}"], WorkerReport(**report), LIMITS, self.clock.now)
        self.line.serve()

    async def get(self, *, avoid: Collection[str] = (), skills: Collection[str] = (), rank: Rank = (0, 0)) -> str:
        return await self.line.acquire(None, avoid, skills, rank)

    async def waiting(self, **wishes: Any) -> asyncio.Future[str]:
        """One who waits, once it does."""
        one = asyncio.ensure_future(self.get(**wishes))
        await asyncio.sleep(0)
        return one


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_who_waits_while_the_last_worker_is_restarted_gets_it_when_it_is_back() -> None:
    line = Line(1)
    worker = line.line.workers["worker-1"]
    line.line.remove("worker-1")
    waiting = await line.waiting()
    assert line.line.why_none(()) == "no worker is known"
    line.line.add(worker)
    assert await waiting == "worker-1"


async def test_where_no_worker_ever_came_nobody_waits_for_one() -> None:
    with pytest.raises(NoWorkers, match=r"WORKER_1_IP .* or PIBOT_HUB_URL on each worker"):
        await Line(0).get()


# --- who is next ---


async def test_the_more_urgent_who_waits_is_served_first_then_the_older() -> None:
    line = Line(1)
    held = await line.get()
    served: list[str] = []
    waiting = {
        "late": await line.waiting(rank=(0, 3.0)),
        "old": await line.waiting(rank=(0, 1.0)),
        "low": await line.waiting(rank=(5, 0.5)),
        "urgent": await line.waiting(rank=(-5, 9.0)),
    }
    for name, future in waiting.items():
        future.add_done_callback(lambda _, name=name: served.append(name))  # type: ignore[misc]
    for _ in waiting:
        line.line.release(held)
        await settled()
    assert served == ["urgent", "old", "late", "low"]


async def test_who_needs_a_skill_that_is_busy_does_not_hold_up_who_does_not() -> None:
    line = Line(2)
    line.says(1, skills=frozenset({"camera"}))
    line.says(2, skills=frozenset())
    held = {await line.get(), await line.get()}
    assert held == {"worker-1", "worker-2"}
    camera = await line.waiting(skills=["camera"], rank=(-9, 0))
    anything = await line.waiting()
    line.line.release("worker-2")
    await settled()
    assert anything.result() == "worker-2"
    assert not camera.done()
    line.line.release("worker-1")
    assert await camera == "worker-1"


async def test_who_gives_up_in_the_turn_that_a_worker_is_handed_over_gives_it_back() -> None:
    line = Line(1)
    held = await line.get()
    waiting = await line.waiting()
    line.line.release(held)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await line.get() == "worker-1"


# --- which worker ---


async def test_the_cooler_less_loaded_and_roomier_worker_is_preferred() -> None:
    for better in ({"temperature": 50.0}, {"load_1m": 0.1}, {"memory_available": 300 * MEGABYTE}):
        line = Line(3)
        for number in (1, 2, 3):
            line.says(number, temperature=72.0, load_1m=4.5, processors=4, memory_available=100 * MEGABYTE)
        said = {"temperature": 72.0, "load_1m": 4.5, "processors": 4, "memory_available": 100 * MEGABYTE, **better}
        line.says(2, **said)
        assert await line.get() == "worker-2"


async def test_equally_burdened_workers_take_turns() -> None:
    line = Line(2)
    line.says(1, temperature=48.0)
    line.says(2, temperature=51.0)
    got = []
    for _ in range(4):
        got.append(await line.get())
        line.line.release(got[-1])
    assert got == ["worker-1", "worker-2", "worker-1", "worker-2"]


@pytest.mark.parametrize(
    ("ill", "still_ill", "well", "reason"),
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
async def test_an_ill_worker_gets_nothing_until_it_is_clearly_well_again(
    ill: dict[str, Any], still_ill: dict[str, Any], well: dict[str, Any], reason: str
) -> None:
    line = Line(1)
    line.says(1, **still_ill)
    line.line.release(await line.get())  # what is no reason to stop is one not to begin again
    line.says(1, **ill)
    waiting = await line.waiting()
    assert line.line.why_none(()) == f"worker-1 is {reason}"
    line.says(1, **still_ill)
    await settled()
    assert not waiting.done()
    line.says(1, **well)
    assert await waiting == "worker-1"


async def test_a_throttled_worker_is_well_again_only_some_time_after() -> None:
    line = Line(1)
    line.says(1, throttled=("under-voltage",))
    waiting = await line.waiting()
    assert "held back by its firmware: under-voltage" in line.line.why_none(())
    line.clock.now += WELL_SECONDS - 1
    line.says(1)
    await settled()
    assert not waiting.done()
    line.clock.now += 1
    line.says(1)
    assert await waiting == "worker-1"


async def test_a_worker_without_the_skill_is_passed_over_and_one_that_says_nothing_is_not() -> None:
    line = Line(2)
    line.says(1, skills=frozenset({"web_fetch"}))
    assert await line.get(skills=["shell_exec"]) == "worker-2"
    line.says(2, skills=frozenset())
    assert line.line.why_none(["shell_exec"]) == "no worker has the skill 'shell_exec'"


async def test_a_worker_to_avoid_is_taken_only_if_no_other_can_be_hoped_for() -> None:
    line = Line(2)
    busy = await line.get(avoid=["worker-1"])
    waiting = await line.waiting(avoid=["worker-1"])
    assert not waiting.done()  # worker-2 will have ended
    line.line.workers[busy].lost(WorkerUnreachable(busy, "gone"), line.clock.now)
    line.line.release(busy)
    assert await waiting == "worker-1"


# --- why not ---


async def test_why_no_worker_is_to_be_had_is_said_for_each() -> None:
    line = Line(4)
    await line.get()
    line.line.workers["worker-2"].lost(WorkerUnreachable("worker-2", "no answer"), line.clock.now)
    line.line.workers["worker-3"].drained = True
    for _ in range(FAILURES):
        line.line.workers["worker-4"].failed("it forgot the task", 0.0, line.clock.now)
    assert line.line.why_none(()) == (
        "worker-1 is busy; worker-2 is offline (no answer); worker-3 is being drained; "
        "worker-4 is set aside for 30 s (it forgot the task)"
    )


async def test_a_busy_fleet_is_said_to_be_busy() -> None:
    line = Line(2)
    await line.get()
    await line.get()
    assert line.line.why_none(()) == "every worker is busy"


# --- the breaker ---


def test_a_worker_that_loses_tasks_in_a_row_is_set_aside_for_a_growing_time() -> None:
    breaker, now, times = Breaker(), 100.0, []
    for _ in range(FAILURES - 1):
        assert not breaker.failed("lost", now)
    for _ in range(7):
        assert breaker.failed("lost", now)
        times.append(breaker.until - now)
        now = breaker.until
    assert times == [ASIDE, 60.0, 120.0, 240.0, 480.0, MAX_ASIDE, MAX_ASIDE]


def test_one_result_brings_a_worker_back_for_good() -> None:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.failed("lost", 0.0)
    breaker.succeeded()
    assert (breaker.until, breaker.reason) == (0.0, "")
    assert not breaker.failed("lost", 0.0)


async def test_a_worker_set_aside_comes_back_by_itself_with_one_task() -> None:
    line = Line(1)
    for _ in range(FAILURES):
        line.line.workers["worker-1"].failed("lost", 0.0, line.clock.now)
    waiting = [await line.waiting(), await line.waiting()]
    assert not any(one.done() for one in waiting)
    line.clock.now += ASIDE
    line.line.serve()  # what the timer does
    await settled()
    assert [one.done() for one in waiting] == [True, False]
    waiting[1].cancel()
    line.line.close()


# --- coming, going, from before ---


async def test_a_reserved_worker_is_nobody_elses_until_it_is_released() -> None:
    line = Line(1)
    assert line.line.reserve("worker-1")
    assert not line.line.reserve("worker-1")
    assert not line.line.reserve("worker-9")
    waiting = await line.waiting()
    assert not waiting.done()
    line.line.release("worker-1")
    assert await waiting == "worker-1"
    assert line.line.workers["worker-1"].state is WorkerState.IDLE


async def test_nobody_known_is_an_error_at_once() -> None:
    with pytest.raises(NoWorkers, match="WORKER_1_IP"):
        await Line(0).get()
