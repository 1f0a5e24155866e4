from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pibot.contracts import Usage
from pibot.errors import StoreUnwritable
from pibot.master_components import JobStore
from pibot.master_components.spending import Spent
from pibot.master_hub.ledger import Account, Ledger
from pibot.master_hub.meter import Counted
from pibot.master_hub.places import Places
from pibot.master_hub.provider import GatewayError
from pibot.settings import GatewaySettings

CALL = Counted(Usage(100, 20, 1))


class FullDisk(JobStore):
    """A store whose disk may be full for calls."""

    full = True

    def spend(self, calls: Sequence[Spent]) -> None:
        if self.full:
            raise StoreUnwritable("the disk is full")
        super().spend(calls)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FullDisk]:
    with contextlib.closing(FullDisk(tmp_path / "jobs.db")) as store:
        yield store


async def test_calls_that_a_full_disk_does_not_take_are_written_with_the_next(store: FullDisk) -> None:
    ledger = Ledger(store, GatewaySettings(), ("m",))
    await ledger.end(await ledger.begin(Account("worker-1"), 10), "m", CALL)
    assert store.accounts.of_day() == ()

    store.full = False
    await ledger.end(await ledger.begin(Account("worker-1"), 10), "m", CALL)
    assert store.accounts.of_day()[0].usage == Usage(200, 40, 2)
    ledger.close()


async def test_what_waits_for_the_disk_is_within_the_budgets_too(store: FullDisk) -> None:
    ledger = Ledger(store, GatewaySettings(day_tokens=100), ("m",))
    await ledger.end(await ledger.begin(Account("worker-1"), 10), "m", CALL)
    with pytest.raises(GatewayError, match="PIBOT_DAY_TOKENS"):
        await ledger.begin(Account("worker-2"), 10)
    ledger.close()


async def test_a_hub_that_stops_writes_what_still_waits(store: FullDisk) -> None:
    ledger = Ledger(store, GatewaySettings(), ("m",))
    await ledger.end(await ledger.begin(Account("worker-1"), 10), "m", CALL)
    store.full = False
    await ledger.stop()
    assert store.accounts.of_day()[0].usage == CALL.usage
    ledger.close()


async def test_a_call_is_counted_once_however_often_its_end_is_told(store: FullDisk) -> None:
    store.full = False
    ledger = Ledger(store, GatewaySettings(), ("m",))
    key = await ledger.begin(Account("worker-1"), 10)
    for _ in range(2):
        await ledger.end(key, "m", CALL)
    assert store.accounts.of_day()[0].usage == CALL.usage
    ledger.close()


async def test_who_waits_no_longer_for_a_place_takes_none() -> None:
    places = Places(1)
    assert await places.take(0)
    assert not await places.take(0)
    places.give_back()
    assert await places.take(0)
