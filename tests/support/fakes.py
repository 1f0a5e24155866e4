"""Fake collaborators for unit tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Callable

from pibot.contracts import (
    AgentOutcome,
    Completion,
    Message,
    TaskRequest,
    TaskState,
    ToolCall,
    ToolResult,
    ToolSpec,
    Usage,
)


def said(text: str, *, tokens: int = 10, finish_reason: str = "stop") -> Completion:
    """Make the completion in which the model says ``text``."""
    return Completion(text, (), Usage(tokens, 0, 1), finish_reason, "fake")


def asked(*calls: ToolCall, tokens: int = 10) -> Completion:
    """Make the completion in which the model asks for these tool calls."""
    return Completion("", calls, Usage(tokens, 0, 1), "tool_calls", "fake")


class FakeLLM:
    """A model that gives the enqueued answers, raises the exceptions among them, and records the messages."""

    model = "fake"

    def __init__(self, *answers: Completion | Exception) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[Message, ...]] = []
        self.closed = False

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, timeout: float | None = None
    ) -> Completion:
        self.sent.append(tuple(messages))
        if not self.answers:
            await asyncio.Event().wait()  # never answers
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        self.closed = True


class FakeTools:
    """Tools that answer with what a function returns, and record their calls."""

    def __init__(self, execute: Callable[[ToolCall], Any], instructions: str = "") -> None:
        self.specs: tuple[ToolSpec, ...] = (ToolSpec("tool", "a tool", {"type": "object", "properties": {}}),)
        self.instructions = instructions
        self.calls: list[ToolCall] = []
        self._execute = execute

    async def execute(self, call: ToolCall) -> ToolResult:
        self.calls.append(call)
        result = self._execute(call)
        if asyncio.iscoroutine(result):
            result = await result
        return result if isinstance(result, ToolResult) else ToolResult(call.call_id, str(result))


class GatedAgent:
    """An agent that ends when the test sets ``release``, and records whether it was cancelled."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = False

    async def run(self, request: TaskRequest) -> AgentOutcome:
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return AgentOutcome(TaskState.COMPLETED, output=f"done: {request.description}")
