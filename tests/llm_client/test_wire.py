"""Reading the protocol's JSON and its many dialects, without a network."""

from __future__ import annotations

import itertools
import json
import re
import sys
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pibot.contracts import Completion, Message, ToolCall, Usage
from pibot.errors import LLMProtocolError
from pibot.llm_client import wire


def answer(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **more}


def read(message: dict[str, Any], **more: Any) -> Completion:
    return wire.completion(answer(message, **more), model="asked-for", new_id=numbered())


def numbered() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"made-{next(numbers)}"


def read_call(arguments: Any, **function: Any) -> ToolCall:
    call = {"id": "c1", "type": "function", "function": {"name": "tool", "arguments": arguments, **function}}
    [decoded] = read({"content": None, "tool_calls": [call]}).tool_calls
    return decoded


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        (None, ""),
        ([{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}], "ab"),
        (["a", "b"], "ab"),
        ([{"type": "text", "text": None}], ""),
        ({"type": "text", "text": "one"}, "one"),
        (7, "7"),
        (True, ""),
        ({"success": True, "output": "42"}, '{"success": true, "output": "42"}'),
        ([{"thought": True, "text": "hm"}, {"text": "42"}], "42"),
        ([{"type": "reasoning_content", "text": "hm"}, {"text": "42"}], "42"),
        ([{"type": "refusal", "refusal": "no"}], "no"),
        ([], ""),
        ("half of a \ud83d pair", "half of a ? pair"),
    ],
)
def test_content_may_be_text_parts_or_null(content: Any, text: str) -> None:
    assert read({"content": content}).text == text


def test_a_message_without_content_is_an_empty_text() -> None:
    assert read({}).text == ""


def test_a_refusal_is_read_as_the_text() -> None:
    assert read({"content": None, "refusal": "I will not"}).text == "I will not"


@pytest.mark.parametrize(
    ("usage", "prompt", "completion"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}, 7, 3),
        ({"prompt_tokens": 7}, 7, 0),
        ({"prompt_tokens": "many", "completion_tokens": -1}, 0, 0),
        (None, 0, 0),
        ("none", 0, 0),
    ],
)
def test_usable_parts_of_the_usage_are_read_and_the_call_counts_as_one(
    usage: Any, prompt: int, completion: int
) -> None:
    assert read({"content": "x"}, usage=usage).usage == Usage(prompt, completion, llm_calls=1)


