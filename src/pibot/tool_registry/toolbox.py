"""The tools of one task: checked, run, and answered in a form that a model can read and correct."""

from __future__ import annotations

import contextvars
import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Protocol

from pibot.contracts import Decision, ToolCall, ToolContext, ToolResult, ToolSpec, digest_of
from pibot.errors import ToolError
from pibot.tool_registry.arguments import Misfit, expected, fit_arguments
from pibot.tool_registry.signature import Signature

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("pibot.tools")

MAX_RESULT_CHARS = 20_000
"""Characters of one tool's output, about 5,000 tokens: a few of them still leave a small model room to think."""

THREAD_GRACE = 20.0
"""Seconds that a cancelled tool in a thread, which nobody can interrupt, is waited for."""


@dataclass(frozen=True)
class Tool:
    """One function of a skill.

    Args:
        skill: the skill's name.
        function: what is called, by keyword.
        signature: what it takes.
        is_async: it is a coroutine function; others run in a thread.
        context: what the function gets where it asks for its context.
        needs_approval: each call waits for the owner.
    """

    skill: str
    function: Callable[..., Any]
    signature: Signature
    is_async: bool
    context: ToolContext
    needs_approval: bool = False

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(self.name, self.signature.description, self.signature.parameters)


class ApprovalGate(Protocol):
    """The way to the owner."""

    async def ask(self, tool: str, arguments: Mapping[str, Any]) -> Decision: ...


class Toolbox:
    """The tools that one task may use.

    Args:
        tools: names are unique.
        instructions: the skills' own words to the model.
        approvals: asked before a call that needs it; without it such a call is refused.
        max_result_chars: characters of one result; the middle of a longer one is cut out.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        instructions: str = "",
        *,
        approvals: ApprovalGate | None = None,
        max_result_chars: int = MAX_RESULT_CHARS,
    ) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._approvals = approvals
        self._max_result_chars = max_result_chars
        self.instructions = instructions
        self.specs: tuple[ToolSpec, ...] = tuple(tool.spec for tool in tools)

    async def execute(self, call: ToolCall) -> ToolResult:
        """Run one call. Whatever goes wrong is a result that says so; nothing is raised.

        Raises:
            asyncio.CancelledError: the caller was cancelled; the tool has ended by then, unless it is stuck in a
                thread for longer than :data:`THREAD_GRACE`.
        """
        tool = self._tools.get(call.name)
        if tool is None:
            return ToolResult(call.call_id, self._unknown(call.name), is_error=True)
        try:
            if call.arguments is None:
                raise Misfit(call.problem or f"the arguments are no JSON object: {call.raw_arguments[:200]!r}")
            arguments = fit_arguments(tool.signature, call.arguments)
        except (Misfit, RecursionError) as exc:
            text = f"{tool.name} was not run: {exc}. {_usage(tool)}"
            return ToolResult(call.call_id, self._cut(_clean(text)), is_error=True)
        if tool.needs_approval:
            refusal = await self._refusal(tool, arguments)
            if refusal is not None:
                return ToolResult(call.call_id, self._cut(_clean(refusal)), is_error=True)
        for name in tool.signature.context_parameters:
            arguments[name] = tool.context
        text, is_error = await (_run_async(tool, arguments) if tool.is_async else _run_in_thread(tool, arguments))
        return ToolResult(call.call_id, self._cut(_clean(text)), is_error)

    async def _refusal(self, tool: Tool, arguments: Mapping[str, Any]) -> str | None:
        """Why a call may not be run, once the owner was asked; None where it may."""
        if self._approvals is None:
            return f"{tool.name} was not run: it needs the owner's approval, and there is nobody here to ask"
        decision = await self._approvals.ask(tool.name, arguments)
        if not decision.approved:
            return f"the owner refused this call: {decision.reason or 'no reason was given'}"
        if decision.digest != digest_of(tool.name, arguments):
            return f"{tool.name} was not run: the owner approved another call"
        return None

    def _unknown(self, name: str) -> str:
        if not self._tools:
            return f"there is no tool {name!r}: this task has no tools; answer without them"
        near = difflib.get_close_matches(name, self._tools, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        return f"there is no tool {name!r}{hint} The tools are: {', '.join(self._tools)}"

    def _cut(self, text: str) -> str:
        """``text`` within the limit, its middle cut out: how a thing begins and how it ends tell most about it."""
        limit = self._max_result_chars
        if len(text) <= limit:
            return text
        head, tail = limit * 3 // 4, limit - limit * 3 // 4
        note = f"[… {len(text) - limit} of {len(text)} characters were cut here; ask for a smaller part …]"
        return f"{text[:head]}\n{note}\n{text[-tail:]}"


def _usage(tool: Tool) -> str:
    """The arguments of a tool in one line."""
    required = tool.signature.parameters.get("required", [])
    arguments = [
        f"{name} ({expected(schema)}{'' if name in required else ', may be left out'})"
        for name, schema in tool.signature.parameters["properties"].items()
    ]
    return f"Give a JSON object with: {', '.join(arguments)}" if arguments else "Give {}: it takes no arguments"


async def _run_async(tool: Tool, arguments: Mapping[str, Any]) -> tuple[str, bool]:
    try:
        return _as_text(await tool.function(**arguments)), False
    except (Exception, SystemExit) as exc:  # noqa: BLE001  # logged; SystemExit would end the whole loop
        return _failure(tool, exc), True


async def _run_in_thread(tool: Tool, arguments: Mapping[str, Any]) -> tuple[str, bool]:
    import asyncio

    def call() -> tuple[str, bool]:
        # Caught in here: a future can't carry StopIteration, and SystemExit in one ends the loop.
        try:
            return _as_text(tool.function(**arguments)), False
        except (Exception, SystemExit) as exc:  # noqa: BLE001  # logged
            return _failure(tool, exc), True

    context = contextvars.copy_context()
    future = asyncio.get_running_loop().run_in_executor(None, context.run, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await _outlast(future, tool)
        raise


async def _outlast(future: asyncio.Future[Any], tool: Tool) -> None:
    """Wait for a cancelled tool's thread, so that it does not go on working for a task that is no more."""
    import asyncio

    loop = asyncio.get_running_loop()
    deadline = loop.time() + THREAD_GRACE
    while not future.done() and loop.time() < deadline:
        try:
            await asyncio.wait({future}, timeout=deadline - loop.time())
        except asyncio.CancelledError:
            continue  # asked twice; the answer comes when the thread has ended
    if not future.done():
        log.error(
            "tool_stuck tool=%s skill=%s: cancelled, still running after %g s", tool.name, tool.skill, THREAD_GRACE
        )


def _failure(tool: Tool, exc: BaseException) -> str:
    if isinstance(exc, ToolError):
        return str(exc)
    log.error("tool_broke tool=%s skill=%s", tool.name, tool.skill, exc_info=exc)
    return f"{tool.name} failed by a defect of its own: {type(exc).__name__}: {exc}"


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "done" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _clean(text: str) -> str:
    """Without lone surrogates, which file names may hold and JSON on the wire may not."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
