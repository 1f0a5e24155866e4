"""Load a skill as a task does, and call its tools through the toolbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pibot.contracts import CommandResult, CommandRunner, ToolCall, ToolContext, ToolResult
from pibot.tool_registry import SkillLibrary, Toolbox

SKILLS = Path(__file__).resolve().parents[2] / "skills"


class FakeCommands:
    """Answers every command with ``result``, and records the commands."""

    def __init__(self, result: CommandResult) -> None:
        self.result = result
        self.asked: list[dict[str, Any]] = []

    async def run(
        self, argv: Sequence[str], *, workspace: Path, timeout: float, stdin: bytes = b"", network: bool = False
    ) -> CommandResult:
        self.asked.append({"argv": list(argv), "workspace": workspace, "timeout": timeout, "network": network})
        return self.result


def toolbox(skill: str, workspace: Path, commands: CommandRunner, options: Mapping[str, Any] | None = None) -> Toolbox:
    """Return the toolbox of one skill for a task in ``workspace``."""
    return SkillLibrary(SKILLS).load([skill], ToolContext("t1", workspace, commands, options or {}))


async def ask(tools: Toolbox, name: str, /, **arguments: Any) -> ToolResult:
    """Call a tool as a model does."""
    return await tools.execute(ToolCall("c1", name, arguments))


async def answer(tools: Toolbox, name: str, /, **arguments: Any) -> str:
    """Call a tool that must succeed, and return its result."""
    result = await ask(tools, name, **arguments)
    assert not result.is_error, result.content
    return result.content


async def complaint(tools: Toolbox, name: str, /, **arguments: Any) -> str:
    """Call a tool that must fail, and return its error."""
    result = await ask(tools, name, **arguments)
    assert result.is_error, result.content
    return result.content
