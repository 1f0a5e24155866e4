"""JSON of another machine: what is read is plain and bounded, and everything else is one kind of error."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pibot.contracts import (
    JsonObject,
    PendingCalls,
    Refusal,
    TaskResult,
    TaskState,
    UnfinishedTask,
    Usage,
    WorkerHealth,
    WorkerReport,
)
from pibot.contracts.reading import MAX_DEPTH, MAX_VALUES, read_object
from pibot.errors import ContractError

LIMIT = 100_000

WIRES: tuple[Any, ...] = (WorkerReport, WorkerHealth, UnfinishedTask, PendingCalls, Refusal, TaskResult)

NAMES = [
    "task_id",
    "worker_id",
    "status",
    "state",
    "data",
    "output",
    "error",
    "usage",
    "steps",
    "started_at",
    "finished_at",
    "current_task",
    "version",
    "skills",
    "tasks",
    "model",
    "sandbox",
    "host",
    "uptime_seconds",
    "approvals",
    "approvals_asked",
    "waited_seconds",
    "field",
    "throttled",
    "load_1m",
    "temperature_celsius",
    "memory_available_bytes",
    "prompt_tokens",
    "llm_calls",
    "digest",
    "tool",
    "arguments",
    "approval_id",
    "asked_at",
]

ODD = st.sampled_from(
    ["\ud83d", "\u202e", "x" * 5000, 10**30, -1, 1e308, math.nan, math.inf, "completed", "t", {}, [], True]
)

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**29), 10**29) | st.floats() | st.text(max_size=8) | ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=20,
)


def plain(value: Any) -> bool:
    """Return whether a value can be stored, sent and shown."""
    sent = json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    return len(sent) < 2 * LIMIT


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=12))
def test_whatever_a_worker_says_is_read_as_something_plain_or_refused(body: JsonObject) -> None:
    try:
        read = read_object(json.dumps(body).encode(), most_bytes=LIMIT)
    except ContractError:
        return
    for wire in WIRES:
        try:
            found = wire.from_json(read)
        except ContractError:
            continue
        assert plain(found.to_json())


@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:\\0123456789eE.-truefalsnu ', max_size=200).map(str.encode))
def test_any_bytes_are_an_object_that_python_reads_alike_or_refused(data: bytes) -> None:
    try:
        found = read_object(data, most_bytes=LIMIT)
    except ContractError:
        return
    assert found == json.loads(data)


@given(VALUES.filter(lambda value: isinstance(value, dict)))
def test_nothing_that_is_plain_is_refused(body: JsonObject) -> None:
    try:
        sent = json.dumps(body, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except ValueError:
        return
    if b"10000000000000000000000000000" not in sent:
        assert read_object(sent, most_bytes=LIMIT) == body


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a": "' + b"x" * LIMIT + b'"}', f"more than {LIMIT} bytes"),
        (b'{"a": ' + b"[" * (MAX_DEPTH + 1), f"more than {MAX_DEPTH} levels"),
        (b"[" * 90_000, "more than"),
        (b'{"a": [' + b"," * MAX_VALUES + b"]}", f"more than {MAX_VALUES} values"),
        (b'{"a": ' + b"9" * 90_000 + b"}", "more than 30 digits"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": "\\ud83d"}', "surrogate"),
        (b'{"\\uDE00": 1}', "surrogate"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        (b"[1]", "no JSON object"),
        (b"", "not JSON"),
        (b'{"a": "' + b"\\" * 50_000, "not JSON"),
        (b'"' * 90_000, "not JSON"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_what_is_no_plain_object_is_refused_and_named(data: bytes, why: str) -> None:
    with pytest.raises(ContractError, match=why):
        read_object(data, most_bytes=LIMIT)


def test_brackets_and_commas_in_a_text_are_no_values() -> None:
    body = {"a": "[{," * 20_000, "b": '\\"[' * 200, "c": "\\", "d": "😀"}
    for ascii_only in (True, False):
        assert read_object(json.dumps(body, ensure_ascii=ascii_only).encode(), most_bytes=LIMIT) == body


RESULT = {"task_id": "t", "status": "completed", "output": "x"}


@pytest.mark.parametrize(
    "change",
    [
        {"usage": {"prompt_tokens": 10**30}},
        {"usage": {"llm_calls": -1}},
        {"usage": [1]},
        {"started_at": math.inf},
        {"finished_at": 10**400},
        {"started_at": "now"},
        {"steps": 10**25},
        {"steps": True},
        {"data": [1]},
        {"output": 7},
        {"output": "\ud83d"},
        {"error": {"a": 1}},
        {"worker_id": 7},
        {"task_id": "t" * 500},
        {"task_id": None},
    ],
    ids=str,
)
def test_a_result_that_can_not_be_right_is_none_and_the_field_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match=next(iter(change))):
        TaskResult.from_json({**RESULT, **change})


def test_a_long_error_is_cut_and_a_result_of_an_earlier_release_is_read() -> None:
    assert len(TaskResult.from_json({**RESULT, "status": "failed", "error": "x" * 10**6}).error or "") == 4000
    assert TaskResult.from_json(RESULT) == TaskResult("t", None, TaskState.COMPLETED, "x")


@pytest.mark.parametrize(
    "data", [{"a": json.loads("[" * 200 + "]" * 200)}, {"a": math.nan}, {"a": 10**50}, {"a": [1] * 60_000}]
)
def test_a_worker_leaves_out_data_that_its_master_would_not_believe(data: dict[str, Any]) -> None:
    sent = TaskResult("t", "worker-1", TaskState.COMPLETED, "the answer", data).believable()
    assert sent.output == "the answer"
    assert "dropped" in sent.data["note"]
    assert TaskResult.from_json(read_object(json.dumps(sent.to_json()).encode(), most_bytes=LIMIT)).success
    odd = TaskResult("t", "worker-1", TaskState.COMPLETED, "the answer", usage=Usage(5 * 10**12, 7, 1), started_at=1.0)
    kept = odd.believable()
    assert (kept.state, kept.usage.completion_tokens, kept.started_at) == (TaskState.FAILED, 7, 1.0)
    assert TaskResult.from_json(json.loads(json.dumps(kept.to_json()))) == replace(kept, data={"output": ""})
    fine = TaskResult("t", "worker-1", TaskState.COMPLETED, "the answer", {"n": [1, 2]})
    assert fine.believable() == fine
