"""A conversation that changes its model takes along what the other one understands, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pibot.contracts import Completion, Message, ToolCall
from pibot.llm_client import create_llm_client
from pibot.settings import LLMSettings, Secret
from tests.master_hub.gateway.lone_gateway import KEY, Running, running, settings_for
from tests.support import scripted_llm as model
from tests.support.scripted_llm import ScriptedLLM, reply_json

CALL = {"id": "functions.now:0", "type": "function", "function": {"name": "now", "arguments": "{}"}}
THOUGHT = {
    "role": "assistant",
    "content": "",
    "reasoning_content": "I look at the clock.",
    "tool_calls": [{**CALL, "extra_content": {"google": {"thought_signature": "c2ln"}}}],
}
USER = Message("user", "what time is it?")


@pytest.fixture
def first() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as server:
        yield server


@pytest.fixture
def second() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as server:
        yield server


@pytest.fixture
def hub(first: ScriptedLLM, second: ScriptedLLM) -> Iterator[Running]:
    fallback = LLMSettings(api_key=Secret(model.API_KEY), base_url=second.url, model="second", timeout=20.0, retries=0)
    yield from running(settings_for(first), fallback=fallback)


def body(message: dict[str, Any]) -> model.Reply:
    return reply_json({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})


def results(answer: Completion) -> list[Message]:
    return [answer.to_message(), *(Message("tool", "noon", tool_call_id=c.call_id) for c in answer.tool_calls)]


async def test_a_models_own_fields_go_back_to_it_alone_also_when_the_conversation_returns(
    hub: Running, first: ScriptedLLM, second: ScriptedLLM
) -> None:
    first.enqueue(body(THOUGHT), model.error(503, "away"), model.error(503, "still away"))
    other = {"role": "assistant", "content": "", "reasoning": "mine", "tool_calls": [{**CALL, "id": "b1"}]}
    second.enqueue(body(other), body(other))
    settings = LLMSettings(api_key=Secret(KEY), base_url=f"http://127.0.0.1:{hub.port}/v1", model="m", retries=0)
    async with create_llm_client(settings) as client:
        talk = [USER, *results(await client.complete([USER]))]
        talk += results(await client.complete(talk))
        await client.complete(talk)
    [sent, again] = second.requests
    assistant, tool = sent.messages[1:]
    assert assistant.keys() == {"role", "content", "tool_calls"}
    assert assistant["tool_calls"][0].keys() == {"id", "type", "function"}
    assert len(tool["tool_call_id"]) == 9
    assert tool["tool_call_id"] == assistant["tool_calls"][0]["id"]
    assert again.messages[3]["reasoning"] == "mine"
    assert "reasoning_content" not in again.messages[1]
    assert "pibot_origin" not in json.dumps([request.json for request in (*first.requests, *second.requests)])


async def test_the_same_model_gets_its_message_back_as_it_came(hub: Running, first: ScriptedLLM) -> None:
    first.enqueue(body(THOUGHT), body(THOUGHT))
    settings = LLMSettings(api_key=Secret(KEY), base_url=f"http://127.0.0.1:{hub.port}/v1", model="m", retries=0)
    async with create_llm_client(settings) as client:
        await client.complete([USER, *results(await client.complete([USER]))])
    assert first.requests[1].messages[1] == THOUGHT


def test_a_stream_carries_the_mark_once_with_the_first_field_that_is_no_text(hub: Running, first: ScriptedLLM) -> None:
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "I look"},
        {"reasoning_content": " at the clock."},
        {"tool_calls": [{**CALL, "index": 0}]},
    ]
    events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    first.enqueue(
        model.raw(
            b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n",
            content_type="text/event-stream",
        )
    )
    answer = hub.chat({"messages": [{"role": "user", "content": "x"}], "stream": True})
    told = [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: {")]
    marks = [event["choices"][0]["delta"].pop("pibot_origin", None) for event in told]
    assert [bool(mark) for mark in marks] == [False, True, False, False]
    assert told == events


@pytest.mark.parametrize("message", [{"role": "assistant", "content": "noon"}, {"content": None, "refusal": "no"}])
def test_an_answer_of_text_alone_is_passed_on_unchanged(
    message: dict[str, Any], hub: Running, first: ScriptedLLM
) -> None:
    first.enqueue(body(message))
    assert hub.chat().json()["choices"][0]["message"] == message


def test_messages_without_a_mark_are_the_first_models(hub: Running, first: ScriptedLLM, second: ScriptedLLM) -> None:
    first.enqueue(model.error(503, "away"))
    second.enqueue(model.text("noon"))
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "I look"}]
    call = ToolCall("c1", "now", {})
    hub.chat(
        {"messages": [USER.to_json(), {"role": "assistant", "content": parts, "x": 1, "tool_calls": [call.to_json()]}]}
    )
    assert second.requests[0].messages[1] == {
        "role": "assistant",
        "content": "I look",
        "tool_calls": [call.to_json()],
    }
