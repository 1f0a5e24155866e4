"""Tasks whose conversation is longer than the model's window, over real HTTP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from pibot.agent_core import ToolAgent
from pibot.contracts import AgentOutcome, Budget, TaskRequest, TaskState, ToolCall
from pibot.conversation.windows import ModelWindows
from pibot.llm_client import create_llm_client
from pibot.settings import Settings
from pibot.tool_registry.kept_outputs import KeptOutputs
from tests.support.fakes import FakeTools
from tests.support.scripted_llm import RecordedRequest, ScriptedLLM
from tests.support.windowed_llm import Refuse, WindowedModel, nameless_refusal, openai_refusal

TASK = TaskRequest("t1", "Read all twenty pages and name the best one: 请用中文回答", ("file_ops",))
SOUL = "You are a worker. " * 40


@pytest.fixture
def server() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as running:
        yield running


def page(call: ToolCall) -> str:
    number = (call.arguments or {})["number"]
    return f"page {number} begins. " + f"{number} some words of it. " * 900 + f"page {number} ends."


async def run(
    server: ScriptedLLM,
    model: WindowedModel,
    *,
    windows: ModelWindows | None = None,
    outputs: KeptOutputs | None = None,
    **budget: int,
) -> AgentOutcome:
    server.answer_with(model)
    llm = create_llm_client(Settings.load(server.environ()).llm)
    try:
        agent = ToolAgent(llm, FakeTools(page), SOUL, Budget(**budget), windows=windows, outputs=outputs)
        return await agent.run(TASK)
    finally:
        await llm.close()


def kept(requests: list[RecordedRequest]) -> bool:
    """Whether every request of the loop began with the system prompt and the task."""
    loop = [r.messages for r in requests if not r.messages[0]["content"].startswith("You sum up")]
    return all(m[0]["content"].startswith(SOUL[:100]) and m[1]["content"].startswith(TASK.description) for m in loop)


@pytest.mark.parametrize("refuse", [openai_refusal, nameless_refusal])
@pytest.mark.parametrize("window", [8_192, 16_384])
async def test_a_task_of_twenty_long_results_ends_well_in_a_small_window(
    server: ScriptedLLM, refuse: Refuse, window: int
) -> None:
    model = WindowedModel(20, window, refuse)
    outcome = await run(server, model)
    assert (outcome.state, outcome.output) == (TaskState.COMPLETED, "done after 20")
    assert kept(server.requests)
    assert model.refused <= 4


async def test_a_known_window_is_never_overrun(server: ScriptedLLM) -> None:
    model = WindowedModel(20, 16_384)
    outcome = await run(server, model, windows=ModelWindows(16_384))
    assert (outcome.output, model.refused) == ("done after 20", 0)


async def test_a_window_that_was_learnt_holds_for_the_next_task(server: ScriptedLLM) -> None:
    windows = ModelWindows()
    await run(server, WindowedModel(6, 8_192), windows=windows)
    model = WindowedModel(6, 8_192)
    outcome = await run(server, model, windows=windows)
    assert (outcome.output, model.refused) == ("done after 6", 0)


def test_a_learnt_window_is_forgotten_after_an_hour() -> None:
    now = [0.0]
    windows = ModelWindows(clock=lambda: now[0])
    windows.learn(4_096)
    assert windows.tokens == 4_096
    now[0] = 3_601.0
    assert windows.tokens == 128_000


async def test_old_outputs_are_shortened_before_anything_is_summed_up(server: ScriptedLLM, tmp_path: Path) -> None:
    model = WindowedModel(5, 32_768)
    await run(server, model, windows=ModelWindows(32_768), outputs=KeptOutputs(tmp_path))
    assert not model.summaries
    last = server.requests[-1].messages
    outputs = [m["content"] for m in last if m["role"] == "tool"]
    assert "page 1 begins" in outputs[0]
    assert "page 1 ends." in outputs[0]
    whole = page(ToolCall("c", "tool", {"number": 1}))
    assert f"of {len(whole)} characters were left out here; tool_outputs/1-tool.txt holds the whole" in outputs[0]
    assert (tmp_path / "tool_outputs" / "1-tool.txt").read_text() == whole
    assert "left out" not in outputs[-1]
    assert outputs[0].startswith('<tool_output id="')
    assert '</tool_output id="' in outputs[0].splitlines()[-1]


async def test_the_middle_is_summed_up_by_the_model_where_shortening_is_not_enough(server: ScriptedLLM) -> None:
    model = WindowedModel(20, 8_192)
    outcome = await run(server, model, windows=ModelWindows(8_192))
    assert model.summaries
    assert "tools" not in model.summaries[0].json
    last = server.requests[-1].messages
    assert "So far: the outputs were read." in last[1]["content"]
    assert '<earlier_work id="' in last[1]["content"]
    assert outcome.usage.llm_calls == len(model.counted)


async def test_a_server_that_cuts_without_a_word_is_noticed_and_named_once(
    server: ScriptedLLM, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    windows = ModelWindows()
    model = WindowedModel(6, 4_096, refuse=None)
    outcome = await run(server, model, windows=windows)
    assert outcome.state is TaskState.COMPLETED
    assert outcome.output.startswith("done after 6\n[the model's server cut the conversation without saying so: it")
    assert outcome.output.count("cut the conversation") == 1
    assert "OLLAMA_CONTEXT_LENGTH" in outcome.output
    assert caplog.text.count("prompt_cut_by_server") == 1
    assert windows.tokens == 4_096
    assert model.counted[-1] < 4_096, "what is sent now fits"


@pytest.mark.parametrize("counted", [0, 10])
async def test_a_server_that_does_not_count_the_prompt_is_not_taken_for_one_that_cuts(
    server: ScriptedLLM, counted: int
) -> None:
    model = WindowedModel(6, 200_000, counts=False)
    outcome = await run(server, model)
    assert outcome.output == "done after 6"
    assert len(server.requests) == 7


async def test_twenty_results_of_20_kb_end_well_with_the_default_budget(server: ScriptedLLM) -> None:
    outcome = await run(server, WindowedModel(20, 200_000))
    assert (outcome.state, outcome.output) == (TaskState.COMPLETED, "done after 20")


async def test_a_task_that_can_never_fit_says_so(server: ScriptedLLM) -> None:
    outcome = await run(server, WindowedModel(2, 300))
    assert outcome.state is TaskState.FAILED
    assert "too large for the model" in (outcome.error or "")
