from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from pibot.contracts import Budget, Completion, TaskRequest, TaskState, ToolCall
from pibot.conversation.windows import ModelWindows
from pibot.sandbox import create_command_runner
from pibot.settings import Settings
from pibot.tool_registry import SkillLibrary
from pibot.worker.agents import TaskAgents, create_task_agents
from pibot.worker.timed_model import MARGIN
from tests.support import scripted_llm as model
from tests.support.fakes import FakeLLM, asked, said
from tests.support.processes import ROOT
from tests.support.scripted_llm import ScriptedLLM

FINAL = '{"success": true, "data": {}, "output": "done"}'


def agents(tmp_path: Path, llm: FakeLLM) -> TaskAgents:
    return TaskAgents(
        SkillLibrary(ROOT / "skills"),
        create_command_runner("off"),
        lambda: llm,
        "SOUL",
        tmp_path / "workspace",
        Budget(),
        {},
    )


def shell(command: str) -> ToolCall:
    return ToolCall("c1", "shell_exec", {"command": command}, "{}")


async def run(tmp_path: Path, llm: FakeLLM, request: TaskRequest) -> TaskState:
    return (await agents(tmp_path, llm)(request).run(request)).state


async def test_a_workspace_exists_only_while_its_task_runs(tmp_path: Path) -> None:
    llm = FakeLLM(asked(shell("echo hello > a.txt; ls")), said(FINAL))
    request = TaskRequest("t1", "x", ("shell_exec",))
    assert await run(tmp_path, llm, request) is TaskState.COMPLETED
    assert "a.txt" in llm.sent[1][-1].content
    assert list((tmp_path / "workspace").iterdir()) == []


async def test_a_models_call_has_the_time_that_its_task_has_left(tmp_path: Path) -> None:
    class Model(FakeLLM):
        async def complete(self, *args: Any, timeout: float | None = None, **more: Any) -> Completion:
            timeouts.append(timeout)
            return await super().complete(*args, timeout=timeout, **more)

    timeouts: list[float | None] = []
    await run(tmp_path, Model(asked(shell("true")), said(FINAL)), TaskRequest("t1", "x", ("shell_exec",), timeout=65.0))
    assert len(timeouts) == 2
    assert all(timeout is not None and 0 < timeout <= 65.0 + MARGIN for timeout in timeouts)


async def test_files_that_a_power_cut_left_are_gone_for_the_next_task_with_that_id(tmp_path: Path) -> None:
    (tmp_path / "workspace" / "t1").mkdir(parents=True)
    (tmp_path / "workspace" / "t1" / "old.txt").write_text("secret123")
    llm = FakeLLM(asked(shell("ls")), said(FINAL))
    await run(tmp_path, llm, TaskRequest("t1", "x", ("shell_exec",)))
    assert "old.txt" not in llm.sent[1][-1].content


async def test_a_folder_tree_too_deep_for_python_is_removed_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    deep = "p=$(printf 'd/%.0s' $(seq 250)); for i in 1 2 3 4 5 6; do mkdir -p $p && cd $p; done"
    llm = FakeLLM(asked(shell(deep)), said(FINAL))
    assert await run(tmp_path, llm, TaskRequest("t1", "x", ("shell_exec",))) is TaskState.COMPLETED
    assert list((tmp_path / "workspace").iterdir()) == []
    assert "workspace_left" not in caplog.text


async def test_a_tasks_own_timeout_replaces_the_workers(tmp_path: Path) -> None:
    assert await run(tmp_path, FakeLLM(), TaskRequest("t1", "x", (), 0.02)) is TaskState.TIMEOUT
    assert list((tmp_path / "workspace").iterdir()) == []


async def test_only_the_named_skills_tools_and_instructions_reach_the_model(tmp_path: Path) -> None:
    llm = FakeLLM(said(FINAL))
    await run(tmp_path, llm, TaskRequest("t1", "x", ("file_ops",)))
    assert "## Skill file_ops" in llm.sent[0][0].content
    assert "shell_exec" not in llm.sent[0][0].content.split("## Skill file_ops")[0]


async def test_a_tool_of_a_skill_that_the_task_did_not_name_is_not_run(tmp_path: Path) -> None:
    outside = tmp_path / "made"
    llm = FakeLLM(asked(shell(f"touch {outside}")), said(FINAL))
    assert await run(tmp_path, llm, TaskRequest("t1", "x", ("file_ops",))) is TaskState.COMPLETED
    assert "ERROR: there is no tool 'shell_exec'" in llm.sent[1][-1].content
    assert not outside.exists()
    named = FakeLLM(asked(shell(f"touch {outside}")), said(FINAL))
    await run(tmp_path, named, TaskRequest("t2", "x", ("shell_exec",)))
    assert outside.exists()


async def test_the_models_client_is_made_on_the_first_task_and_closed_at_the_end(tmp_path: Path) -> None:
    llm, made = FakeLLM(said(FINAL), said(FINAL)), []
    maker = agents(tmp_path, llm)
    maker._create_llm = lambda: made.append(1) or llm  # type: ignore[func-returns-value]  # counts the calls
    assert made == []
    for number in (1, 2):
        request = TaskRequest(f"t{number}", "x")
        await maker(request).run(request)
    assert made == [1]
    await maker.close()
    assert llm.closed


@pytest.mark.parametrize(
    ("more", "reasoning"),
    [
        ({}, ""),
        ({"PIBOT_SHOW_REASONING": "0"}, ""),
        ({"PIBOT_SHOW_REASONING": "1"}, "[model call 1]\nI must look.\n\n[model call 2]\nI have seen it."),
    ],
)
async def test_what_the_model_thought_is_kept_only_where_the_owner_wants_it(
    tmp_path: Path, more: dict[str, str], reasoning: str
) -> None:
    with ScriptedLLM() as server:
        message = {"content": None, "tool_calls": [model.call("shell_exec", {"command": "echo hi"})]}
        server.enqueue(
            model.completion({**message, "reasoning_content": "I must look."}, finish_reason="tool_calls"),
            model.text(f"<think>I have seen it.</think>{FINAL}"),
        )
        settings = Settings.load(server.environ(PIBOT_SANDBOX="off", **more), tmp_path)
        made = create_task_agents(settings, SkillLibrary(ROOT / "skills"))
        request = TaskRequest("t1", "x", ("shell_exec",))
        outcome = await made(request).run(request)
        await made.close()
    assert (outcome.state, outcome.output, outcome.data) == (TaskState.COMPLETED, "done", {})
    assert outcome.reasoning == reasoning


async def test_the_model_can_read_on_in_an_output_that_was_shortened(tmp_path: Path) -> None:
    shown = [shell(f"seq {n} 3 6000 | tr '\\n' ' '; echo; echo end of {n}") for n in range(1, 5)]
    read = ToolCall("r1", "read_file", {"path": "tool_outputs/1-shell_exec.txt"}, "{}")
    llm = FakeLLM(*map(asked, shown), asked(read), said(FINAL))
    maker = agents(tmp_path, llm)
    maker._know_windows = lambda: ModelWindows(8_192)
    request = TaskRequest("t1", "x", ("shell_exec", "file_ops"))
    assert (await maker(request).run(request)).state is TaskState.COMPLETED
    assert "tool_outputs/1-shell_exec.txt holds the whole" in llm.sent[-1][3].content
    assert "5998" in llm.sent[-1][-1].content
    assert "end of 1" in llm.sent[-1][-1].content
