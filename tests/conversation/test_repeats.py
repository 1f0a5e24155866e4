from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Callable

import pytest

from pibot.agent_core import ToolAgent
from pibot.contracts import AgentOutcome, Budget, Completion, TaskRequest, TaskState, ToolCall
from pibot.conversation.repeats import ENDED, POINTED_OUT
from tests.support.fakes import FakeLLM, FakeTools, asked, said

TASK = TaskRequest("t1", "Find it", ("shell_exec",))
FOUND = '{"success": true, "data": {}, "output": "found so far: two files"}'
_serial = itertools.count()


def call(name: str = "shell_exec", **arguments: object) -> ToolCall:
    return ToolCall(f"c{next(_serial)}", name, arguments, json.dumps(arguments))


async def run(answers: Sequence[Completion], output: Callable[[ToolCall], str]) -> tuple[AgentOutcome, FakeLLM]:
    llm = FakeLLM(*answers, said(FOUND))
    outcome = await ToolAgent(llm, FakeTools(output), "SOUL", Budget()).run(TASK)
    return outcome, llm


def told(llm: FakeLLM, request: int) -> bool:
    """Whether the newest message of a request points a repeat out."""
    return "You have made this call" in llm.sent[request][-1].content


async def test_the_same_call_with_the_same_outcome_is_pointed_out_at_the_third_and_ended_at_the_fifth() -> None:
    outcome, llm = await run([asked(call(command="ls")) for _ in range(20)], lambda c: "a b")
    assert [told(llm, n) for n in range(1, 6)] == [POINTED_OUT <= n < ENDED for n in range(1, 6)]
    assert len(llm.sent) == ENDED + 1
    # the scripted model asks for a tool even in the last call, which has none: then there is what the tools gave
    assert outcome.state is TaskState.FAILED
    assert outcome.error == (
        "the model called shell_exec 5 times with the same arguments and the same outcome without a final answer"
    )
    assert "a b" in outcome.output
    assert outcome.data["partial"] is True


async def test_the_answer_to_the_last_question_is_handed_back_as_partial() -> None:
    outcome, llm = await run([asked(call(command="ls")) for _ in range(ENDED)], lambda c: "a b")
    assert "This is your last answer in this task" in llm.sent[-1][-1].content
    assert outcome.state is TaskState.COMPLETED
    assert outcome.output.startswith("found so far: two files\n[partial: the model called shell_exec 5 times")


STAMPS = [
    "1 failed in 0.1{}s",
    "2026-11-28T09:00:0{} running",
    "Sat Nov 28 09:01:0{} UTC 2026: running",
    "Sat, 28 Nov 2026 09:01:0{} GMT: running",
    "[09:00:0{}.123456] running",
    "at 9:00:0{} PM: running",
    "2026/11/28 09:00:0{},120 running",
    "2026年11月2{}日: running",
    '{{"time": 179582400{}, "state": "running"}}',
    '{{"time": 179582400{}123, "state": "running"}}',
    "20261128T09000{}Z running",
]


@pytest.mark.parametrize("stamp", STAMPS)
async def test_outcomes_that_differ_in_a_time_alone_are_the_same(stamp: str) -> None:
    count = itertools.count(1)
    _, llm = await run([asked(call(command="status")) for _ in range(20)], lambda c: stamp.format(next(count)))
    assert len(llm.sent) == ENDED + 1


CHANGES = [
    "progress: {}0 %",
    "{} files",
    "temperature 5{}.3 C",
    "took 0.{} s",
    "1{}.2.3",
    "192.168.10.{}",
    "v1.{}.0",
    "{}:{} of 9",
]


@pytest.mark.parametrize("outcome", CHANGES)
async def test_polling_that_really_changes_is_no_repeat(outcome: str) -> None:
    count = itertools.count(1)
    result, llm = await run(
        [asked(call(command="status")) for _ in range(9)], lambda c: outcome.replace("{}", str(next(count)))
    )
    assert (result.state, len(llm.sent)) == (TaskState.COMPLETED, 10)
    assert not any(told(llm, n) for n in range(1, 10))


async def test_two_calls_in_turn_with_the_same_outcomes_are_a_repeat() -> None:
    answers = [asked(call(command=command)) for _ in range(10) for command in ("ls", "pwd")]
    _, llm = await run(answers, lambda c: str(c.arguments))
    assert len(llm.sent) == 2 * ENDED


async def test_a_call_again_after_something_new_begins_to_count_anew() -> None:
    answers = []
    for number in range(7):
        answers += [asked(call(command="pytest")), asked(call("write_file", content=f"try {number}"))]
    outcome, llm = await run(answers, lambda c: "1 failed" if c.name == "shell_exec" else "written")
    assert (outcome.state, len(llm.sent)) == (TaskState.COMPLETED, 15)


async def test_blanks_and_the_order_of_arguments_make_no_other_call() -> None:
    forms = [{"a": "x", "b": "y"}, {"b": "y ", "a": "x"}, {"a": " x", "b": "y"}]
    _, llm = await run([asked(call(**forms[n % 3])) for n in range(20)], lambda c: "same")
    assert len(llm.sent) == ENDED + 1


async def test_the_same_call_twice_in_one_answer_counts_once() -> None:
    _, llm = await run([asked(*[call(command="ls") for _ in range(6)]), asked(call(command="ls"))], lambda c: "a")
    assert not any(told(llm, n) for n in range(1, 3))


async def test_failures_and_calls_that_can_not_be_read_are_repeats_too() -> None:
    broken = [asked(ToolCall(f"b{n}", "shell_exec", None, "{}", "not valid JSON")) for n in range(20)]
    _, llm = await run(broken, lambda c: "shell_exec was not run")
    assert len(llm.sent) == ENDED + 1
