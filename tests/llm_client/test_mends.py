"""A refusal that names its cause is mended once, remembered for that model, and logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from pibot.contracts import Message, ToolCall, ToolSpec
from pibot.errors import LLMRejected
from pibot.llm_client import shaping
from tests.llm_client.conftest import HELLO, MakeClient
from tests.support.replies import Reply
from tests.support.scripted_llm import RecordedRequest, ScriptedLLM, error, reply_json, stream, text

TOOL = ToolSpec(
    "look",
    "Look at a thing.",
    {
        "type": "object",
        "properties": {
            "what": {"$ref": "#/$defs/what"},
            "when": {"type": "string", "format": "uri"},
            "how": {"type": ["string", "null"]},
        },
        "required": ["what"],
        "additionalProperties": False,
        "$defs": {"what": {"type": "string", "description": "a thing"}},
    },
)
FIRST, SECOND = ToolCall("call_12345678901234567890", "look", {}), ToolCall("b", "look", {})
WORKED = (
    Message("system", "be brief"),
    Message("user", "look twice"),
    Message("assistant", "", (FIRST, SECOND), extra={"reasoning_content": "hm", "odd": 1}),
    Message("tool", "a tree", tool_call_id=FIRST.call_id),
    Message("tool", "a house", tool_call_id=SECOND.call_id),
)
EXTRA = {"temperature": 0.2, "parallel_tool_calls": False, "max_tokens": 500, "seed": 7}

Wrong = Callable[[dict[str, Any]], object]


def calling(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [message for message in body["messages"] if message.get("tool_calls")]


def roles(body: dict[str, Any]) -> list[str]:
    return [message["role"] for message in body["messages"]]


def schema_has(word: str) -> Wrong:
    return lambda body: word in json.dumps(body["tools"])


def content_is(*values: object) -> Wrong:
    return lambda body: any(message.get("content", "absent") in values for message in calling(body))


def ids_are_not_nine(body: dict[str, Any]) -> bool:
    ids = [call["id"] for message in calling(body) for call in message["tool_calls"]]
    assert sorted(ids) == sorted(m["tool_call_id"] for m in body["messages"] if m["role"] == "tool")
    return any(len(call_id) != 9 or not call_id.isalnum() for call_id in ids)


def do_not_alternate(body: dict[str, Any]) -> bool:
    spoken = [role for role in roles(body) if role != "system"]
    return spoken != ["user", "assistant"] * (len(spoken) // 2) + ["user"] * (len(spoken) % 2)


def openai(message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def fastapi(*loc: object, msg: str = "Extra inputs are not permitted", kind: str = "extra_forbidden") -> dict[str, Any]:
    return {"detail": [{"type": kind, "loc": ["body", *loc], "msg": msg, "input": None}]}


def mistral(*loc: object, msg: str = "Extra inputs are not permitted") -> dict[str, Any]:
    return {"object": "error", "message": fastapi(*loc, msg=msg), "type": "invalid_request_error", "code": None}


CASES: dict[str, tuple[int, Any, Wrong]] = {
    "a temperature": (
        400,
        openai(
            "Unsupported value: 'temperature' does not support 0.2. Only the default (1) is supported.", "temperature"
        ),
        lambda body: "temperature" in body,
    ),
    "a temperature, in words alone": (
        400,
        openai("temperature is deprecated for this model"),
        lambda body: "temperature" in body,
    ),
    "max_tokens": (
        400,
        openai(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
            "max_tokens",
            "unsupported_parameter",
        ),
        lambda body: "max_tokens" in body or body["max_completion_tokens"] != 500,
    ),
    "parallel_tool_calls, as 422": (
        422,
        fastapi("parallel_tool_calls"),
        lambda body: "parallel_tool_calls" in body,
    ),
    "two unknown fields, one after the other": (
        422,
        fastapi("seed"),
        lambda body: "seed" in body,
    ),
    "an unknown field of JSON": (
        400,
        {"error": {"code": 400, "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'}},
        lambda body: "seed" in body,
    ),
    "a system message": (
        400,
        openai("System role not supported"),
        lambda body: "system" in roles(body) or "be brief" not in json.dumps(body["messages"]),
    ),
    "a system message, by a template": (
        500,
        {"error": {"code": 500, "message": "Jinja Exception: System role not supported", "type": "server_error"}},
        lambda body: "system" in roles(body),
    ),
    "additionalProperties": (
        400,
        {
            "error": {
                "code": 400,
                "message": 'Invalid JSON payload received. Unknown name "additionalProperties" at '
                "'tools[0].function_declarations[0].parameters': Cannot find field.",
                "status": "INVALID_ARGUMENT",
            }
        },
        schema_has("additionalProperties"),
    ),
    "a reference": (400, openai("Invalid schema for function 'look': $ref is not supported"), schema_has("$ref")),
    "a format": (
        400,
        openai("parameters.properties[when].format: only 'enum' and 'date-time' are supported for STRING type"),
        schema_has('"uri"'),
    ),
    "a content of null": (
        400,
        openai("Invalid value for 'content': expected a string, got null."),
        content_is(None, "absent"),
    ),
    "an empty content": (
        400,
        openai("messages: text content blocks must be non-empty"),
        content_is(""),
    ),
    "an empty content and none": (
        422,
        mistral("messages", 2, "assistant", "content", msg="Input should be a valid string with at least 1 character"),
        content_is("", None),
    ),
    "every content without a text": (
        400,
        openai("content must be a non-empty string"),
        content_is("", None, "absent"),
    ),
    "a field of a message": (
        422,
        mistral("messages", 2, "assistant", "odd"),
        lambda body: any("odd" in message for message in calling(body)),
    ),
    "a field of a message, in words alone": (
        400,
        openai("'messages.2' : for 'role:assistant' : property 'reasoning_content' is unsupported"),
        lambda body: any("reasoning_content" in message for message in calling(body)),
    ),
    "ids of another form": (
        400,
        openai("Tool call id was call_12345 but must be a-z, A-Z, 0-9, with a length of 9."),
        ids_are_not_nine,
    ),
    "messages that do not alternate": (
        400,
        openai("Conversation roles must alternate user/assistant/user/assistant/..."),
        do_not_alternate,
    ),
    "a last message that is not the user's": (
        400,
        openai("Error rendering prompt with jinja template: No user query found in messages."),
        lambda body: roles(body)[-1] != "user",
    ),
    "two calls at once": (
        500,
        {"error": {"code": 500, "message": "This model only supports single tool-calls at once! (template)"}},
        lambda body: any(len(message["tool_calls"]) > 1 for message in calling(body)),
    ),
    "an answer that is no stream": (
        400,
        openai("parameter.enable_thinking must be set to false for non-streaming calls"),
        lambda body: body.get("stream") is not True,
    ),
    "an error under 200": (
        200,
        {"error": {"message": "Unrecognized request argument supplied: seed", "code": 400}},
        lambda body: "seed" in body,
    ),
}


def picky(status: int, refusal: Any, wrong: Wrong) -> Callable[[RecordedRequest], Reply]:
    def answer(request: RecordedRequest) -> Reply:
        if wrong(request.json):
            return reply_json(refusal, status=status)
        return stream("go", "od") if request.json.get("stream") else text("good")

    return answer


@pytest.mark.parametrize("case", CASES)
async def test_what_a_provider_refuses_by_name_is_sent_otherwise_and_remembered(
    case: str, make_client: MakeClient, server: ScriptedLLM, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer_with(picky(*CASES[case]))
    profile = {"beside_calls": "null"} if case == "a content of null" else {}
    client = make_client(retries=0, extra=EXTRA, profile=profile)

    with caplog.at_level(logging.WARNING):
        assert (await client.complete(WORKED, [TOOL])).text == "good"
    tried = len(server.requests)
    assert (await client.complete(WORKED, [TOOL])).text == "good"

    assert 2 <= tried <= 4
    assert len(server.requests) == tried + 1, "the next call is written as the provider wants it"
    assert caplog.text.count("provider_mended") == 1
    assert "scripted-model" in caplog.text


async def test_several_causes_are_mended_one_after_the_other(make_client: MakeClient, server: ScriptedLLM) -> None:
    wanted = [CASES[name] for name in ("a temperature", "a system message", "additionalProperties", "max_tokens")]

    def answer(request: RecordedRequest) -> Reply:
        for status, refusal, wrong in wanted:
            if wrong(request.json):
                return reply_json(refusal, status=status)
        return text("good")

    server.answer_with(answer)
    assert (await make_client(retries=0, extra=EXTRA).complete(WORKED, [TOOL])).text == "good"
    assert len(server.requests) <= 8


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "This model's maximum context length is 4096 tokens", code="context_length_exceeded"),
        error(400, "the prompt is too long: 5000 tokens exceed the context window; content must be shorter"),
        error(400, "The response was filtered by the content policy", code="content_filter"),
        error(400, "bad request"),
        error(404, "the model `scripted-model` does not exist"),
    ],
)
async def test_a_refusal_for_another_reason_is_not_asked_again(
    make_client: MakeClient, server: ScriptedLLM, refusal: Reply
) -> None:
    server.enqueue(refusal)

    with pytest.raises(LLMRejected):
        await make_client(retries=0).complete(HELLO)
    server.assert_done()


async def test_what_did_not_help_is_not_remembered(make_client: MakeClient, server: ScriptedLLM) -> None:
    server.answer_with(error(400, "temperature is not supported"))
    client = make_client(retries=0, extra=EXTRA)
    with pytest.raises(LLMRejected, match="temperature is not supported"):
        await client.complete(HELLO)
    assert len(server.requests) == 2

    server.answer_with(text("good"))
    await client.complete(HELLO)
    assert server.requests[-1].json["temperature"] == 0.2


async def test_a_conversation_too_long_behind_a_mended_refusal_is_named(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.answer_with(
        lambda request: (
            error(400, "temperature is not supported")
            if "temperature" in request.json
            else error(400, "maximum context length is 10 tokens", code="context_length_exceeded")
        )
    )
    with pytest.raises(LLMRejected, match="maximum context length"):
        await make_client(retries=0, extra=EXTRA).complete(HELLO)


async def test_a_refusal_that_the_hub_could_not_mend_is_not_mended_again(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.enqueue(error(400, "temperature is not supported", headers={"x-should-retry": "false"}))
    with pytest.raises(LLMRejected):
        await make_client(retries=0, extra=EXTRA).complete(HELLO)
    server.assert_done()


async def test_an_address_without_a_path_is_also_tried_below_v1(make_client: MakeClient, server: ScriptedLLM) -> None:
    server.answer_with(
        lambda request: text("good") if request.path == "/v1/chat/completions" else error(404, "Not Found")
    )
    client = make_client(retries=0, base_url=server.url[: -len("/v1")])
    for _ in range(2):
        assert (await client.complete(HELLO)).text == "good"
    paths = [request.path for request in server.requests]
    assert paths == ["/chat/completions", "/v1/chat/completions", "/v1/chat/completions"]


async def test_an_answer_without_text_and_calls_goes_back_with_a_text(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.enqueue(text("good"))
    await make_client().complete([*HELLO, Message("assistant", ""), Message("user", "go on")])
    assert server.requests[0].messages[1]["content"] == shaping.EMPTY_ANSWER
