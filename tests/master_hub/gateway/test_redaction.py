"""The provider's key in its own answers, whole or in pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pibot.llm_client.configuration import check
from pibot.master_hub.gateway.meter import MAX_EVENT_BYTES, StreamMeter
from pibot.master_hub.gateway.redaction import AnswerRedactor, StreamRedactor
from pibot.settings import LLMSettings, Secret

KEY = "sk-test-9c41f0be27aa53d8"
HIDDEN = "***"


def answers(key: str = KEY, url: str = "http://127.0.0.1:9/v1") -> AnswerRedactor:
    return AnswerRedactor(check(LLMSettings(api_key=Secret(key), base_url=url)))


def passed_on(parts: Sequence[bytes], key: str = KEY) -> bytes:
    """What a caller gets of a stream whose connection yields these parts."""
    meter = StreamMeter(0, tell_usage=True, redactor=StreamRedactor(answers(key)))
    return b"".join([*map(meter.pass_on, parts), meter.rest()])


def event(choice: dict[str, Any]) -> bytes:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def said(*texts: str, finished: bool = True) -> list[bytes]:
    """The events of a stream that says these texts."""
    events = [event({"index": 0, "delta": {"content": text}, "finish_reason": None}) for text in texts]
    end = [event({"index": 0, "delta": {}, "finish_reason": "stop"}), b"data: [DONE]\n\n"]
    return events + (end if finished else [])


def heard(stream: bytes) -> str:
    """The text that a client puts together from a stream."""
    chunks = [json.loads(e[6:]) for e in stream.split(b"\n\n") if e.startswith(b"data: {")]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize("cut", range(1, len(KEY)))
def test_a_key_in_one_event_is_removed_wherever_the_connection_cuts_it(cut: int) -> None:
    stream = b"".join(said(f"it is {KEY}."))
    at = stream.index(KEY.encode()) + cut
    assert heard(passed_on([stream[:at], stream[at:]])) == "it is ***."


@pytest.mark.parametrize("cut", range(1, len(KEY)))
def test_a_key_in_two_events_is_removed_up_to_its_first_characters(cut: int) -> None:
    text = heard(passed_on(said(f"it is {KEY[:cut]}", f"{KEY[cut:]}, you see")))
    assert text == f"it is {KEY[:cut] if cut < 8 else ''}***, you see"


def test_a_key_that_comes_character_by_character_is_removed() -> None:
    assert heard(passed_on(said(*f"it is {KEY}, and {KEY}!"))) == "it is sk-test***, and sk-test***!"


def test_a_text_that_only_begins_like_a_key_comes_whole() -> None:
    text = f"{KEY[:9]}x {KEY[:15]}{KEY[:12]} {KEY[:-1]}? {KEY[:3]}"
    assert heard(passed_on(said(*text))) == text


@pytest.mark.parametrize("finished", [True, False])
def test_a_key_that_the_end_of_the_stream_cuts_off_is_not_shown(finished: bool) -> None:
    assert heard(passed_on(said("it is ", KEY[:20], finished=finished))) == "it is ***"


def test_a_text_is_passed_on_at_once_unless_it_may_become_a_key() -> None:
    meter = StreamMeter(0, tell_usage=True, redactor=StreamRedactor(answers()))
    shown = [heard(meter.pass_on(part)) for part in said("tasks", KEY[:7], KEY[7:9], "!")]
    assert shown == ["tasks", KEY[:7], "", f"{KEY[7:9]}!", "", ""]


def test_a_key_in_the_arguments_of_a_tool_call_is_removed() -> None:
    def call(arguments: str) -> bytes:
        calls = [{"index": 1, "function": {"arguments": arguments}}]
        return event({"index": 0, "delta": {"tool_calls": calls}, "finish_reason": None})

    finish = event({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
    shown = passed_on([call('{"a": "' + KEY[:10]), call(KEY[10:]), call(f'" {KEY[:10]}'), finish])
    chunks = [json.loads(e[6:]) for e in shown.split(b"\n\n") if e]
    calls = [c["choices"][0]["delta"]["tool_calls"][0] for c in chunks[:-1]]
    assert "".join(c["function"]["arguments"] for c in calls) == '{"a": "***" ***'
    assert {c["index"] for c in calls} == {1}


@pytest.mark.parametrize("key", [KEY, 'sk-"quoted\\key/1234567'])
@pytest.mark.parametrize("form", ["plain", "escaped", "slash"])
def test_a_key_is_removed_however_json_writes_it(key: str, form: str) -> None:
    written = json.dumps(key)
    if form == "escaped":
        written = '"' + "".join(f"\\u{ord(c):04x}" for c in key) + '"'
    elif form == "slash":
        written = written.replace("/", "\\/")
    body = f'{{"choices": [{{"index": 0, "delta": {{"content": {written}}}}}]}}'
    assert json.loads(answers(key).body(200, body.encode()))["choices"][0]["delta"]["content"] == HIDDEN
    assert heard(passed_on([f"data: {body}\n\n".encode()], key)) == HIDDEN


def test_a_key_outside_the_json_of_a_stream_is_removed() -> None:
    stream = f": {KEY}\n\nevent: {KEY}\ndata: {{}}\n\ndata: {KEY}\n\nid: {KEY}".encode()
    assert passed_on([bytes([byte]) for byte in stream]) == stream.replace(KEY.encode(), b"***")


@pytest.mark.parametrize("cut", [1, 10, len(KEY) - 1])
def test_a_key_is_removed_where_an_event_is_too_long_to_be_read_whole(cut: int) -> None:
    filling = b"data: " + b"x" * MAX_EVENT_BYTES
    shown = passed_on([filling + KEY[:cut].encode(), KEY[cut:].encode(), b"y" * 100, b"\n\n"])
    assert shown == filling + b"***" + b"y" * 100 + b"\n\n"


def test_an_event_that_is_nested_without_an_end_is_not_passed_on() -> None:
    deep = b'data: {"choices": [' + b"[" * 600 + b"]" * 600 + b"]}\n\n"
    assert heard(passed_on([deep, *said("hello")])) == "hello"


def test_a_key_in_the_query_and_in_a_header_is_removed() -> None:
    redactor = answers(url="http://127.0.0.1:9/v1?version=2024-06&key=another-key-of-17")
    assert redactor.body(200, b"another-key-of-17, 2024-06") == b"***, 2024-06"
    assert redactor.header(f"request-{KEY}") == "request-***"


PIECES = st.lists(
    st.one_of(
        st.integers(1, len(KEY)).map(lambda n: KEY[:n]),
        st.integers(0, len(KEY) - 1).map(lambda n: KEY[n:]),
        st.text(max_size=5),
    ),
    max_size=8,
)


@given(PIECES, st.data())
def test_no_text_loses_anything_but_the_key(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    texts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])] if text else []
    shown = heard(passed_on(said(*texts)))
    assert KEY not in shown
    if KEY not in text and not any(text.endswith(KEY[:n]) for n in range(8, len(KEY))):
        assert shown == text