GOOD = {"choices": [{"message": {"content": "42"}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    "error",
    [
        {},
        None,
        "",
        False,
        {"code": 0, "message": ""},
        {"code": None, "message": None, "type": None},
        {"code": "0", "message": "success"},
        {"code": 200, "message": "OK"},
        "none",
    ],
)
def test_an_error_that_says_nothing_beside_an_answer_is_none(error: Any) -> None:
    assert wire.find_error({**GOOD, "error": error}, success=True) is None


@pytest.mark.parametrize(
    ("data", "message", "code"),
    [
        ({**GOOD, "error": {"message": "overloaded", "code": 503}}, "overloaded", "503"),
        ({"choices": [], "error": {}}, "{}", ""),
        ({"choices": [{"message": {"content": ""}, "error": {"message": "upstream", "code": 502}}]}, "upstream", "502"),
        ({"choices": [{"finish_reason": "error", "error": {"message": "upstream"}}]}, "upstream", ""),
        ({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "no balance"}}, "no balance", "402"),
        ({"choices": None, "base_resp": {"status_code": 1026, "status_msg": "sensitive"}}, "sensitive", "1026"),
    ],
)
def test_an_error_is_found_beside_the_choices_and_in_one(data: Any, message: str, code: str) -> None:
    found = wire.find_error(data, success=True)
    assert found is not None
    assert (found.message, found.code) == (message, code)


def test_an_error_in_a_choice_that_holds_an_answer_costs_nothing() -> None:
    choice = {"message": {"content": "42"}, "error": {"message": "a late one"}, "finish_reason": "stop"}
    assert wire.find_error({"choices": [choice]}, success=True) is None


def test_the_function_call_of_the_old_protocol_is_a_tool_call() -> None:
    answer = read({"content": None, "function_call": {"name": "now", "arguments": '{"zone": "UTC"}'}})
    assert answer.tool_calls == (ToolCall("made-1", "now", {"zone": "UTC"}, '{"zone": "UTC"}'),)


def choices(*messages: Any, reason: str = "tool_calls") -> Completion:
    return wire.completion({"choices": [{"message": m, "finish_reason": reason} for m in messages]}, model="m")


def test_of_several_choices_the_one_with_the_calls_is_used_with_the_text_of_the_first() -> None:
    call = {"id": "c", "function": {"name": "t", "arguments": "{}"}}
    answer = choices({"content": "I look."}, {"content": None, "tool_calls": [call]})
    assert (answer.text, [c.name for c in answer.tool_calls]) == ("I look.", ["t"])
    assert choices({"content": ""}, {"content": "42"}, reason="stop").text == "42"
    assert choices({"content": "41"}, {"content": "42"}, reason="stop").text == "41"


def test_arguments_that_are_encoded_twice_are_decoded_twice() -> None:
    call = read_call(json.dumps('{"path": "/"}'))
    assert (call.arguments, call.raw_arguments) == ({"path": "/"}, '{"path": "/"}')


def test_a_call_that_was_cut_off_at_the_length_limit_says_so() -> None:
    call = {"id": "c", "function": {"name": "t", "arguments": '{"path": "/et'}}
    [cut] = choices({"tool_calls": [call]}, reason="length").tool_calls
    assert "length limit" in str(cut.problem)


def test_a_name_in_another_form_is_kept_beside_the_one_that_can_be_sent() -> None:
    call = read_call("{}", name="functions.shell_exec")
    assert (call.name, call.written_name) == ("functions_shell_exec", "functions.shell_exec")


def test_missing_usage_leaves_zeros() -> None:
    assert read({"content": "x"}).usage == Usage(0, 0, llm_calls=1)


def test_the_requested_model_is_used_if_the_server_names_none() -> None:
    assert read({"content": "x"}).model == "asked-for"
    assert read({"content": "x"}, model=None).model == "asked-for"
    assert read({"content": "x"}, model="other").model == "other"


@pytest.mark.parametrize("reason", [None, "", 3])
def test_a_missing_finish_reason_is_derived_from_the_message(reason: Any) -> None:
    call = {"id": "c", "function": {"name": "t", "arguments": "{}"}}
    with_calls = {"choices": [{"message": {"tool_calls": [call]}, "finish_reason": reason}]}
    without = {"choices": [{"message": {"content": "x"}, "finish_reason": reason}]}

    assert wire.completion(with_calls, model="m").finish_reason == "tool_calls"
    assert wire.completion(without, model="m").finish_reason == "stop"


def test_arguments_as_text_are_decoded_and_sent_back_unchanged() -> None:
    call = read_call('{ "path" : "/" }')

    assert call == ToolCall("c1", "tool", {"path": "/"}, '{ "path" : "/" }')


def test_arguments_as_an_object_are_accepted_and_sent_back_as_text() -> None:
    call = read_call({"path": "/ä"})

    assert call.arguments == {"path": "/ä"}
    assert json.loads(call.raw_arguments) == {"path": "/ä"}


@pytest.mark.parametrize("nothing", ["", "  \n", None, {}, "{}"])
def test_missing_arguments_are_an_empty_object(nothing: Any) -> None:
    call = read_call(nothing)

    assert call.arguments == {}
    assert json.loads(call.raw_arguments) == {}
    assert call.problem is None


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ('{"path": ', "not valid JSON"),
        ("path=/", "not valid JSON"),
        ("{'path': '/'}", "not valid JSON"),
        ('{"n": NaN}', "NaN"),
        ('{"n": 1} trailing', "not valid JSON"),
        ("[1, 2]", "must be a JSON object"),
        ('"text"', "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("7", "must be a JSON object"),
        (["a"], "must be a JSON object"),
        (7, "must be a JSON object"),
        ({"n": float("nan")}, "NaN"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_invalid_arguments_are_reported_to_the_model_and_an_empty_object_is_sent_back(written: Any, words: str) -> None:
    call = read_call(written)

    assert call.arguments is None
    assert call.raw_arguments == "{}"
    assert call.problem is not None
    assert words in call.problem
    assert len(call.problem) < 500


def test_the_problem_quotes_what_the_model_wrote() -> None:
    problem = read_call('{"command": "ls" "cwd": "/"}').problem

    assert problem is not None
    assert '{"command": "ls" "cwd": "/"}' in problem
    assert "column" in problem


def test_missing_and_repeated_ids_are_replaced() -> None:
    function = {"name": "t", "arguments": "{}"}
    ids: list[Any] = ["a", None, "", "a", 0, {"no": "id"}]
    calls = [{"id": call_id, "function": function} for call_id in ids] + [{"function": function}]

    decoded = read({"tool_calls": calls}).tool_calls

    assert [call.call_id for call in decoded] == ["a", "made-1", "made-2", "made-3", "0", "made-4", "made-5"]


def test_generated_ids_differ() -> None:
    call = {"function": {"name": "t", "arguments": "{}"}}

    first, second = wire.completion(answer({"tool_calls": [call, call]}), model="m").tool_calls

    assert first.call_id != second.call_id
    # Mistral takes no other form, and everybody takes this one.
    assert re.fullmatch(r"[A-Za-z0-9]{9}", first.call_id)


@pytest.mark.parametrize(
    ("name", "decoded"),
    [
        ("shell_exec", "shell_exec"),
        (" shell_exec\n", "shell_exec"),
        ("shell exec", "shell_exec"),
        ("x" * 100, "x" * 64),
    ],
)
def test_a_name_outside_the_protocols_alphabet_is_made_valid(name: str, decoded: str) -> None:
    assert read_call("{}", name=name).name == decoded


@pytest.mark.parametrize("call", [{"id": "c"}, {"id": "c", "function": None}, {"id": "c", "function": {"name": None}}])
def test_a_call_without_a_name_is_a_problem_for_the_model(call: dict[str, Any]) -> None:
    [decoded] = read({"tool_calls": [call]}).tool_calls

    assert decoded.arguments is None
    assert decoded.name == "unnamed"
    assert decoded.problem is not None
    assert "no name" in decoded.problem


def test_entries_that_are_no_calls_are_skipped() -> None:
    assert read({"content": "x", "tool_calls": [None, "text", 3]}).tool_calls == ()
    assert read({"content": "x", "tool_calls": None}).tool_calls == ()


CALL = {"function": {"name": "tool", "arguments": "{}"}}


@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": CALL},
        {"tool_calls": {"0": CALL}},
        {"tool_calls": [{"name": "tool", "arguments": {}}]},
        {"tool_calls": [CALL, {"id": "", "function": {"name": "", "arguments": ""}}]},
        {"content": [{"type": "text", "text": "I look."}, {"type": "tool_use", "name": "tool", "input": {}}]},
    ],
)
def test_a_call_in_another_place_is_read(message: dict[str, Any]) -> None:
    [decoded] = read(message).tool_calls
    assert (decoded.name, decoded.arguments, decoded.problem) == ("tool", {}, None)


@pytest.mark.parametrize("calls", [{}, "", "[]", False, [{}], [{"id": "", "function": {"name": "", "arguments": ""}}]])
def test_nothing_in_the_place_of_calls_is_none_beside_a_text(calls: Any) -> None:
    assert read({"content": "42", "tool_calls": calls}).tool_calls == ()


def test_arguments_under_another_name_are_read() -> None:
    [decoded] = read({"tool_calls": [{"function": {"name": "tool", "parameters": {"x": 1}}}]}).tool_calls
    assert decoded.arguments == {"x": 1}


def test_thousands_of_calls_are_read_up_to_a_limit_in_little_time() -> None:
    assert len(read({"tool_calls": [CALL] * 50_000}).tool_calls) == 128


@pytest.mark.parametrize("depth", [70, 480, 900, 5000])
@pytest.mark.parametrize("opener", ["[", '{"text":'])
def test_an_answer_that_is_nested_without_an_end_is_no_completion(depth: int, opener: str) -> None:
    inner = opener * depth + "1" + {"[": "]", ":": "}"}[opener[-1]] * depth
    with pytest.raises(LLMProtocolError):
        wire.parse(f'{{"choices": [{{"message": {{"reasoning": {inner}}}}}]}}'.encode())


def test_an_error_under_http_200_in_the_form_of_vllm_is_one() -> None:
    error = wire.find_error({"object": "error", "message": "busy", "code": 503}, success=True)
    assert error == wire.ErrorObject("busy", "503")


def test_tool_calls_must_be_a_list() -> None:
    with pytest.raises(LLMProtocolError, match="tool_calls is no list"):
        read({"tool_calls": 7})


@pytest.mark.parametrize("body", [b"", b" \n", b'{"a": ', b'{"a": ' + b"[" * 100_000])
def test_an_empty_or_truncated_answer_is_worth_a_retry(body: bytes) -> None:
    with pytest.raises(wire.EmptyAnswer):
        wire.parse(body)


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xfa", b"OK", b"[" * 100_000])
def test_an_answer_that_is_no_json_is_not_worth_a_retry(body: bytes) -> None:
    with pytest.raises(LLMProtocolError) as caught:
        wire.parse(body)

    assert not isinstance(caught.value, wire.EmptyAnswer)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="earlier Pythons convert numbers of any length")
def test_a_number_with_too_many_digits_does_not_crash() -> None:
    with pytest.raises(wire.EmptyAnswer):
        wire.parse(b'{"a": ' + b"9" * 100_000 + b"}")
    assert read_call('{"n": ' + "9" * 100_000 + "}").problem is not None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["message", "content", "tool_calls", "function", "id", "error"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.fixed_dictionaries({"message": json_values, "finish_reason": json_values}), json_values)
def test_any_json_is_a_completion_or_a_protocol_error_and_what_comes_out_can_be_sent_back(
    choice: dict[str, Any], usage: Any
) -> None:
    try:
        decoded = wire.completion({"choices": [choice], "usage": usage}, model="m")
    except LLMProtocolError:
        return
    body = wire.request("m", [Message("assistant", decoded.text, decoded.tool_calls)], [])
    json.dumps(body, ensure_ascii=False).encode()
    for call in decoded.tool_calls:
        assert isinstance(json.loads(call.raw_arguments), dict)
        assert (call.arguments is None) == (call.problem is not None)


@given(st.text(st.characters(codec=None)))
def test_any_text_as_arguments_is_decoded_or_reported_as_a_problem(written: str) -> None:
    call = read_call(written)

    assert isinstance(json.loads(call.raw_arguments), dict)
    assert (call.arguments is None) == (call.problem is not None)


@given(json_values, st.booleans())
def test_any_json_is_searched_for_an_error_without_a_crash(data: Any, success: bool) -> None:
    wire.find_error(data, success=success)
