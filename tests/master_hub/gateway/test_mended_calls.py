"""What a provider refuses by name, or sends in another form, reaches no caller of the gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pibot.contracts import Message
from pibot.master_components.store.records import Submission
from pibot.master_hub.gateway.client import GatewayClient
from pibot.settings import LLMSettings, Secret
from tests.master_hub.gateway.lone_gateway import HELLO, TOKEN, Running, running, settings_for
from tests.support import scripted_llm as model
from tests.support.replies import Reply
from tests.support.scripted_llm import RecordedRequest, ScriptedLLM

STREAM = {**HELLO, "stream": True}


@pytest.fixture
def llm() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as server:
        yield server
        assert not server.unexpected


@pytest.fixture
def hub(llm: ScriptedLLM) -> Iterator[Running]:
    extra = {"user": "the-owner", "thinking": {"type": "disabled"}}
    yield from running(replace(settings_for(llm), extra=extra))


def unknown(name: str, status: int) -> Reply:
    detail = [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]
    return model.reply_json({"detail": detail}, status=status)


@pytest.mark.parametrize("status", [400, 422])
def test_a_provider_that_knows_no_stream_options_is_asked_without_them_from_then_on(
    hub: Running, llm: ScriptedLLM, status: int
) -> None:
    def answer(request: RecordedRequest) -> Reply:
        return unknown("stream_options", status) if "stream_options" in request.json else model.stream("go", "od")

    llm.answer_with(answer)
    asked_for_it = {**STREAM, "stream_options": {"include_usage": True}}
    for body in (STREAM, STREAM, asked_for_it):
        reply = hub.chat(body)
        assert (reply.status, b"od" in reply.body) == (200, True), reply.body
    assert len(llm.requests) == 4


def test_a_callers_own_field_is_left_out_where_the_provider_does_not_know_it(hub: Running, llm: ScriptedLLM) -> None:
    llm.enqueue(unknown("reasoning_effort", 422), model.text("good"), model.text("good"))
    for _ in range(2):
        assert hub.chat({**HELLO, "reasoning_effort": "low"}).status == 200
    assert "reasoning_effort" not in llm.requests[2].json


def test_what_is_learnt_of_one_model_is_not_believed_of_another(hub: Running, llm: ScriptedLLM) -> None:
    llm.enqueue(unknown("seed", 422), model.text("good"), model.text("good"))
    hub.chat({**HELLO, "seed": 1})
    hub.chat({**HELLO, "seed": 1, "model": "m"})
    assert ["seed" in request.json for request in llm.requests] == [True, False, True]


def test_the_owners_further_fields_are_added_for_the_planner_and_for_workers(hub: Running, llm: ScriptedLLM) -> None:
    llm.enqueue(model.text("good"), model.text("a plan"))
    hub.chat({**HELLO, "user": "a-worker"}, key=TOKEN)
    planner = GatewayClient(hub.gateway, model.MODEL, hub.store.submit(Submission("Plan it")).job_id)
    assert hub.loop.run(planner.complete([Message("user", "hello")])).result().text == "a plan"
    for request in llm.requests:
        assert request.json["user"] == "the-owner"
        assert request.json["thinking"] == {"type": "disabled"}


def test_a_provider_that_answers_streams_alone_is_asked_for_one_and_its_answer_joined(
    hub: Running, llm: ScriptedLLM
) -> None:
    def answer(request: RecordedRequest) -> Reply:
        if request.json.get("stream") is not True:
            return model.error(400, "parameter.enable_thinking must be set to false for non-streaming calls")
        assert request.json["stream_options"] == {"include_usage": True}
        return model.stream("go", "od", usage={"prompt_tokens": 3, "completion_tokens": 2})

    llm.answer_with(answer)
    for _ in range(2):
        reply = hub.chat()
        assert reply.status == 200
        assert reply.headers["Content-Type"] == "application/json"
        assert reply.json()["choices"][0]["message"]["content"] == "good"
        assert reply.json()["usage"] == {"prompt_tokens": 3, "completion_tokens": 2}
    assert len(llm.requests) == 3


def test_a_stream_that_nobody_asked_for_reaches_the_caller_as_json(hub: Running, llm: ScriptedLLM) -> None:
    llm.enqueue(model.stream("go", "od"))
    reply = hub.chat()
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json()["choices"][0]["message"]["content"] == "good"


def test_a_header_of_nine_thousand_bytes_is_read(hub: Running, llm: ScriptedLLM) -> None:
    good = model.text("good")
    llm.enqueue(Reply(good.status, good.body, {"X-Report": "r" * 9000}))
    assert hub.chat().status == 200


def test_a_refusal_that_can_not_be_mended_says_that_it_was_tried(hub: Running, llm: ScriptedLLM) -> None:
    llm.enqueue(model.error(400, "the seed is unsupported"), model.error(400, "no, something else"))
    reply = hub.chat({**HELLO, "seed": 1})
    assert reply.status == 400
    assert reply.headers["x-should-retry"] == "false"
    assert "no, something else" in reply.json()["error"]["message"]


def thinking(thought: str, **message: Any) -> Reply:
    return model.completion({"content": "", "reasoning_content": thought, **message}, finish_reason="tool_calls")


def test_a_models_thoughts_go_back_to_that_model_and_to_no_other(llm: ScriptedLLM) -> None:
    with ScriptedLLM() as second:
        fallback = LLMSettings(Secret("the-other-key"), second.url, "small-model", timeout=20.0, retries=0)
        for hub in running(settings_for(llm), fallback=fallback):
            call = model.call("look", call_id="call_1")
            llm.enqueue(thinking("first", tool_calls=[call]), model.text("good"), model.error(503), model.text("x"))
            second.answer_with(model.text("good"))
            answered = hub.chat().json()["choices"][0]["message"]
            conversation = [*HELLO["messages"], answered, {"role": "tool", "tool_call_id": "call_1", "content": "ok"}]

            hub.chat({"messages": conversation})
            hub.chat({"messages": conversation})

    sent = [request.messages[1] for request in (*llm.requests[1:3], *second.requests)]
    assert ["reasoning_content" in message for message in sent] == [True, True, False]
    assert json.dumps(sent[2]["tool_calls"]) == json.dumps([call])
