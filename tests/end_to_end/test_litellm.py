"""A server that nobody of this project wrote: LiteLLM's proxy, with its mock answers and its own errors.

See docs/decisions.md, D191.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pibot.agent_core import ToolAgent
from pibot.contracts import Budget, Completion, Message, TaskRequest, TaskState, ToolContext
from pibot.errors import LLMAway, LLMRejected, LLMTooLong
from pibot.llm_client import create_llm_client
from pibot.sandbox import create_command_runner
from pibot.settings import GatewaySettings, LLMSettings, Secret
from pibot.tool_registry import SkillLibrary
from tests.support.fleet import Fleet, fleet
from tests.support.litellm_proxy import (
    ANSWER,
    CALL,
    COOLDOWN_SECONDS,
    MODELS,
    PACED_SECONDS,
    LiteLLMProxy,
    litellm_proxy,
)
from tests.support.processes import ROOT
from tests.support.serving import Answer

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]  # the first test installs the proxy

KEY = "fleet-key-0123456789"
QUESTION = [Message("system", "Be brief."), Message("user", "What is a kettle? Was ist ein Kessel? 水壶是什么?")]
BACKENDS = pytest.mark.parametrize("backend", ["aiohttp", "openai"])


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteLLMProxy]:
    with litellm_proxy(tmp_path_factory.mktemp("litellm")) as running:
        yield running


@pytest.fixture(scope="module")
def hub(proxy: LiteLLMProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder, llm = tmp_path_factory.mktemp("fleet"), settings(proxy, "answers")
    with fleet(
        folder, workers=0, key=KEY, llm=llm, gateway=GatewaySettings(models=("unknown", *dict(MODELS)))
    ) as running:
        yield running


def settings(proxy: LiteLLMProxy, model: str, backend: str = "aiohttp", key: str | None = None) -> LLMSettings:
    return LLMSettings(Secret(key or proxy.key), proxy.url, model, backend=backend, timeout=60.0, retries=0)


async def ask(llm: LLMSettings, talk: list[Message] = QUESTION) -> Completion:
    client = create_llm_client(llm)
    try:
        return await client.complete(talk)
    finally:
        await client.close()


def chat(hub: Fleet, model: str, **more: object) -> Answer:
    return hub.ask(
        "POST", "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}
    )


@BACKENDS
async def test_an_answer_comes_with_its_tokens(proxy: LiteLLMProxy, backend: str) -> None:
    completion = await ask(settings(proxy, "answers", backend))
    assert (completion.text, completion.finish_reason) == (ANSWER, "stop")
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (10, 20)


@BACKENDS
async def test_reasoning_and_an_answer_that_was_cut_are_told_apart(proxy: LiteLLMProxy, backend: str) -> None:
    completion = await ask(settings(proxy, "thinks", backend))
    assert (completion.text, completion.reasoning) == ("A kettle", "Kettles are for water.")
    assert (completion.finish_reason, completion.usage.total_tokens) == ("length", 18)


@BACKENDS
async def test_a_call_and_its_result_go_back_as_the_proxy_wants_them(proxy: LiteLLMProxy, backend: str) -> None:
    called = await ask(settings(proxy, "calls", backend))
    (call,) = called.tool_calls
    assert (call.call_id, call.name, call.arguments) == ("call_abc", "list_files", {"path": "."})
    talk = [*QUESTION, Message("assistant", "", (call,)), Message("tool", "a.txt", tool_call_id=call.call_id)]
    assert (await ask(settings(proxy, "answers", backend), talk)).text == ANSWER


async def test_a_model_that_makes_the_same_call_for_ever_is_ended(proxy: LiteLLMProxy, tmp_path: Path) -> None:
    tools = SkillLibrary(ROOT / "skills").load(("file_ops",), ToolContext("t1", tmp_path, create_command_runner("off")))
    client = create_llm_client(settings(proxy, "calls"))
    agent = ToolAgent(client, tools, "You work.", Budget(max_steps=20, max_seconds=60.0))
    outcome = await agent.run(TaskRequest("t1", "List the files", ("file_ops",)))
    await client.close()
    assert outcome.state is TaskState.FAILED
    assert "list_files 5 times" in (outcome.error or "")


@BACKENDS
async def test_a_prompt_beyond_the_window_is_told_from_other_refusals(proxy: LiteLLMProxy, backend: str) -> None:
    with pytest.raises(LLMTooLong):
        await ask(settings(proxy, "small", backend))
    with pytest.raises(LLMRejected, match="content_filter_policy") as told:
        await ask(settings(proxy, "filtered", backend))
    assert not isinstance(told.value, LLMTooLong)


@BACKENDS
async def test_a_wrong_key_and_an_unknown_model_name_the_setting(proxy: LiteLLMProxy, backend: str) -> None:
    with pytest.raises(LLMRejected, match="VOLC_API_KEY") as told:  # "No connected db.", with status 400
        await ask(settings(proxy, "answers", backend, key="sk-another-key-0123456789"))
    assert told.value.status == 401
    with pytest.raises(LLMRejected, match="MODEL_NAME"):
        await ask(settings(proxy, "unknown", backend))


@BACKENDS
@pytest.mark.parametrize("model", ["broken", "overloaded"])
async def test_a_failing_model_is_away(proxy: LiteLLMProxy, backend: str, model: str) -> None:
    with pytest.raises(LLMAway):
        await ask(settings(proxy, model, backend))


@BACKENDS
@pytest.mark.parametrize(("model", "seconds"), [("limited", COOLDOWN_SECONDS), ("paced", PACED_SECONDS)])
async def test_a_rate_limit_is_told_with_its_wait(
    proxy: LiteLLMProxy, backend: str, model: str, seconds: float
) -> None:
    told: list[LLMAway] = []
    for _ in range(3):  # the proxy lets a model rest after each of those that stand behind the name has refused
        with pytest.raises(LLMAway) as refused:
            await ask(settings(proxy, model, backend))
        told.append(refused.value)
    assert told[-1].rest == pytest.approx(seconds, abs=60.0)


def test_a_stream_through_the_gateway_is_whole_and_counted(hub: Fleet) -> None:
    before = hub.ask("GET", "/usage?days=1").json()["today"]["total_tokens"]
    answer = chat(hub, "answers", stream=True, stream_options={"include_usage": True})
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, "text/event-stream")
    lines = [line[len("data: ") :] for line in answer.body.decode().splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]) == ANSWER
    (usage,) = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert hub.ask("GET", "/usage?days=1").json()["today"]["total_tokens"] - before == usage["total_tokens"]


def test_a_call_through_the_gateway_stays_as_it_came(hub: Fleet) -> None:
    answer = chat(hub, "calls")
    assert answer.json()["choices"][0]["message"]["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [
        ("small", 400, "ContextWindowExceededError"),
        ("filtered", 400, "content_filter_policy"),
        ("unknown", 400, "Invalid model name"),
        ("broken", 500, "mock internal server error"),
        ("paced", 429, "Model rate limit exceeded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_refusal_through_the_gateway_keeps_its_status_and_words(
    hub: Fleet, model: str, status: int, words: str, stream: bool
) -> None:
    answer = chat(hub, model, stream=stream)
    assert answer.status == status
    assert words in answer.json()["error"]["message"]
    assert answer.headers.get("Retry-After") == (str(PACED_SECONDS) if status == 429 else None)
