from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pibot.errors import LeaseLost, StoreError, StoreUnreadable, StoreUnwritable
from pibot.master_components.store.thread import LONGEST_WAIT, StoreThread


class Sleeps:
    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
async def sleeps() -> Sleeps:
    return Sleeps()


@pytest.fixture
async def on_disk(sleeps: Sleeps) -> AsyncIterator[StoreThread]:
    thread = StoreThread(sleeps)
    yield thread
    thread.close()


def full(times: int) -> list[Exception | None]:
    return [StoreUnwritable("the disk is full")] * times + [None]


def play(answers: list[Exception | None]) -> str:
    answer = answers.pop(0)
    if answer is not None:
        raise answer
    return "written"


async def test_a_failed_write_is_tried_again_with_growing_pauses_until_it_succeeds(
    on_disk: StoreThread, sleeps: Sleeps, caplog: pytest.LogCaptureFixture
) -> None:
    assert await on_disk(play, full(7)) == "written"
    assert sleeps.seconds == [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_WAIT, LONGEST_WAIT]
    assert caplog.text.count("store_unwritable") == 7
    assert "the disk is full" in caplog.text


async def test_a_failed_read_is_tried_again(on_disk: StoreThread, sleeps: Sleeps) -> None:
    assert await on_disk(play, [StoreUnreadable("disk I/O error"), None]) == "written"
    assert sleeps.seconds == [1.0]


async def test_a_shielded_write_succeeds_even_if_its_caller_is_cancelled() -> None:
    room, waits = asyncio.Event(), asyncio.Event()

    async def sleep(_: float) -> None:
        waits.set()
        await room.wait()

    thread = StoreThread(sleep)
    answers = full(1)
    writing = asyncio.ensure_future(thread.shielded(play, answers))
    await waits.wait()
    for _ in range(2):
        writing.cancel()
        await asyncio.sleep(0)
    room.set()
    assert await writing == "written"
    thread.close()


async def test_a_hub_that_stops_gives_up_the_writes_that_wait_for_the_disk() -> None:
    waits = asyncio.Event()

    async def sleep(_: float) -> None:
        waits.set()
        await asyncio.Event().wait()

    thread = StoreThread(sleep)
    writing = asyncio.ensure_future(thread.shielded(play, full(1)))
    await waits.wait()
    thread.stop()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert thread.trouble is None
    thread.close()


async def test_once_raises_the_error_at_once(on_disk: StoreThread, sleeps: Sleeps) -> None:
    with pytest.raises(StoreUnwritable):
        await on_disk.once(play, full(1))
    assert sleeps.seconds == []


@pytest.mark.parametrize("error", [StoreError("a defect"), LeaseLost("gone"), KeyError("x")])
async def test_an_error_that_will_not_pass_is_raised(on_disk: StoreThread, sleeps: Sleeps, error: Exception) -> None:
    with pytest.raises(type(error)):
        await on_disk(play, [error])
    assert sleeps.seconds == []


async def test_other_calls_run_while_one_waits_for_the_disk() -> None:
    room, waits = asyncio.Event(), asyncio.Event()

    async def sleep(_: float) -> None:
        waits.set()
        await room.wait()

    thread = StoreThread(sleep)
    first = asyncio.ensure_future(thread(play, full(1)))
    await waits.wait()
    assert await thread(play, [None]) == "written"
    assert not first.done()
    assert thread.trouble == "the disk is full"
    room.set()
    assert await first == "written"
    assert thread.trouble is None
    thread.close()
