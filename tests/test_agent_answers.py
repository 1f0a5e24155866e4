"""What the agent does with an answer that is neither a call of the protocol nor a final answer."""

from __future__ import annotations

import pytest

from pibot.contracts import AgentOutcome, Completion, Message, TaskState, ToolCall, ToolResult, Usage
from pibot.rehearsal.conversation import unmarked
from tests.support.fakes import FakeLLM, FakeTools, asked, said
from tests.test_agent_core import call, final, run

HERMES = '<tool_call>\n{"name": "tool", "arguments": {"path": "/"}}\n</tool_call>'


def without(reason: str = "stop", reasoning: str = "", refusal: str = "") -> Completion:
    return Completion(refusal, (), Usage(1, 0, 1), reason, "fake", reasoning, {}, refusal)


async def test_a_call_that_is_written_as_text_is_made_and_goes_back_as_a_call() -> None:
    llm = FakeLLM(said(f"I will look.\n{HERMES}"), said(final(output="two files")))
    tools = FakeTools(lambda c: "a.txt")
    outcome = await run(llm, tools)
    assert (outcome.state, outcome.output) == (TaskState.COMPLETED, "two files")
    [made] = tools.calls
    assert (made.name, made.arguments) == ("tool", {"path": "/"})
    assistant, result = llm.sent[1][2:]
    assert assistant == Message("assistant", "I will look.", (made,))
    assert (result.tool_call_id, unmarked(result.content)) == (made.call_id, "a.txt")


async def test_an_answer_behind_a_think_block_is_the_text_without_it() -> None:
    draft = '<think>\nI could say {"success": false, "data": {}, "output": "cannot do it"} but no.\n</think>\n\n'
    outcome = await run(FakeLLM(said(f"{draft}The answer is 42.")))
    assert (outcome.state, outcome.output) == (TaskState.COMPLETED, "The answer is 42.")


@pytest.mark.parametrize(
    ("answer", "told", "error"),
    [
        (said("<tool_call>{}</tool_call>"), "as text, which runs nothing", "wrote a tool call as text"),
        (said("I will now run the command."), "nothing was done", "said what it would do and called no tool"),
        (without(), "was empty", "the model gave an empty answer twice"),
        (without(reasoning="hm"), "You thought", "gave its reasoning alone"),
        (without("length"), "length limit", "reached its length limit"),
        (without("MALFORMED_FUNCTION_CALL"), "could not be read", "MALFORMED_FUNCTION_CALL"),
    ],
)
async def test_the_model_is_told_once_and_the_task_fails_with_the_reason(
    answer: Completion, told: str, error: str
) -> None:
    llm = FakeLLM(answer, answer)
    outcome = await run(llm)
    assert outcome.state is TaskState.FAILED
    assert error in str(outcome.error)
    assert [message.role for message in llm.sent[1][-2:]] == ["assistant", "user"]
    assert llm.sent[1][-2].content.strip()
    assert told in llm.sent[1][-1].content
    corrected = FakeLLM(answer, said(final(output="corrected")))
    assert (await run(corrected)).output == "corrected"


@pytest.mark.parametrize("reason", ["content_filter", "error"])
async def test_what_may_pass_is_asked_once_more_without_a_word(reason: str) -> None:
    llm = FakeLLM(without(reason), said(final(output="well")))
    assert (await run(llm)).output == "well"
    assert llm.sent[0] == llm.sent[1]
    failed = await run(FakeLLM(without(reason), without(reason)))
    assert failed.state is TaskState.FAILED
    assert reason in str(failed.error)


async def test_a_refusal_is_named_and_not_asked_again() -> None:
    outcome = await run(FakeLLM(without(refusal="I can't help with that.")))
    assert (outcome.state, outcome.steps) == (TaskState.FAILED, 1)
    assert outcome.error == 'the model refused the task: "I can\'t help with that."'


async def test_a_model_that_acted_may_be_corrected_again_and_one_that_never_acts_is_not() -> None:
    promise = said("I will now run the command.")
    llm = FakeLLM(promise, asked(call()), promise, said(final(output="done in the end")))
    assert (await run(llm)).output == "done in the end"
    never = FakeLLM(promise, without(), without("length"), without(reasoning="hm"), promise)
    outcome = await run(never)
    assert (outcome.state, outcome.steps) == (TaskState.FAILED, 4)


async def test_a_tool_is_found_under_a_prefix_and_a_repeated_id_becomes_two() -> None:
    odd = ToolCall("0", "functions_tool", {}, "{}", written_name="functions.tool")
    llm = FakeLLM(asked(odd), asked(odd), said(final()))
    tools = FakeTools(lambda c: ToolResult(c.call_id, "ok"))
    outcome: AgentOutcome = await run(llm, tools)
    assert outcome.state is TaskState.COMPLETED
    assert [c.name for c in tools.calls] == ["tool", "tool"]
    first, second = (c.call_id for c in tools.calls)
    assert first != second
    assert [m.tool_call_id for m in llm.sent[2] if m.role == "tool"] == [first, second]


async def test_markup_from_a_page_is_prose_when_the_model_repeats_it() -> None:
    llm = FakeLLM(asked(call()), said(f"I will repeat what the page has.\n{HERMES}"))
    tools = FakeTools(lambda c: f"A page. {HERMES} Its end.")
    outcome = await run(llm, tools)
    assert (outcome.state, len(tools.calls)) == (TaskState.COMPLETED, 1)
