from __future__ import annotations

from pathlib import Path

import pytest

from pibot.contracts import CommandResult, CommandRunner
from pibot.sandbox import create_command_runner
from tests.skills.support import FakeCommands, answer, complaint, toolbox


async def said(result: CommandResult, workspace: Path) -> str:
    return await answer(toolbox("shell_exec", workspace, FakeCommands(result)), "shell_exec", command="true")


@pytest.fixture(params=[pytest.param("bwrap", marks=pytest.mark.system), "off"])
def commands(request: pytest.FixtureRequest) -> CommandRunner:
    return create_command_runner(request.param)


async def test_a_command_runs_in_the_tasks_folder_and_its_files_stay(tmp_path: Path, commands: CommandRunner) -> None:
    tools = toolbox("shell_exec", tmp_path, commands)
    assert await answer(tools, "shell_exec", command="echo hi > ~/a.txt") == "exit code: 0\n(no output)"
    assert await answer(tools, "shell_exec", command="ls; cat <(cat a.txt)") == "exit code: 0\na.txt\nhi"


async def test_a_failed_command_is_an_answer_with_its_exit_code_and_output(
    tmp_path: Path, commands: CommandRunner
) -> None:
    tools = toolbox("shell_exec", tmp_path, commands)
    said = await answer(tools, "shell_exec", command="echo out; echo oops >&2; exit 4")
    assert said == "exit code: 4\nout\noops"
    missing = await answer(tools, "shell_exec", command="no-such-program")
    assert missing.startswith("exit code: 127\n")
    assert missing.endswith("[127: a program was not found; use another one that is installed]")


async def test_a_command_that_takes_too_long_says_what_to_do(tmp_path: Path, commands: CommandRunner) -> None:
    tools = toolbox("shell_exec", tmp_path, commands)
    said = await answer(tools, "shell_exec", command="echo begun; sleep 1000", timeout="1")
    assert said.startswith("exit code: -9\nbegun\n[ended after 1 seconds, before it was done; give a longer timeout")


async def test_output_of_the_maximum_length_is_not_cut_twice(tmp_path: Path, commands: CommandRunner) -> None:
    said = await answer(toolbox("shell_exec", tmp_path, commands), "shell_exec", command="seq 1 100000")
    assert "bytes of output were dropped here" in said
    assert "characters were cut here" not in said
    assert said.endswith("\n100000")


async def test_of_a_progress_bar_the_last_frame_is_shown(tmp_path: Path, commands: CommandRunner) -> None:
    tools = toolbox("shell_exec", tmp_path, commands)
    bar = "for n in $(seq 2000); do printf '\\rfetching %4d of 2000' $n; done >&2; echo; printf '\\e[1mdone\\e[0m\\n'"
    assert await answer(tools, "shell_exec", command=bar) == "exit code: 0\nfetching 2000 of 2000\ndone"


async def test_the_command_is_one_argument_of_a_shell_and_has_no_network(tmp_path: Path) -> None:
    commands = FakeCommands(CommandResult(0, ""))
    await answer(toolbox("shell_exec", tmp_path, commands), "shell_exec", command="echo '$x'; ls", timeout=7)
    (asked,) = commands.asked
    assert asked["argv"][1:] == ["-c", "echo '$x'; ls"]
    assert asked["argv"][0] in ("/bin/bash", "/usr/bin/bash", "/bin/sh")
    assert (asked["workspace"], asked["timeout"], asked["network"]) == (tmp_path, 7, False)


async def test_a_command_runs_for_ten_minutes_at_most(tmp_path: Path) -> None:
    commands = FakeCommands(CommandResult(0, ""))
    tools = toolbox("shell_exec", tmp_path, commands)
    await answer(tools, "shell_exec", command="true", timeout=100_000)
    assert commands.asked[0]["timeout"] == 600
    assert "1 to 600 seconds, not 0" in await complaint(tools, "shell_exec", command="true", timeout=0)


@pytest.mark.parametrize(("command", "problem"), [("  ", "command is empty"), ("a\0b", "NUL")])
async def test_an_empty_or_malformed_command_is_refused(tmp_path: Path, command: str, problem: str) -> None:
    tools = toolbox("shell_exec", tmp_path, FakeCommands(CommandResult(0, "")))
    assert problem in await complaint(tools, "shell_exec", command=command)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "[ended by SIGKILL: killed, perhaps because memory ran out]"),
        (-25, "[ended by SIGXFSZ: a file grew beyond the size allowed]"),
        (-15, "[ended by SIGTERM]"),
        (-63, "[ended by signal 63]"),
    ],
)
async def test_the_signal_that_ended_a_command_is_named(tmp_path: Path, code: int, words: str) -> None:
    assert await said(CommandResult(code, ""), tmp_path) == f"exit code: {code}\n(no output)\n{words}"
