"""Run the tools of one task: check the arguments, call the function, and give the model a result to read."""

from __future__ import annotations

import contextvars
import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Protocol

from pibot.contracts import Decision, ToolCall, ToolContext, ToolResult, ToolSpec, digest_of
from pibot.errors import SandboxUnavailable, ToolError
from pibot.tool_registry.arguments import Misfit, expected, fit_arguments
from pibot.tool_registry.kept_outputs import KeptOutputs
from pibot.tool_registry.room import CALL_MB, MemoryRoom
from pibot.tool_registry.signature import Signature

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("pibot.tools")

MAX_RESULT_CHARS = 20_000
"""The longest result in characters, about 5,000 tokens: a few results must leave a small model room to think."""

THREAD_GRACE = 20.0
"""Seconds to wait for a cancelled tool in a thread, which can't be interrupted."""


@dataclass(frozen=True)
class Tool:
    """One function of a skill.

    Args:
        skill: the skill's name.
        function: the function, called with keyword arguments.
        signature: its description and arguments.
        is_async: whether it is a coroutine function; any other runs in a thread.
        context: the context for functions that ask for it.
        needs_approval: whether each call needs the owner's approval.
        memory: MB of this process's memory that a call may take.
    """

    skill: str
    function: Callable[..., Any]
    signature: Signature
    is_async: bool
    context: ToolContext
    needs_approval: bool = False
    memory: int = CALL_MB

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(self.name, self.signature.description, self.signature.parameters)


class ApprovalGate(Protocol):
    """Asks the owner about tool calls."""

    async def ask(self, tool: str, arguments: Mapping[str, Any]) -> Decision:
        """Wait for the owner's decision on a call."""
        ...


class Toolbox:
    """The tools that one task may use.

    Args:
        tools: the tools; their names are unique.
        instructions: the skills' instructions for the model.
        approvals: asks the owner about calls that need approval; without it they are refused.
        max_result_chars: the longest result in characters; a longer one loses its middle.
        room: bounds the memory of the calls that run at once.
        outputs: keeps the whole of a result that is cut; None where the task's tools could not read it.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        instructions: str = "",
        *,
        approvals: ApprovalGate | None = None,
        max_result_chars: int = MAX_RESULT_CHARS,
        room: MemoryRoom | None = None,
        outputs: KeptOutputs | None = None,
    ) -> None:
        self._outputs = outputs
        self._room = room or MemoryRoom()
        self._tools = {tool.name: tool for tool in tools}
        self._approvals = approvals
        self._max_result_chars = max_result_chars
        self.instructions = instructions
        self.specs: tuple[ToolSpec, ...] = tuple(tool.spec for tool in tools)

    async def execute(self, call: ToolCall) -> ToolResult:
        """Run one tool call. A failure is a result for the model, not an exception.

        Raises:
            SandboxUnavailable: this machine can't confine commands; another one may do the task.
            asyncio.CancelledError: the caller was cancelled. The tool has ended by then, unless it is stuck in a
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
        async with self._room.hold(tool.memory):
            text, is_error = await (_run_async(tool, arguments) if tool.is_async else _run_in_thread(tool, arguments))
        return ToolResult(call.call_id, self._cut(_clean(text), tool.name), is_error)

    async def _refusal(self, tool: Tool, arguments: Mapping[str, Any]) -> str | None:
        """Ask the owner about a call, and return why it may not run; None if it may."""
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

    def _cut(self, text: str, tool: str | None = None) -> str:
        """Cut the middle out of a text beyond the limit: the beginning and the end tell most about it.

        Args:
            tool: the tool whose output it is, to keep the whole; None to keep it nowhere.
        """
        limit = self._max_result_chars
        if len(text) <= limit:
            return text
        head, tail = limit * 3 // 4, limit - limit * 3 // 4
        where = self._outputs.keep(tool, text) if self._outputs is not None and tool is not None else None
        advice = "ask for a smaller part" if where is None else f"{where} holds the whole"
        note = f"[… {len(text) - limit} of {len(text)} characters were cut here; {advice} …]"
        return f"{text[:head]}\n{note}\n{text[-tail:]}"


def _usage(tool: Tool) -> str:
    """Describe the arguments of a tool in one line."""
    required = tool.signature.parameters.get("required", [])
    arguments = [
        f"{name} ({expected(schema)}{'' if name in required else ', may be left out'})"
        for name, schema in tool.signature.parameters["properties"].items()
    ]
    return f"Give a JSON object with: {', '.join(arguments)}" if arguments else "Give {}: it takes no arguments"


async def _run_async(tool: Tool, arguments: Mapping[str, Any]) -> tuple[str, bool]:
    try:
        return _as_text(await tool.function(**arguments)), False
    except SandboxUnavailable:
        raise
    except (Exception, SystemExit) as exc:  # noqa: BLE001  # logged; SystemExit would end the whole loop
        return _failure(tool, exc), True


async def _run_in_thread(tool: Tool, arguments: Mapping[str, Any]) -> tuple[str, bool]:
    import asyncio

    def call() -> tuple[str, bool]:
        # Caught here: a future can't carry StopIteration, and SystemExit in one ends the loop.
        try:
            return _as_text(tool.function(**arguments)), False
        except SandboxUnavailable:
            raise
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
    """Wait for a cancelled tool's thread, so that it does not work on after its task has ended."""
    import asyncio

    loop = asyncio.get_running_loop()
    deadline = loop.time() + THREAD_GRACE
    while not future.done() and loop.time() < deadline:
        try:
            await asyncio.wait({future}, timeout=deadline - loop.time())
        except asyncio.CancelledError:
            continue  # a second cancellation; the caller gets it when the thread has ended
    if not future.done():
        log.error(
            "tool_stuck tool=%s skill=%s: cancelled, still running after %g s", tool.name, tool.skill, THREAD_GRACE
        )


def _failure(tool: Tool, exc: BaseException) -> str:
    if isinstance(exc, ToolError):
        return str(exc)
    log.error("tool_broke tool=%s skill=%s", tool.name, tool.skill, exc_info=exc)
    return f"{tool.name} failed because of a defect in it: {type(exc).__name__}: {exc}"


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "done" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _clean(text: str) -> str:
    """Escape lone surrogates, which file names may hold and encoded JSON may not."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
