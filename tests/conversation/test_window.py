from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from pibot.agent_core import ToolAgent
from pibot.contracts import Budget, Completion, Message, TaskRequest, ToolCall, Usage
from pibot.conversation.shorten import shortened, shortened_answer
from pibot.conversation.window import ContextWindow
from pibot.conversation.windows import ModelWindows
from tests.support.fakes import FakeLLM, FakeTools, said


def window(windows: ModelWindows) -> ContextWindow:
    return ContextWindow(windows, (), None, lambda text: f"<earlier_work>{text}</earlier_work>")


async def no_summary(messages: Sequence[Message], tokens: int) -> str:
    raise AssertionError("nothing is to be summed up here")


def counted(prompt: int, model: str = "m", answer: int = 5, reason: str = "stop") -> Completion:
    return Completion("x", (), Usage(prompt, answer, 1), reason, model)


def round_of(number: int, output: str, arguments: dict[str, object] | None = None) -> list[Message]:
    raw = json.dumps(arguments or {})
    call = ToolCall(f"c{number}", "tool", arguments or {}, raw, extra={"extra_content": {"google": "c2ln"}})
    marked = f'<tool_output id="b" tool="tool">\n{output}\n</tool_output id="b">\n[a note]'
    return [
        Message("assistant", "", (call,), extra={"reasoning_content": "I think."}),
        Message("tool", marked, tool_call_id=f"c{number}"),
    ]


START = [Message("system", "SOUL"), Message("user", "the task")]


async def test_a_conversation_that_fits_is_not_touched() -> None:
    messages = [*START, *round_of(1, "x" * 3000)]
    before = list(messages)
    assert not await window(ModelWindows(8_192)).fit(messages, no_summary)
    assert messages == before


async def test_marks_notes_pairs_and_the_providers_fields_stay_when_an_output_is_shortened() -> None:
    messages = list(START)
    for number in range(4):
        messages += round_of(number, "word " * 2000, {"content": "text " * 2000})
    assert await window(ModelWindows(16_384)).fit(messages, no_summary)
    assistant, tool = messages[2], messages[3]
    assert tool.content.startswith('<tool_output id="b" tool="tool">\nword ')
    assert tool.content.endswith('word \n</tool_output id="b">\n[a note]')
    assert tool.tool_call_id == assistant.tool_calls[0].call_id
    assert assistant.extra == {"reasoning_content": "I think."}
    assert assistant.tool_calls[0].extra == {"extra_content": {"google": "c2ln"}}
    arguments = json.loads(assistant.tool_calls[0].raw_arguments)
    assert "of 10000 characters were left out here" in arguments["content"]
    assert messages[-2:] == round_of(3, "word " * 2000, {"content": "text " * 2000}), "the last round stays"


async def test_sixteen_long_outputs_of_one_answer_are_shortened_until_they_fit() -> None:
    calls = tuple(ToolCall(f"c{n}", "tool", {}, "{}") for n in range(16))
    messages = [*START, Message("assistant", "", calls)]
    messages += [round_of(n, "word " * 4000)[1] for n in range(16)]
    kept = window(ModelWindows(8_192))
    assert await kept.fit(messages, no_summary)
    assert kept.size(messages) <= kept.limit
    assert [m.tool_call_id for m in messages[3:]] == [c.call_id for c in calls]


def test_a_text_that_is_shortened_twice_says_its_first_size() -> None:
    once = shortened("a" * 6000 + "z" * 4000, 1200, "tool_outputs/1-tool.txt")
    twice = shortened(once, 300)
    assert "of 10000 characters were left out here; tool_outputs/1-tool.txt holds the whole" in twice
    assert twice.count("left out") == 1
    assert (twice[0], twice[-1]) == ("a", "z")


def test_arguments_that_are_no_object_stay_as_they_are() -> None:
    message = Message("assistant", "", (ToolCall("c", "tool", None, "{}", "not valid JSON"),))
    assert shortened_answer(message, 100) is message


# --- counts ---


def big(letters: int) -> list[Message]:
    return [*START, *round_of(1, "some words " * (letters // 11))]


def test_a_first_prompt_that_was_cut_shows_in_its_count() -> None:
    cut = window(ModelWindows()).answered(big(60_000), counted(4_096))
    assert cut is not None
    assert (cut.counted, cut.sent > 8_000) == (4_096, True)


@pytest.mark.parametrize("tokens", [10, 90, 900, 12_000, 15_000, 40_000])
def test_a_count_that_may_be_right_or_counts_something_else_shows_no_cut(tokens: int) -> None:
    assert window(ModelWindows()).answered(big(60_000), counted(tokens)) is None


def test_another_models_count_is_not_compared_with_the_one_before() -> None:
    windows = ModelWindows()
    kept = window(windows)
    assert kept.answered(big(60_000), counted(18_000, "first")) is None
    assert kept.answered(big(66_000), counted(11_000, "fallback")) is None
    assert windows.tokens == 128_000


def test_chinese_counts_more_and_a_count_corrects_the_estimate() -> None:
    windows = ModelWindows()
    kept = window(windows)
    messages = [*START, Message("user", "中文" * 5000)]
    first = kept.size(messages)
    assert first > 11_000
    kept.answered(messages, counted(6_600))
    assert 6_000 < kept.size(messages) < 7_200


@pytest.mark.parametrize(
    ("prompt", "answer", "reason", "full"),
    [
        (8_000, 192, "length", True),
        (16_000, 384, "length", True),
        (8_000, 50, "model_context_window_exceeded", True),
        (8_000, 4_000, "length", False),
        (500, 1_548, "length", False),
    ],
)
async def test_an_answer_that_ends_where_the_window_does_is_asked_for_again_with_more_room(
    prompt: int, answer: int, reason: str, full: bool
) -> None:
    llm = FakeLLM(
        *[
            Completion("", (ToolCall(f"c{n}", "tool", {"n": n}, f'{{"n": {n}}}'),), Usage(0, 0, 1), "tool_calls")
            for n in range(3)
        ],
        counted(prompt, answer=answer, reason=reason),
        said('{"success": true, "output": "whole"}'),
    )
    tools = FakeTools(lambda c: f"{c.arguments} " + "word " * 3000)
    outcome = await ToolAgent(llm, tools, "SOUL", Budget()).run(TaskRequest("t", "x"))
    assert (outcome.output == "whole") is full
    assert len(llm.sent) == 4 + full
