"""The types that travel as JSON: what they refuse, and that they come back as they were."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pibot.contracts import (
    ApprovalRequest,
    Completion,
    Fault,
    HostReading,
    Message,
    PendingCalls,
    Refusal,
    SubTask,
    TaskComplexity,
    TaskPlan,
    TaskRequest,
    TaskResult,
    TaskState,
    ToolCall,
    UnfinishedTask,
    Usage,
    WorkerHealth,
    WorkerReport,
    digest_of,
    fault_of,
)
from pibot.contracts.reading import CUT_MARK
from pibot.contracts.tasks import MAX_REASONING_CHARS
from pibot.errors import (
    ContractError,
    InvalidRequest,
    LLMAway,
    LLMConfigurationError,
    LLMProtocolError,
    LLMRejected,
    LLMUnavailable,
    LLMUnpaid,
    LLMUnreachable,
    SandboxUnavailable,
    ToolError,
)

TASK: dict[str, Any] = {"task_id": "test_001", "description": "List files", "skills": ["shell_exec"]}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"task_id": ""}, "task_id"),
        ({"task_id": "../etc"}, "task_id"),
        ({"task_id": "a" * 101}, "task_id"),
        ({"task_id": "a\n"}, "task_id"),
        ({"task_id": 7}, "task_id"),
        ({"task_id": "ü"}, "task_id"),
        ({"description": ""}, "description"),
        ({"description": " \n"}, "description"),
        ({"description": None}, "description"),
        ({"description": "x" * 100_001}, "description"),
        ({"description": "\ud800"}, "description"),
        ({"skills": "shell_exec"}, "skills"),
        ({"skills": [1]}, "skills"),
        ({"skills": ["../x"]}, "skills"),
        ({"skills": [f"s{n}" for n in range(33)]}, "skills"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": 86401}, "timeout"),
        ({"prompt": "x"}, "prompt"),
    ],
)
def test_a_task_with_an_invalid_field_is_refused_with_the_fields_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        TaskRequest.from_json({**TASK, **change})
    assert caught.value.field == field
    assert field in str(caught.value)


@pytest.mark.parametrize("missing", ["task_id", "description"])
def test_a_task_without_a_required_field_is_refused_with_the_fields_name(missing: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{missing} is missing"):
        TaskRequest.from_json({name: value for name, value in TASK.items() if name != missing})


def test_skills_may_be_left_out_or_named_twice() -> None:
    assert TaskRequest.from_json({"task_id": "t", "description": "d"}).skills == ()
    assert TaskRequest.from_json({**TASK, "skills": ["a", "b", "a"]}).skills == ("a", "b")


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner), max_leaves=5))
def test_any_body_is_either_a_task_or_an_invalid_request(value: object) -> None:
    for name in (*TASK, "timeout"):
        try:
            task = TaskRequest.from_json({**TASK, name: value})
        except InvalidRequest:
            continue
        assert TaskRequest.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_a_task_is_the_same_after_a_round_trip_through_json() -> None:
    task = TaskRequest("t", "d", ("a",), 2.5)
    assert TaskRequest.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_a_plan_is_the_same_after_a_round_trip_through_json() -> None:
    plan = TaskPlan(
        TaskComplexity.COMPLEX, False, (SubTask("a", "x", ("s",)), SubTask("b", "y", (), ("a",), 3.0)), None, "why"
    )
    assert TaskPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_results_json_has_the_agreed_fields_and_its_output_twice() -> None:
    result = TaskResult("t", "worker-1", TaskState.COMPLETED, "done", {"n": 1}, None, Usage(3, 4, 1), 2, 1.0, 2.0)
    assert result.to_json() == {
        "success": True,
        "task_id": "t",
        "worker_id": "worker-1",
        "status": "completed",
        "data": {"n": 1, "output": "done"},
        "output": "done",
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "llm_calls": 1},
        "steps": 2,
        "started_at": 1.0,
        "finished_at": 2.0,
    }


def test_a_failed_result_says_why_and_is_the_same_after_a_round_trip_through_json() -> None:
    result = TaskResult("t", None, TaskState.FAILED, "", {"output": ""}, "no disk", started_at=1.0, finished_at=2.0)
    body = result.to_json()
    assert (body["success"], body["error"]) == (False, "no disk")
    assert TaskResult.from_json(json.loads(json.dumps(body))) == result


@pytest.mark.parametrize("fault", list(Fault))
def test_a_fault_survives_the_wire_and_only_a_failed_result_has_one(fault: Fault) -> None:
    failed = TaskResult("t", "worker-1", TaskState.FAILED, "", {"output": ""}, "no way there", fault=fault)
    body = json.loads(json.dumps(failed.to_json()))
    assert TaskResult.from_json(body) == failed
    assert TaskResult.from_json({**body, "status": "completed"}).fault is None
    assert TaskResult.from_json({**body, "fault": "moon"}).fault is None  # of a newer release
    del body["fault"]  # of an older one
    assert TaskResult.from_json(body).fault is None


@pytest.mark.parametrize(
    ("rest", "read"), [(43200.0, 43200.0), (0, 0.0), (None, None), (1e9, "refused"), (-1, "refused"), ("x", "refused")]
)
def test_a_models_rest_is_read_within_its_bounds(rest: object, read: object) -> None:
    body = TaskResult("t", "worker-1", TaskState.FAILED, fault=Fault.MODEL, model_rest=1.5).to_json()
    assert TaskResult.from_json(body).model_rest == 1.5
    assert TaskResult.from_json({**body, "fault": "worker"}).model_rest is None
    try:
        assert TaskResult.from_json({**body, "model_rest": rest}).model_rest == read
    except ContractError:
        assert read == "refused"


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("I think so", "I think so"),
        (None, ""),
        ("", ""),
        ("x" * MAX_REASONING_CHARS, "x" * MAX_REASONING_CHARS),
        ("y" + "x" * 2 * MAX_REASONING_CHARS, CUT_MARK + "x" * (MAX_REASONING_CHARS - len(CUT_MARK))),
        (["I think so"], "refused"),
        ("\ud83d", "refused"),
    ],
)
def test_reasoning_is_read_within_its_bound_and_left_out_where_there_is_none(sent: object, read: str) -> None:
    body: dict[str, object] = {**TaskResult("t", "worker-1", TaskState.COMPLETED, "done").to_json()}
    assert "reasoning" not in body
    try:
        result = TaskResult.from_json({**body, "reasoning": sent})
    except ContractError:
        assert read == "refused"
        return
    assert result.reasoning == read
    assert result.to_json().get("reasoning", "") == read
    assert (result.output, result.data) == ("done", {"output": "done"})


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (LLMUnpaid("no balance", status=402), Fault.SETTING),
        (LLMUnreachable("no route"), Fault.WORKER),
        (SandboxUnavailable("no bubblewrap"), Fault.WORKER),
        (LLMAway("502"), Fault.MODEL),
        (LLMConfigurationError("no key"), Fault.SETTING),
        (LLMRejected("wrong key", status=401), Fault.SETTING),
        (LLMRejected("no such model", status=404), Fault.SETTING),
        (LLMRejected("moved", status=308), Fault.SETTING),
        (LLMRejected("too long", status=400), None),
        (LLMRejected("used up", status=429), None),
        (LLMUnavailable("too slow"), None),
        (LLMProtocolError("nonsense"), None),
        (ToolError("no such file"), None),
    ],
)
def test_only_an_error_that_is_not_the_tasks_own_is_a_fault(error: Exception, fault: Fault | None) -> None:
    assert fault_of(error) is fault


@pytest.mark.parametrize(
    "body", [None, [], {}, {"task_id": "t"}, {"task_id": "t", "status": "great"}, {"task_id": "t", "status": "running"}]
)
def test_a_body_that_is_no_result_is_refused(body: object) -> None:
    with pytest.raises(ContractError):
        TaskResult.from_json(body)


REPORT = WorkerReport(
    worker_id="worker-1",
    version="3.1",
    uptime=12.5,
    current_task="t",
    tasks={"completed": 2, "failed": 0},
    skills=frozenset({"shell_exec", "web_fetch"}),
    model="m",
    sandbox="bwrap",
    host=HostReading(512, 256, 32, 0.5, 51.5, 3600.0, 4, ("under-voltage",)),
)
CALL = ApprovalRequest("1", "shell_exec", {"command": "ls"}, digest_of("shell_exec", {"command": "ls"}), 5.0)


@pytest.mark.parametrize(
    "value",
    [
        REPORT,
        WorkerReport(),
        WorkerHealth("worker-1", None),
        UnfinishedTask("t", "accepted"),
        UnfinishedTask("t", "running", PendingCalls(2, 1.5, (CALL,))),
        Refusal("no", field="skills", skills=("a",)),
        Refusal("another task runs", busy=True, current_task="t"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_worker_answers_is_the_same_after_a_round_trip_through_json(value: Any) -> None:
    assert type(value).from_json(json.loads(json.dumps(value.to_json()))) == value


def test_a_workers_report_and_health_have_the_agreed_fields() -> None:
    assert list(REPORT.to_json()) == [
        "worker_id",
        "version",
        "uptime_seconds",
        "current_task",
        "tasks",
        "skills",
        "model",
        "sandbox",
        "host",
        "problem",
    ]
    assert WorkerHealth("worker-1", None).to_json() == {
        "status": "healthy",
        "worker_id": "worker-1",
        "current_task": None,
    }


def test_usage_is_added_up_and_read_leniently() -> None:
    assert Usage(1, 2, 3) + Usage(10, 20, 30) == Usage(11, 22, 33)
    assert Usage.from_json({"prompt_tokens": "7", "completion_tokens": -1, "llm_calls": True}) == Usage()


def test_a_message_has_the_form_of_the_chat_completions_protocol() -> None:
    call = ToolCall("c1", "shell_exec", {"command": "ls"}, '{"command": "ls"}')
    assert Message("assistant", "", (call,)).to_json() == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "shell_exec", "arguments": '{"command": "ls"}'}}
        ],
    }
    assert Message("tool", "out", tool_call_id="c1").to_json() == {
        "role": "tool",
        "content": "out",
        "tool_call_id": "c1",
    }


def test_an_assistants_message_goes_back_with_the_further_fields_that_came_with_it() -> None:
    call = ToolCall("c1", "now", {}, extra={"extra_content": {"google": 1}, "function": {"strict": True, "name": "x"}})
    answer = Completion("", (call,), reasoning="I look.", extra={"reasoning_content": "I look."})
    assert answer.to_message().to_json() == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "I look.",
        "tool_calls": [
            {
                "extra_content": {"google": 1},
                "id": "c1",
                "type": "function",
                "function": {"strict": True, "name": "now", "arguments": "{}"},
            }
        ],
    }
