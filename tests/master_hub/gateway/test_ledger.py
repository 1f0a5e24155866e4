"""Budgets and the writing of calls, with a disk that may be full or slow."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pibot.contracts import Usage
from pibot.errors import StoreUnwritable
from pibot.master_components import JobStore
from pibot.master_components.store.records import Submission
from pibot.master_components.store.spending import Spent
from pibot.master_hub.gateway.errors import GatewayError
from pibot.master_hub.gateway.ledger import Account, Ledger
from pibot.master_hub.gateway.meter import Counted
from pibot.settings import GatewaySettings

CALL = Counted(Usage(100, 20, 1))


class FaultyDisk(JobStore):
    """A job store that can refuse to write calls, like a full disk, or keep them waiting."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.full = True
        self.answers = threading.Event()
        self.answers.set()

    def spend(self, calls: Sequence[Spent]) -> None:
        if self.full:
            raise StoreUnwritable("the disk is full")
        assert self.answers.wait(20)
        super().spend(calls)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FaultyDisk]:
    with contextlib.closing(FaultyDisk(tmp_path / "jobs.db")) as store:
        yield store


async def test_calls_that_a_full_disk_refuses_are_written_with_the_next_call(store: FaultyDisk) -> None:
    ledger = Ledger(store, GatewaySettings())
    await ledger.end(await ledger.begin(Account("worker-1"), 10), "m", CALL)
    assert store.accounts.of_day() == ()

    store.full = False
    await ledger.end(await ledger.begin(Account("worker-1"), 10), "m", CALL)
    assert store.accounts.of_day()[0].usage == Usage(200, 40, 2)
    ledger.close()


async def test_calls_waiting_for_the_disk_count_against_the_budgets(store: FaultyDisk) -> None:
    ledger = Ledger(store, GatewaySettings(day_tokens=100))
    await ledger.end(await ledger.begin(Account("worker-1"), 10), "m", CALL)
    with pytest.raises(GatewayError, match="PIBOT_DAY_TOKENS"):
        await ledger.begin(Account("worker-2"), 10)
    ledger.close()


async def test_a_stopping_hub_writes_the_waiting_calls(store: FaultyDisk) -> None:
    ledger = Ledger(store, GatewaySettings())
    await ledger.end(await ledger.begin(Account("worker-1"), 10), "m", CALL)
    store.full = False
    await ledger.stop()
    assert store.accounts.of_day()[0].usage == CALL.usage
    ledger.close()


async def test_a_call_that_is_ended_twice_is_counted_once(store: FaultyDisk) -> None:
    store.full = False
    ledger = Ledger(store, GatewaySettings())
    key = await ledger.begin(Account("worker-1"), 10)
    for _ in range(2):
        await ledger.end(key, "m", CALL)
    assert store.accounts.of_day()[0].usage == CALL.usage
    ledger.close()


async def test_concurrent_calls_count_against_the_budget_of_their_job(store: FaultyDisk) -> None:
    job_id = store.submit(Submission("look")).job_id
    ledger = Ledger(store, GatewaySettings(job_tokens=100, day_tokens=10_000))
    begun = [ledger.begin(Account(f"worker-{n}", job_id), 90) for n in range(8)]
    answers = await asyncio.gather(*begun, return_exceptions=True)
    refused = [str(answer) for answer in answers if isinstance(answer, GatewayError)]
    assert len(refused) == 6  # the second call still fits: a budget is overshot by at most one prompt
    assert all("PIBOT_JOB_TOKENS" in sentence for sentence in refused)
    ledger.close()


async def test_a_call_cancelled_while_the_disk_is_slow_is_still_counted(store: FaultyDisk) -> None:
    store.full = False
    store.answers.clear()
    ledger = Ledger(store, GatewaySettings())
    key = await ledger.begin(Account("master"), 10)
    ending = asyncio.ensure_future(ledger.end(key, "m", CALL))
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.wait([ending])
    stopping = asyncio.ensure_future(ledger.stop())
    store.answers.set()
    await stopping
    assert store.accounts.of_day()[0].usage == CALL.usage
    ledger.close()
