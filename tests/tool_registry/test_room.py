"""The tool calls of a worker that run at once fit into its memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pibot.contracts import ToolContext
from pibot.tool_registry.room import CALL_MB, MEMORY_MB, MemoryRoom
from tests.tool_registry.support import ask, one


class Calls:
    """Calls that hold a room until they are ended."""

    def __init__(self, room: MemoryRoom) -> None:
        self.room = room
        self.inside: list[int] = []

    def start(self, wanted: int) -> tuple[asyncio.Task[None], asyncio.Event]:
        end = asyncio.Event()

        async def run() -> None:
            async with self.room.hold(wanted):
                self.inside.append(wanted)
                try:
                    await end.wait()
                finally:
                    self.inside.remove(wanted)

        return asyncio.ensure_future(run()), end


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_calls_run_at_once_while_they_fit_and_the_rest_wait_in_order() -> None:
    calls = Calls(MemoryRoom(10))
    (a, end_a), (b, end_b), (c, end_c), (d, end_d) = (calls.start(wanted) for wanted in (6, 4, 8, 1))
    await turn()
    assert calls.inside == [6, 4]
    end_a.set()
    await turn()
    assert calls.inside == [4]  # 1 would fit, but 8 came first
    end_b.set()
    await turn()
    assert calls.inside == [8, 1]
    end_c.set()
    end_d.set()
    await asyncio.gather(a, b, c, d)


async def test_a_call_that_wants_more_than_all_has_the_room_to_itself() -> None:
    calls = Calls(MemoryRoom(10))
    (a, end_a), (b, end_b) = calls.start(99), calls.start(1)
    await turn()
    assert calls.inside == [99]
    end_a.set()
    end_b.set()
    await asyncio.gather(a, b)


async def test_a_cancelled_call_gives_its_place_back() -> None:
    calls = Calls(MemoryRoom(10))
    (a, _), (b, _), (c, end_c) = (calls.start(10) for _ in range(3))
    await turn()
    b.cancel()  # it waits
    a.cancel()  # it runs
    await turn()
    assert calls.inside == [10]
    end_c.set()
    await c
    d, end_d = calls.start(10)
    end_d.set()
    await d


async def test_a_call_that_is_cancelled_as_it_is_admitted_gives_its_place_back() -> None:
    room = MemoryRoom(10)
    calls = Calls(room)
    async with room.hold(10):
        waiting, _ = calls.start(10)
        await turn()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert calls.inside == []
    async with room.hold(10):
        pass


def test_every_call_of_one_answer_runs_at_once_unless_its_skill_says_more() -> None:
    assert MEMORY_MB // CALL_MB == 16  # MAX_CALLS_PER_STEP


async def test_a_skill_says_how_much_memory_its_calls_take(tmp_path: Path, context: ToolContext) -> None:
    source = """
import asyncio
MEMORY_MB = {"heavy": 30}
running = []
async def heavy() -> str:
    'Count.'
    running.append(1)
    most = len(running)
    await asyncio.sleep(0)
    running.pop()
    return str(most)
"""
    box = one(tmp_path / "a", context, source)
    assert {result.content for result in await asyncio.gather(*(ask(box, "heavy") for _ in range(4)))} == {"1"}
    box = one(tmp_path / "b", context, source.replace("30", "3"))
    assert {result.content for result in await asyncio.gather(*(ask(box, "heavy") for _ in range(4)))} > {"1"}
