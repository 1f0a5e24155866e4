"""A completion that comes as server-sent events is read as if it had come whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pibot.errors import LLMError
from pibot.llm_client.event_streams import BadStream, StreamedCompletion
from tests.llm_client.conftest import HELLO, MakeClient
from tests.support.replies import Reply
from tests.support.scripted_llm import ScriptedLLM, raw, stream, text, truncated


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **more: Any) -> str:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    return f"data: {json.dumps({'model': 'm', 'choices': choices, **more})}\n\n"


def piece(index: int | None = 0, call_id: str | None = None, name: str | None = None, arguments: str = "") -> Any:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    call: dict[str, Any] = {"function": function}
    if index is not None:
        call["index"] = index
    if call_id is not None:
        call["id"] = call_id
    return {"tool_calls": [call]}


DONE = "data: [DONE]\n\n"
STOP = chunk({}, "stop")

TEXTS = {
    "plain": chunk({"role": "assistant", "content": ""})
    + chunk({"content": "go"})
    + chunk({"content": "od"})
    + STOP
    + DONE,
    "comments and events": ": keepalive\n\nevent: chunk\nid: 1\n"
    + chunk({"content": "good"})
    + "retry: 5\n\n"
    + STOP
    + DONE,
    "line ends of Windows": (chunk({"content": "good"}) + STOP + DONE).replace("\n", "\r\n"),
    "no space behind the colon": (chunk({"content": "good"}) + STOP).replace("data: ", "data:") + DONE,
    "no blank lines": (chunk({"content": "go"}) + chunk({"content": "od"}) + STOP + DONE).replace("\n\n", "\n"),
    "no DONE": chunk({"content": "good"}) + STOP,
    "no reason": chunk({"content": "good"}) + DONE,
    "no blank line at the end": (chunk({"content": "good"}) + STOP + DONE).rstrip("\n"),
    "an object over two lines": chunk({"content": "good"}).replace('"choices"', '\ndata: "choices"') + STOP + DONE,
    "a whole completion in one event": "data: "
    + json.dumps({"choices": [{"index": 0, "message": {"content": "good"}, "finish_reason": "stop"}]})
    + "\n\n"
    + DONE,
    "a whole completion behind comments": ": PROCESSING\n\n: PROCESSING\n\n"
    + json.dumps({"choices": [{"index": 0, "message": {"content": "good"}, "finish_reason": "stop"}]}),
    "another choice between": chunk({"content": "good"})
    + 'data: {"choices": [{"index": 1, "delta": {"content": "bad"}, "finish_reason": null}]}\n\n'
    + STOP
    + DONE,
}


@pytest.mark.parametrize("case", TEXTS)
@pytest.mark.parametrize("content_type", ["text/event-stream; charset=utf-8", "application/json"])
async def test_a_stream_that_nobody_asked_for_is_read(
    case: str, content_type: str, make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.enqueue(raw(TEXTS[case], content_type=content_type))

    assert (await make_client(retries=0).complete(HELLO)).text == "good"


async def test_the_last_count_of_tokens_and_the_reason_are_read(make_client: MakeClient, server: ScriptedLLM) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    server.enqueue(
        raw(
            chunk({"content": "go"}) + chunk({}, "length") + chunk(None, usage=usage) + DONE,
            content_type="text/event-stream",
        )
    )

    answer = await make_client(retries=0).complete(HELLO)

    assert (answer.finish_reason, answer.usage.prompt_tokens, answer.usage.completion_tokens) == ("length", 7, 3)


def read(*parts: str, size: int = 10_000) -> dict[str, Any]:
    whole = "".join(parts).encode()
    joined = StreamedCompletion()
    for at in range(0, len(whole), size):
        joined.feed(whole[at : at + size])
    message: dict[str, Any] = joined.result()["choices"][0]["message"]
    return message


@pytest.mark.parametrize(
    "deltas",
    [
        [piece(0, "a", "look", '{"x":'), piece(0, None, None, " 1}"), piece(1, "b", "see", "{}")],
        [piece(0, "a", "look"), piece(0, "a", "look", '{"x": 1}'), piece(1, "b", "see", "{}")],
        [piece(None, "a", "look", '{"x": 1}'), piece(None, "b", "see", "{}")],
        [piece(None, "a", "look", '{"x":'), piece(None, None, None, " 1}"), piece(None, "b", "see", "{}")],
        [piece(0, "a", "look", '{"x": 1}'), piece(0, "b", "see", "{}")],
        [
            {
                "tool_calls": [
                    *piece(None, "a", "look", '{"x": 1}')["tool_calls"],
                    *piece(None, "b", "see", "{}")["tool_calls"],
                ]
            }
        ],
    ],
    ids=["in pieces", "the name again", "no numbers", "no numbers, in pieces", "the same number", "in one event"],
)
@pytest.mark.parametrize("size", [1, 10_000])
def test_the_pieces_of_tool_calls_are_put_together(deltas: list[dict[str, Any]], size: int) -> None:
    message = read(*(chunk(delta) for delta in deltas), chunk({}, "tool_calls"), size=size)

    calls = [
        (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message["tool_calls"]
    ]
    assert calls == [("a", "look", {"x": 1}), ("b", "see", {})]


def test_thoughts_and_signatures_are_kept() -> None:
    signed = piece(0, "a", "look", "{}")
    signed["tool_calls"][0]["extra_content"] = {"google": {"thought_signature": "c2ln"}}
    message = read(
        chunk({"reasoning_content": "I sh", "content": None}),
        chunk({"reasoning_content": "ould."}),
        chunk({"reasoning_details": [{"text": "a"}]}),
        chunk({"reasoning_details": [{"text": "b"}]}),
        chunk(signed),
        chunk({}, "tool_calls"),
    )

    assert message["reasoning_content"] == "I should."
    assert message["reasoning_details"] == [{"text": "a"}, {"text": "b"}]
    assert message["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    assert message["content"] is None


@pytest.mark.parametrize("body", ["", ": nothing\n\n", DONE, "data: [1]\n\n", chunk(None), chunk({"content": "half"})])
def test_a_stream_without_an_end_or_a_completion_is_told(body: str) -> None:
    joined = StreamedCompletion()
    joined.feed(body.encode())
    with pytest.raises(BadStream):
        joined.result()


@pytest.mark.parametrize(
    "call",
    [
        {"index": [0], "function": {"name": "look"}},
        {"index": {}, "function": {"name": "look"}},
        {"index": 0, "function": 7},
        {"index": 0, "function": "look"},
    ],
)
def test_a_piece_of_a_call_of_an_odd_type_breaks_nothing(call: dict[str, Any]) -> None:
    message = read(chunk({"tool_calls": [call]}), chunk({"tool_calls": [call]}), chunk({}, "tool_calls"))
    assert all(isinstance(found["function"], dict) for found in message["tool_calls"])


def test_an_event_that_is_nested_without_an_end_is_left_out() -> None:
    deep = 'data: {"choices": [{"index": 0, "delta": {"content": ' + "[" * 600 + "]" * 600 + "}}]}\n\n"
    assert read(chunk({"content": "good"}), deep, STOP)["content"] == "good"


async def test_a_stream_that_breaks_off_is_asked_for_again(make_client: MakeClient, server: ScriptedLLM) -> None:
    broken: Reply = raw(chunk({"content": "half"}), content_type="text/event-stream")
    server.enqueue(broken, truncated(stream("half", "more")), text("good"))

    assert (await make_client().complete(HELLO)).text == "good"
    server.assert_done()


async def test_an_error_in_a_stream_is_the_error(make_client: MakeClient, server: ScriptedLLM) -> None:
    event = 'data: {"error": {"message": "the key has run out", "type": "authentication_error"}}\n\n'
    server.enqueue(raw(chunk({"content": "half"}) + event, content_type="text/event-stream"))

    with pytest.raises(LLMError, match="the key has run out"):
        await make_client(retries=0).complete(HELLO)


async def test_a_stream_beyond_the_limit_is_refused(
    make_client: MakeClient, server: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pibot.llm_client.backend.MAX_ANSWER_BYTES", 1024 * 1024)
    server.enqueue(raw(chunk({"content": "x" * 700_000}) * 2 + STOP, content_type="text/event-stream"))

    with pytest.raises(LLMError, match="larger than 1 MiB"):
        await make_client(retries=0).complete(HELLO)


async def test_a_header_of_nine_thousand_bytes_is_read(make_client: MakeClient, server: ScriptedLLM) -> None:
    good = text("good")
    server.enqueue(Reply(good.status, good.body, {"X-Report": "r" * 9000, "Set-Cookie": "c" * 30_000}))

    assert (await make_client(retries=0).complete(HELLO)).text == "good"
