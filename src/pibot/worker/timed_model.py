"""Keep a task's model calls from waiting for longer than the task has time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Callable

from pibot.contracts import Clock, Completion, LLMClient, Message, ToolSpec

MARGIN = 5.0
"""Seconds beyond the task's end that a model call gets: the agent itself ends the task, with a better sentence."""


class TimedModel(LLMClient):
    """Makes the model calls of one task. A call fails at once where the server asks for a longer wait than the task
    has time for, so that the worker is free meanwhile.

    Args:
        llm: the worker's own client.
        max_seconds: the task's time limit, from now on.
        waited: the seconds so far that the task waited for the owner's approval, which do not count.
        clock: seconds that never go back.
    """

    def __init__(
        self, llm: LLMClient, max_seconds: float, waited: Callable[[], float], *, clock: Clock = time.monotonic
    ) -> None:
        self._llm = llm
        self._ends = clock() + max_seconds
        self._waited = waited
        self._clock = clock

    @property
    def model(self) -> str:
        return self._llm.model

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, timeout: float | None = None
    ) -> Completion:
        """Ask for one completion; see :meth:`pibot.contracts.LLMClient.complete`."""
        left = max(0.0, self._ends + self._waited() - self._clock()) + MARGIN
        return await self._llm.complete(messages, tools, timeout=left if timeout is None else min(timeout, left))

    async def close(self) -> None:
        """Do nothing: the connections are the worker's."""
