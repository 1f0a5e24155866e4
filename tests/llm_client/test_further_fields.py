"""What a provider sends beyond the protocol goes back to it as it came, over both backends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pibot.contracts import Message
from pibot.llm_client import extras, wire
from tests.llm_client.conftest import HELLO, MakeClient
from tests.support.scripted_llm import ScriptedLLM, reply_json

FUNCTION = {"name": "shell_exec", "arguments": '{"command": "ls"}'}
CALL = {"id": "c1", "type": "function", "function": FUNCTION}
SIGNED = {**CALL, "extra_content": {"google": {"thought_signature": "c2ln"}}}

SENT: dict[str, dict[str, Any]] = {
    "DeepSeek's reasoning": {"content": "", "reasoning_content": "I should look.", "tool_calls": [CALL]},
    "an empty reasoning": {"content": "", "reasoning_content": "", "tool_calls": [CALL]},
    "Gemini's signature": {"content": "", "tool_calls": [SIGNED]},
    "OpenRouter's details": {
        "content": "",
        "reasoning": "hm",
        "reasoning_details": [{"type": "reasoning.encrypted", "data": "QUJD", "id": "r1"}],
        "tool_calls": [CALL],
    },
    "a field that nobody knows": {"content": "", "x_state": {"a": [1, None]}, "tool_calls": [{**CALL, "x": 1}]},
    "a field of the function": {"content": "", "tool_calls": [{**CALL, "function": {**FUNCTION, "thought": "s"}}]},
    "Mistral's thinking": {
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
            {"type": "text", "text": "I look"},
        ],
        "tool_calls": [CALL],
    },
}


@pytest.mark.parametrize("name", SENT)
async def test_an_assistants_message_goes_back_as_it_came(
    name: str, make_client: MakeClient, server: ScriptedLLM
) -> None:
    message = {"role": "assistant", **SENT[name]}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    server.enqueue(reply_json(body), reply_json(body))
    client = make_client()
    answer = await client.complete(HELLO)
    await client.complete([*HELLO, answer.to_message(), Message("tool", "a.txt", tool_call_id="c1")])
    assert server.requests[1].messages[1] == message


def read(message: dict[str, Any]) -> Any:
    return wire.completion({"choices": [{"message": message, "finish_reason": "stop"}]}, model="m")


@pytest.mark.parametrize(
    ("message", "reasoning"),
    [
        ({"content": "42", "reasoning_content": "hm"}, "hm"),
        ({"content": "42", "reasoning": "hm"}, "hm"),
        ({"content": "42", "reasoning": {"text": "hm"}}, "hm"),
        ({"content": "42", "reasoning_details": [{"type": "reasoning.text", "text": "h"}, {"summary": "m"}]}, "hm"),
        ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "42"}]}, "hm"),
        ({"content": [{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "42"}]}, "hm"),
        ({"content": "42", "reasoning_content": None, "reasoning": 7}, ""),
    ],
)
def test_reasoning_is_kept_apart_from_the_answer(message: dict[str, Any], reasoning: str) -> None:
    answer = read(message)
    assert (answer.text, answer.reasoning) == ("42", reasoning)


def test_what_openai_sends_and_does_not_want_back_is_left_out() -> None:
    answer = read({"role": "assistant", "content": "42", "refusal": None, "annotations": [], "audio": None, "x": None})
    assert answer.to_message().to_json() == {"role": "assistant", "content": "42"}


def test_further_fields_are_bounded_in_bytes_and_a_long_reasoning_is_cut() -> None:
    message = {"content": "42", "reasoning_content": "é" * 200_000, "small": "s", "huge": {"a": ["x" * 200_000]}}
    extra = read(message).extra
    assert len(json.dumps(extra, ensure_ascii=False).encode()) <= extras.MAX_EXTRA_BYTES
    assert extra["small"] == "s"
    assert "huge" not in extra
    assert len(extra["reasoning_content"]) > 60_000
