"""How callers share the gateway's places."""

from __future__ import annotations

import asyncio

import pytest

from pibot.master_hub.gateway.shares import PLANNER, Shares, Slots

CALLERS = (PLANNER, "owner", "worker-1", "worker-2")


def taken(shares: Shares, caller: str, tries: int = 20) -> int:
    return sum(shares.take(caller) for _ in range(tries))


@pytest.mark.parametrize(("places", "share"), [(12, 9), (8, 5), (4, 1), (3, 1), (2, 1), (1, 1)])
def test_one_caller_leaves_a_place_for_each_other(places: int, share: int) -> None:
    shares = Shares(places, CALLERS)
    assert taken(shares, "worker-1") == share
    others = [caller for caller in CALLERS if caller != "worker-1"]
    assert [shares.take(caller) for caller in others].count(True) == min(len(others), places - share)


@pytest.mark.parametrize("places", [3, 8, 12])
def test_the_planner_keeps_its_place_whoever_takes_the_rest(places: int) -> None:
    shares = Shares(places, CALLERS)
    for caller in ("worker-1", "worker-2", "owner", "a stranger"):
        taken(shares, caller)
    assert shares.take(PLANNER)


def test_any_number_of_greedy_callers_leaves_the_last_one_its_place() -> None:
    shares = Shares(8, CALLERS)
    assert sum(taken(shares, caller) for caller in ("worker-1", "worker-2")) == 6
    assert shares.take("owner")
    assert shares.take(PLANNER)
    assert not any(shares.take(caller) for caller in CALLERS)


def test_the_planners_many_calls_are_one_caller_too() -> None:
    shares = Shares(8, CALLERS)
    assert taken(shares, PLANNER) == 5
    assert [shares.take(caller) for caller in CALLERS[1:]] == [True] * 3


def test_a_place_that_is_given_back_can_be_taken() -> None:
    shares = Shares(1, CALLERS)
    for caller in CALLERS * 2:
        assert shares.take(caller)
        assert not shares.take("worker-1")
        shares.give_back(caller)


async def test_a_caller_that_stopped_waiting_takes_no_slot() -> None:
    slots = Slots(Shares(1))
    assert await slots.take("a", 0)
    assert not await slots.take("a", 0)
    assert not await slots.take("b", 0)
    slots.give_back("a")
    assert await slots.take("b", 0)


async def test_waiting_callers_take_turns_however_many_calls_one_of_them_has() -> None:
    slots = Slots(Shares(1))
    assert await slots.take("first", 0)
    served: list[str] = []

    async def call(caller: str) -> None:
        assert await slots.take(caller, 20)
        served.append(caller)
        slots.give_back(caller)

    calls = [asyncio.ensure_future(call(caller)) for caller in ("greedy", "greedy", "greedy", "modest", PLANNER)]
    await asyncio.sleep(0)
    slots.give_back("first")
    await asyncio.gather(*calls)
    assert served == ["greedy", "modest", PLANNER, "greedy", "greedy"]


async def test_a_cancelled_caller_passes_its_slot_on() -> None:
    slots = Slots(Shares(1))
    assert await slots.take("a", 0)
    waiting = [asyncio.ensure_future(slots.take(caller, 20)) for caller in ("b", "c")]
    await asyncio.sleep(0)
    slots.give_back("a")  # to b, which is cancelled before it runs
    waiting[0].cancel()
    assert await waiting[1]
    assert waiting[0].cancelled()
