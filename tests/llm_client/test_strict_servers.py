"""A task of two rounds on servers that send odd answers and refuse what does not fit, over both backends."""

from __future__ import annotations

import json
import re
from typing import Any, Callable

import pytest

from pibot.agent_core import ToolAgent
from pibot.contracts import AgentOutcome, Budget, TaskRequest, TaskState, ToolSpec
from tests.llm_client.conftest import MakeClient
from tests.support.fakes import FakeTools
from tests.support.scripted_llm import RecordedRequest, Reply, ScriptedLLM, error, reply_json

FUNCTION = {"name": "shell_exec", "arguments": '{"command": "echo hi"}'}
CALL = {"id": "call_1", "type": "function", "function": FUNCTION}
FINAL = '{"success": true, "data": {}, "output": "hi"}'
SPEC = ToolSpec("shell_exec", "a tool", {"type": "object", "properties": {"command": {"type": "string"}}})

Check = Callable[[list[dict[str, Any]]], bool]
"""Whether a server takes the messages of a request."""


def assistants(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages if message["role"] == "assistant"]


def calls(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [call for message in assistants(messages) for call in message.get("tool_calls", ())]


def reasoned(messages: list[dict[str, Any]]) -> bool:
    return all(message.get("reasoning_content") for message in assistants(messages) if message.get("tool_calls"))


def signed(messages: list[dict[str, Any]]) -> bool:
    return all(call["extra_content"]["google"]["thought_signature"] == "c2ln" for call in calls(messages))


def nine(messages: list[dict[str, Any]]) -> bool:
    return all(re.fullmatch(r"[A-Za-z0-9]{9}", call["id"]) for call in calls(messages)) and answered(messages)


def answered(messages: list[dict[str, Any]]) -> bool:
    """Whether no id repeats, and each call has its result."""
    ids = [call["id"] for call in calls(messages)]
    return len(ids) == len(set(ids)) and ids == [m["tool_call_id"] for m in messages if m["role"] == "tool"]


def spoken(messages: list[dict[str, Any]]) -> bool:
    return all(message.get("content") or message.get("tool_calls") for message in assistants(messages))


def message(content: Any = "", *, calls: Any = None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **({"tool_calls": calls} if calls else {}), **more}


def choice(message: dict[str, Any], reason: str = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}], **more}


WITHOUT_ID = {"type": "function", "function": FUNCTION}
TWICE = {**CALL, "id": "0"}

CASES: dict[str, tuple[list[dict[str, Any]], Check]] = {
    "DeepSeek": ([choice(message(calls=[CALL], reasoning_content="I should look."), "tool_calls")], reasoned),
    "Gemini": ([choice(message(calls=[{**CALL, "extra_content": {"google": {"thought_signature": "c2ln"}}}]))], signed),
    "calls without ids": ([choice(message(calls=[WITHOUT_ID])), choice(message(calls=[WITHOUT_ID]))], nine),
    "ids that repeat": ([choice(message(calls=[TWICE, TWICE])), choice(message(calls=[TWICE]))], answered),
    "a call as text": ([choice(message(f"I will look.\n<tool_call>\n{json.dumps({**FUNCTION})}\n</tool_call>"))], nine),
    "a name with a prefix": (
        [choice(message(calls=[{**CALL, "function": {**FUNCTION, "name": "functions.shell_exec"}}]))],
        lambda messages: all(call["function"]["name"] == "shell_exec" for call in calls(messages)),
    ),
    "an empty error": ([choice(message(calls=[CALL]), error={})], answered),
    "nothing, then a call": ([choice(message("")), choice(message(calls=[CALL]))], spoken),
    "reasoning alone, then a call": ([choice(message(None, reasoning="hm")), choice(message(calls=[CALL]))], spoken),
    "an old function_call": ([choice(message(None, function_call=FUNCTION), "function_call")], nine),
    "the call in the second choice": (
        [
            {
                "choices": [
                    {"index": 0, "message": message("I look."), "finish_reason": "tool_calls"},
                    {"index": 1, "message": message(None, calls=[CALL]), "finish_reason": "tool_calls"},
                ]
            }
        ],
        answered,
    ),
}


async def outcome_of(make_client: MakeClient, server: ScriptedLLM, answers: list[dict[str, Any]], check: Check) -> Any:
    left = list(answers)

    def reply(request: RecordedRequest) -> Reply:
        if not check(request.messages):
            return error(400, "messages.2: this server does not take that")
        return reply_json(left.pop(0) if left else choice(message(FINAL)))

    server.answer_with(reply)
    tools = FakeTools(lambda call: "hi")
    tools.specs = (SPEC,)
    agent = ToolAgent(make_client(), tools, "SOUL", Budget())
    outcome: AgentOutcome = await agent.run(TaskRequest("t1", "Say hi", ("shell_exec",)))
    return outcome, tools.calls


@pytest.mark.parametrize("name", CASES)
async def test_a_task_of_several_rounds_ends_well(name: str, make_client: MakeClient, server: ScriptedLLM) -> None:
    answers, check = CASES[name]
    outcome, made = await outcome_of(make_client, server, answers, check)
    assert (outcome.state, outcome.output, outcome.error) == (TaskState.COMPLETED, "hi", None)
    assert {(call.name, call.arguments["command"]) for call in made} == {("shell_exec", "echo hi")}
    assert len(server.requests) == len(answers) + 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (choice(message(""), "content_filter"), "content filter"),
        (choice(message("", reasoning_content="hm"), "length"), "length limit"),
        (choice(message(None), "MALFORMED_FUNCTION_CALL"), "MALFORMED_FUNCTION_CALL"),
        (choice(message(None, refusal="I can't help with that.")), "refused the task: \"I can't help"),
        (choice(message("", reasoning_content="hm")), "reasoning alone"),
        ({"choices": [{"error": {"message": "upstream died", "code": 502}}]}, "upstream"),
        (choice(message('{"success": "false", "data": {}, "output": "disk is broken"}')), "disk is broken"),
        (choice(message("I will now run the command.")), "called no tool"),
    ],
)
async def test_a_task_that_fails_names_what_the_model_sent(
    answer: dict[str, Any], words: str, make_client: MakeClient, server: ScriptedLLM
) -> None:
    outcome, made = await outcome_of(make_client, server, [answer] * 10, lambda _: True)
    assert (outcome.state, made) == (TaskState.FAILED, [])
    assert words in outcome.error
    assert "empty answer" not in outcome.error


def test_the_servers_of_this_table_refuse_what_does_not_fit() -> None:
    bare = [{"role": "assistant", "content": "", "tool_calls": [CALL]}]
    assert not reasoned(bare)
    assert not nine(bare)
    assert not spoken([{"role": "assistant", "content": ""}])
