from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from pibot.contracts import CommandResult, ToolCall, ToolContext, ToolResult
from pibot.errors import SettingsError, SkillError
from pibot.sandbox import create_command_runner
from pibot.tool_registry import Policy, SkillLibrary
from tests.skills.support import SKILLS, FakeCommands

FETCH = """
from pibot.contracts import ToolContext
async def fetch(context: ToolContext, network: bool) -> str:
    'Fetch.'
    result = await context.commands.run(["curl"], workspace=context.workspace, timeout=9, network=network)
    return f"{result.output} {context.network}"
"""


def skill(folder: Path, name: str, metadata: str = "", tools: str = FETCH) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "SKILL.md").write_text(f"---\nname: {name}\ndescription: Does things.\n{metadata}---\nUse it.\n")
    (folder / name / "tools.py").write_text(tools)


async def fetched(
    tmp_path: Path, metadata: str, allowed: Collection[str] = (), *, network: bool = True
) -> tuple[ToolResult, FakeCommands]:
    skill(tmp_path / "skills", "fetcher", metadata)
    commands = FakeCommands(CommandResult(0, "a page"))
    library = SkillLibrary(tmp_path / "skills", Policy(frozenset(allowed)))
    box = library.load(["fetcher"], ToolContext("t1", tmp_path, commands))
    return await box.execute(ToolCall("c1", "fetch", {"network": network})), commands


ASKS = "metadata:\n  network: true\n"


@pytest.mark.parametrize("metadata", [ASKS, 'metadata:\n  network: "true"\n'])
async def test_the_skill_and_the_owner_together_give_the_network(tmp_path: Path, metadata: str) -> None:
    result, commands = await fetched(tmp_path, metadata, {"fetcher"})
    assert (result.is_error, result.content) == (False, "a page True")
    assert commands.asked[0]["network"] is True


@pytest.mark.parametrize(
    ("metadata", "allowed", "missing", "not_missing"),
    [
        (ASKS, (), "PIBOT_NETWORK_SKILLS", "SKILL.md"),
        (ASKS, {"another"}, "PIBOT_NETWORK_SKILLS", "SKILL.md"),
        ("", {"fetcher"}, "its SKILL.md does not ask for it", "PIBOT_NETWORK_SKILLS"),
        ("metadata:\n  network: false\n", {"fetcher"}, "its SKILL.md", "PIBOT_NETWORK_SKILLS"),
    ],
)
async def test_one_of_the_two_alone_gives_no_network_and_the_refusal_names_the_other(
    tmp_path: Path, metadata: str, allowed: Collection[str], missing: str, not_missing: str
) -> None:
    result, commands = await fetched(tmp_path, metadata, allowed)
    assert result.is_error
    assert result.content.startswith("the skill 'fetcher' may not use the network: ")
    assert missing in result.content
    assert not_missing not in result.content
    assert commands.asked == []


async def test_without_the_network_its_commands_run_all_the_same(tmp_path: Path) -> None:
    result, commands = await fetched(tmp_path, "", network=False)
    assert (result.content, commands.asked[0]["network"]) == ("a page False", False)


async def test_one_skills_permission_is_not_anothers_in_the_same_task(tmp_path: Path) -> None:
    skill(tmp_path / "skills", "open", ASKS)
    skill(tmp_path / "skills", "closed", tools=FETCH.replace("fetch(", "get("))
    library = SkillLibrary(tmp_path / "skills", Policy(frozenset({"open"})))
    box = library.load(["open", "closed"], ToolContext("t1", tmp_path, FakeCommands(CommandResult(0, ""))))
    assert not (await box.execute(ToolCall("c1", "fetch", {"network": True}))).is_error
    assert (await box.execute(ToolCall("c2", "get", {"network": True}))).is_error


@pytest.mark.parametrize(
    "metadata", ["metadata: network\n", "metadata:\n  network: maybe\n", "metadata:\n  network: 1\n"]
)
def test_a_skill_page_with_an_unclear_network_setting_is_refused(tmp_path: Path, metadata: str) -> None:
    skill(tmp_path / "skills", "fetcher", metadata)
    library = SkillLibrary(tmp_path / "skills")
    assert library.names() == ()
    with pytest.raises(SkillError, match=r"SKILL\.md: metadata"):
        library.load(["fetcher"], ToolContext("t1", tmp_path, FakeCommands(CommandResult(0, ""))))


def own_network() -> str:
    return str(Path("/proc/self/ns/net").readlink())


@pytest.mark.system
async def test_a_shell_command_has_a_network_only_where_both_say_so(tmp_path: Path) -> None:
    page = (SKILLS / "shell_exec" / "SKILL.md").read_text()
    tools = (SKILLS / "shell_exec" / "tools.py").read_text()
    skill(tmp_path / "skills", "shell_exec", tools=tools)
    (tmp_path / "skills" / "shell_exec" / "SKILL.md").write_text(page.replace("\n---\n", f"\n{ASKS}---\n", 1))
    host = own_network()
    workspace = tmp_path / "w"
    workspace.mkdir()
    context = ToolContext("t1", workspace, create_command_runner("bwrap"))
    namespaces = []
    for allowed in (frozenset({"shell_exec"}), frozenset[str]()):
        box = SkillLibrary(tmp_path / "skills", Policy(allowed)).load(["shell_exec"], context)
        result = await box.execute(ToolCall("c1", "shell_exec", {"command": "readlink /proc/self/ns/net"}))
        assert not result.is_error, result.content
        namespaces.append(result.content.splitlines()[1])
    assert namespaces[0] == host
    assert namespaces[1] != host


TOOLS = """
import os
from shutil import copy
def one() -> str:
    'One.'
    def inner() -> str: ...
    return ''
if os.name == 'posix':
    async def two() -> str:
        'Two.'
        return ''
else:
    def two() -> str: ...
class Helper:
    def method(self) -> None: ...
def _private() -> None: ...
"""


@pytest.mark.parametrize("name", ["fetcher", "one", "two"])
def test_a_skill_and_each_of_its_tools_may_be_named_for_approval(tmp_path: Path, name: str) -> None:
    skill(tmp_path, "fetcher", tools=TOOLS)
    SkillLibrary(tmp_path, Policy(approve=frozenset({name}))).check_policy()


@pytest.mark.parametrize(
    "name", ["shell-exec", "Fetcher", "inner", "method", "_private", "copy", "Helper", "fetcher.one"]
)
def test_a_name_for_approval_that_is_neither_skill_nor_tool_is_refused_with_those_that_are(
    tmp_path: Path, name: str
) -> None:
    skill(tmp_path, "fetcher", tools=TOOLS)
    skill(tmp_path, "broken", tools="def (")
    with pytest.raises(SettingsError) as refused:
        SkillLibrary(tmp_path, Policy(approve=frozenset({"fetcher", name}))).check_policy()
    assert f"PIBOT_APPROVE names {name!r}, which is neither a skill nor a tool here" in str(refused.value)
    assert str(refused.value).endswith("the skills are broken, fetcher; the tools are one, two")


def test_a_name_for_the_network_that_is_no_skill_is_warned_of_with_those_that_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    skill(tmp_path, "fetcher", ASKS)
    SkillLibrary(tmp_path, Policy(frozenset({"fetcher"}))).check_policy()
    assert caplog.messages == []
    SkillLibrary(tmp_path, Policy(frozenset({"fetch"}))).check_policy()
    assert caplog.messages == ["PIBOT_NETWORK_SKILLS names 'fetch', which is no skill here; the skills are fetcher"]
