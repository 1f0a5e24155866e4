"""Tasks that ask a model through the hub's gateway, which knows the model's window."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pibot.agent_core import ToolAgent
from pibot.contracts import AgentOutcome, Budget, TaskRequest, ToolCall
from pibot.conversation.windows import ModelWindows
from pibot.llm_client import create_llm_client
from pibot.settings import LLMSettings, Secret
from tests.master_hub.gateway.lone_gateway import TOKEN, Running, running, settings_for
from tests.support.fakes import FakeTools
from tests.support.scripted_llm import ScriptedLLM, error
from tests.support.windowed_llm import WindowedModel

TASK = TaskRequest("t1", "Read the pages", ())


@contextlib.contextmanager
def hub(settings: LLMSettings, **more: Any) -> Iterator[Running]:
    yield from running(settings, **more)


async def run(port: int, windows: ModelWindows) -> AgentOutcome:
    llm = create_llm_client(
        LLMSettings(api_key=Secret(TOKEN), base_url=f"http://127.0.0.1:{port}/v1", model="m", retries=0)
    )

    def page(call: ToolCall) -> str:
        return f"page {call.arguments}: " + "words of it. " * 1500

    try:
        return await ToolAgent(llm, FakeTools(page), "SOUL", Budget(), windows=windows).run(TASK)
    finally:
        await llm.close()


async def test_a_worker_keeps_to_the_window_that_its_hub_knows() -> None:
    with ScriptedLLM() as provider, hub(replace(settings_for(provider), profile={"window": 16_384})) as running_hub:
        served = WindowedModel(10, 16_384)
        provider.answer_with(served)
        windows = ModelWindows()
        outcome = await run(running_hub.port, windows)
    assert (outcome.output, served.refused, windows.tokens) == ("done after 10", 0, 16_384)


async def test_a_refusal_comes_through_the_gateway_as_one_and_is_learnt_from() -> None:
    with ScriptedLLM() as provider, hub(settings_for(provider)) as running_hub:
        served = WindowedModel(10, 16_384)
        provider.answer_with(served)
        outcome = await run(running_hub.port, ModelWindows())
    assert (outcome.output, served.refused) == ("done after 10", 1)


async def test_a_fallback_with_a_smaller_window_gets_a_shorter_conversation() -> None:
    with ScriptedLLM() as first, ScriptedLLM() as second:
        long, short = WindowedModel(4, 100_000), WindowedModel(8, 8_192)
        first.answer_with(lambda request: long(request) if long.made < 4 else error(503, "overloaded"))
        second.answer_with(lambda request: short(request))
        short.made = 4
        fallback = replace(settings_for(second), profile={"window": 8_192})
        with hub(settings_for(first), fallback=fallback) as running_hub:
            outcome = await run(running_hub.port, ModelWindows())
    assert outcome.output == "done after 8"
    assert short.refused == 1, "the call in which the fallback stepped in; the later ones fit"
