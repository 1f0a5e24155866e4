"""A model call waits for no longer than its task has time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pibot.contracts import Completion, LLMClient, Message, ToolSpec
from pibot.worker.timed_model import MARGIN, TimedModel
from tests.support.clocks import FakeClock
from tests.support.fakes import said


class Model(LLMClient):
    model = "m"

    def __init__(self) -> None:
        self.timeouts: list[float | None] = []

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, timeout: float | None = None
    ) -> Completion:
        self.timeouts.append(timeout)
        return said("hello")

    async def close(self) -> None:
        raise AssertionError("the connections are the worker's")


@pytest.mark.parametrize(
    ("passed", "waited", "asked", "timeout"),
    [
        (0.0, 0.0, None, 65.0 + MARGIN),
        (40.0, 0.0, None, 25.0 + MARGIN),
        (40.0, 30.0, None, 55.0 + MARGIN),  # the owner's time does not count
        (70.0, 0.0, None, MARGIN),
        (40.0, 0.0, 3.0, 3.0),
    ],
)
async def test_a_call_has_the_time_that_its_task_has_left(
    passed: float, waited: float, asked: float | None, timeout: float
) -> None:
    model, clock = Model(), FakeClock(0.0)
    timed = TimedModel(model, 65.0, lambda: waited, clock=clock)
    clock.now += passed

    await timed.complete([], timeout=asked)
    await timed.close()

    assert (timed.model, model.timeouts) == ("m", [timeout])
