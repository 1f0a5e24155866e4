from __future__ import annotations

import os
from pathlib import Path

import pytest

from pibot.contracts import ToolContext
from pibot.tool_registry import kept_outputs
from pibot.tool_registry.kept_outputs import KeptOutputs
from pibot.tool_registry.library import SkillLibrary
from tests.tool_registry.support import ask

LONG = "def long() -> str:\n    'L.'\n    return 'a' * 30000 + 'z'\n"


async def test_the_whole_of_a_result_that_is_cut_is_in_a_file_that_the_result_names(
    tmp_path: Path, context: ToolContext
) -> None:
    folder = tmp_path / "skills" / "talk"
    folder.mkdir(parents=True)
    (folder / "SKILL.md").write_text("---\nname: talk\ndescription: A skill for tests here.\n---\n")
    (folder / "tools.py").write_text(LONG)
    workspace = tmp_path / "task"
    workspace.mkdir()
    box = SkillLibrary(tmp_path / "skills").load(["talk"], context, None, KeptOutputs(workspace))
    content = (await ask(box, "long")).content
    assert "10001 of 30001 characters were cut here; tool_outputs/1-long.txt holds the whole" in content
    assert (workspace / "tool_outputs" / "1-long.txt").read_text() == "a" * 30000 + "z"


def test_each_output_has_a_file_of_its_own_whatever_its_tools_name(tmp_path: Path) -> None:
    outputs = KeptOutputs(tmp_path)
    assert outputs.keep("shell_exec", "one") == "tool_outputs/1-shell_exec.txt"
    assert outputs.keep("../../.env", "two \udc80") == "tool_outputs/2-_______env.txt"
    assert (tmp_path / "tool_outputs" / "2-_______env.txt").read_text() == "two ?"


def test_a_task_keeps_no_more_than_its_share_of_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_outputs, "MOST_BYTES", 10)
    outputs = KeptOutputs(tmp_path)
    assert outputs.keep("a", "12345678") is not None
    assert outputs.keep("a", "12345678") is None
    assert outputs.keep("a", "12") is not None


@pytest.mark.parametrize("planted", ["folder is a link", "file is a link", "file is there", "workspace is gone"])
def test_what_a_command_put_in_the_way_is_neither_followed_nor_overwritten(tmp_path: Path, planted: str) -> None:
    workspace, outside = tmp_path / "task", tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    if planted != "workspace is gone":
        (workspace / "tool_outputs").mkdir(parents=True)
    if planted == "folder is a link":
        (workspace / "tool_outputs").rmdir()
        (workspace / "tool_outputs").symlink_to(outside)
    if planted == "file is a link":
        (workspace / "tool_outputs" / "1-a.txt").symlink_to(outside / "secret.txt")
    if planted == "file is there":
        os.link(outside / "secret.txt", workspace / "tool_outputs" / "1-a.txt")
    assert KeptOutputs(workspace).keep("a", "overwritten") is None
    assert [path.name for path in outside.iterdir()] == ["secret.txt"]
    assert (outside / "secret.txt").read_text() == "secret"
