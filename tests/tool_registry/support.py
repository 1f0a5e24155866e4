"""What the tests of the tool registry share: skills in a folder, and a toolbox of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pibot.contracts import CommandResult, ToolCall, ToolContext, ToolResult
from pibot.tool_registry import SkillLibrary, Toolbox


class NoCommands:
    async def run(self, argv: object, **options: object) -> CommandResult:
        raise AssertionError("no test here runs a command")


def skill(folder: Path, name: str, tools: str, description: str = "Does things.", body: str = "Use it.") -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "SKILL.md").write_text(f"---\nname: {name}\ndescription: {description}\n---\n\n{body}\n")
    header = "from __future__ import annotations\n"
    (folder / name / "tools.py").write_text(header + tools)


def one(tmp_path: Path, context: ToolContext, tools: str) -> Toolbox:
    skill(tmp_path / "skills", "demo", tools)
    return SkillLibrary(tmp_path / "skills").load(["demo"], context)


async def ask(box: Toolbox, name: str, **arguments: Any) -> ToolResult:
    return await box.execute(ToolCall("c1", name, arguments))


ECHO = '''
def echo(text: str, times: int = 1) -> str:
    """Say it again.

    Args:
        text: what to say.
        times: how often.
    """
    return text * times
'''
