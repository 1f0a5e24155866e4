from __future__ import annotations

import json

import pytest

from pibot.agent_core import ToolAgent
from pibot.contracts import AgentOutcome, Budget, Completion, Message, TaskRequest, TaskState, ToolCall, Usage
from pibot.conversation.budget import TaskBudget
from pibot.errors import LLMRejected, LLMUnavailable
from tests.support.fakes import FakeLLM, FakeTools, asked, said

TASK = TaskRequest("t1", "Read the pages", ())
FOUND = json.dumps({"success": True, "data": {"pages": 2}, "output": "two of nine pages were read"})


class ToolsSeen(FakeLLM):
    """Records which tools each call offered."""

    def __init__(self, *answers: Completion | Exception) -> None:
        super().__init__(*answers)
        self.offered: list[int] = []

    async def complete(self, messages, tools=(), *, timeout=None):  # type: ignore[no-untyped-def]  # as FakeLLM's
        self.offered.append(len(tools))
        return await super().complete(messages, tools, timeout=timeout)


def page(number: int) -> Completion:
    return asked(ToolCall(f"c{number}", "tool", {"page": number}, json.dumps({"page": number})))


async def run(llm: FakeLLM, **budget: float) -> AgentOutcome:
    tools = FakeTools(lambda c: f"text of page {(c.arguments or {})['page']}")
    return await ToolAgent(llm, tools, "SOUL", Budget(**budget)).run(TASK)  # type: ignore[arg-type]  # ints and floats


async def test_the_last_step_is_asked_without_tools_for_what_was_found() -> None:
    llm = ToolsSeen(*[page(n) for n in range(1, 6)], said(FOUND))
    outcome = await run(llm, max_steps=6)
    assert llm.offered == [1, 1, 1, 1, 1, 0]
    assert outcome.state is TaskState.COMPLETED
    assert outcome.output == "two of nine pages were read\n[partial: the task used its 6 steps (PIBOT_MAX_STEPS)]"
    assert outcome.data == {"pages": 2, "partial": True}
    assert outcome.steps == 6


async def test_a_model_that_says_it_did_not_do_the_task_has_failed_with_its_answer_kept() -> None:
    answer = json.dumps({"success": False, "output": "only two of nine pages"})
    outcome = await run(FakeLLM(page(1), said(answer)), max_steps=2)
    assert outcome.state is TaskState.FAILED
    assert outcome.output.startswith("only two of nine pages\n[partial: ")
    assert "PIBOT_MAX_STEPS" in (outcome.error or "")


@pytest.mark.parametrize("last", [page(3), said(""), LLMUnavailable("away")])
async def test_without_a_last_answer_the_tools_outputs_are_handed_back(last: Completion | Exception) -> None:
    outcome = await run(FakeLLM(page(1), page(2), last), max_steps=3)
    assert outcome.state is TaskState.FAILED
    assert "PIBOT_MAX_STEPS" in (outcome.error or "")
    assert "[tool] text of page 1\n[tool] text of page 2" in outcome.output
    assert outcome.data == {"partial": True}


async def test_what_was_found_is_handed_back_where_the_time_was_up_or_the_model_went_away() -> None:
    timed_out = await run(FakeLLM(page(1)), max_seconds=0.2)
    assert timed_out.state is TaskState.TIMEOUT
    assert "text of page 1" in timed_out.output
    gone = await run(FakeLLM(page(1), LLMUnavailable("away")))
    assert (gone.state, "text of page 1" in gone.output) == (TaskState.FAILED, True)


async def test_a_server_that_wants_the_tools_for_a_conversation_with_calls_gets_them() -> None:
    llm = ToolsSeen(page(1), LLMRejected("tools= is missing", status=400), said(FOUND))
    outcome = await run(llm, max_steps=2)
    assert llm.offered == [1, 0, 1]
    assert outcome.output.startswith("two of nine pages were read")


async def test_the_model_is_told_what_is_left_when_it_runs_short() -> None:
    llm = FakeLLM(*[page(n) for n in range(1, 6)], said(FOUND))
    await run(llm, max_steps=6)
    notes = [sent[-1].content.rpartition("\n")[2] for sent in llm.sent[1:5]]
    assert not notes[0].startswith("[Left")
    assert notes[2] == "[Left of this task's budget: 3 answers of yours. Come to your final answer.]"
    assert notes[3].startswith("[Left of this task's budget: 2 answers of yours")
    for earlier, later in zip(llm.sent, llm.sent[1:]):
        assert later[: len(earlier)] == earlier, "what was sent stays as it was, for the provider's cache"


# --- tokens ---


def counted(prompt: int, answer: int) -> Completion:
    return Completion("x", (), Usage(prompt, answer, 1))


def test_a_prompts_beginning_counts_once() -> None:
    budget = TaskBudget(Budget(), lambda: 0.0)
    sent = [Message("system", "s"), Message("user", "u")]
    budget.count(sent, counted(1000, 50), 1.0)
    assert budget.tokens == 1050
    sent += [Message("assistant", "x"), Message("tool", "y", tool_call_id="c")]
    budget.count(sent, counted(6050, 30), 1.0)
    assert budget.tokens == 1050 + 5000 + 30


def test_a_conversation_that_was_cut_counts_from_the_cut_on() -> None:
    budget = TaskBudget(Budget(), lambda: 0.0)
    sent = [Message("system", "s" * 3500), Message("user", "u"), Message("assistant", "a"), Message("tool", "t" * 7000)]
    budget.count(sent, counted(3000, 0), 1.0)
    cut = [*sent[:3], Message("tool", "t" * 3500)]
    budget.count(cut, counted(2000, 0), 1.0)
    assert 3900 < budget.tokens < 4100, "the second prompt's new half, and the whole first one"


def test_tokens_are_estimated_where_the_provider_counts_none() -> None:
    budget = TaskBudget(Budget(), lambda: 0.0)
    budget.count([Message("user", "x" * 3500)], Completion("y" * 350), 1.0)
    assert 1090 < budget.tokens < 1130


def test_a_share_of_the_time_is_kept_for_the_last_call() -> None:
    now = [0.0]
    budget = TaskBudget(Budget(max_seconds=100), lambda: now[0])
    budget.steps = 1
    now[0] = 89.0
    assert budget.last_call() is None
    now[0] = 91.0
    assert "PIBOT_TASK_TIMEOUT" in (budget.last_call() or "")


def test_a_slow_model_gets_more_of_the_time_for_the_last_call() -> None:
    now = [82.0]
    budget = TaskBudget(Budget(max_seconds=100), lambda: now[0])
    budget.steps = 1
    budget.count([], counted(1, 1), 40.0)
    assert "PIBOT_TASK_TIMEOUT" in (budget.last_call() or "")
    assert "18 seconds" in budget.note()
    assert budget.note() == "", "it is told once"
