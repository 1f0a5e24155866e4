"""Tasks and their results."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from enum import Enum
from typing import Any, Callable, Optional, TypedDict, TypeVar

from pibot.contracts.approvals import PendingCalls
from pibot.contracts.basics import JsonObject
from pibot.contracts.faults import Fault
from pibot.contracts.model import MAX_TOKENS, Usage
from pibot.contracts.reading import (
    MAX_TIME,
    count,
    label,
    lenient,
    newest,
    number,
    read_object,
    shortened,
    strict,
    text,
)
from pibot.contracts.validation import valid_description, valid_id, valid_skills, valid_timeout
from pibot.errors import ContractError, InvalidRequest

MAX_OUTPUT_CHARS = 64 * 1024 * 1024
"""Characters of a result's output. What carries it has the narrower bound, which follows the owner's settings."""

MAX_ERROR_CHARS = 4000
"""Characters of a result's error; a longer one is cut."""

MAX_REASONING_CHARS = 8000
"""Characters of what the model thought in a task; of more, the newest are kept."""

MAX_STEPS = 10**6

MAX_MODEL_REST = 86400.0
"""Seconds of a model's rest. A worker that names more is not believed."""


class TaskState(Enum):
    """The state of a task on a worker."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class TaskRequest:
    """The body of ``POST /task``: one task for a worker.

    Args:
        task_id: the caller's id for the task; the same id with the same body is the same task.
        description: what to do, in words.
        skills: the only skills that the task may use.
        timeout: seconds; None for the worker's own default.
    """

    task_id: str
    description: str
    skills: tuple[str, ...] = ()
    timeout: float | None = None

    @classmethod
    def from_json(cls, data: object) -> TaskRequest:
        """Read the body of ``POST /task``.

        Raises:
            InvalidRequest: a field is invalid; it is named.
        """
        if not isinstance(data, dict):
            raise InvalidRequest("the body must be a JSON object with task_id, description and skills")
        for name in ("task_id", "description"):
            if name not in data:
                raise InvalidRequest(f"{name} is missing", field=name)
        unknown = sorted(set(data) - {"task_id", "description", "skills", "timeout"})
        if unknown:
            raise InvalidRequest(
                f"unknown field {unknown[0]!r}; the fields are task_id, description, skills and timeout",
                field=unknown[0],
            )
        return cls(
            task_id=valid_id(data["task_id"], "task_id"),
            description=valid_description(data["description"]),
            skills=valid_skills(data.get("skills", [])),
            timeout=valid_timeout(data.get("timeout")),
        )

    def to_json(self) -> JsonObject:
        body: JsonObject = {
            "task_id": self.task_id,
            "description": self.description,
            "skills": list(self.skills),
        }
        if self.timeout is not None:
            body["timeout"] = self.timeout
        return body


@dataclass(frozen=True)
class UnfinishedTask:
    """A worker's 202: it has the task, and the task has not ended.

    Args:
        task_id: the task's id.
        status: ``accepted`` in answer to ``POST /task``, ``running`` afterwards.
        pending: the task's calls that need the owner's approval; None where none ever did.
    """

    task_id: str
    status: str = TaskState.RUNNING.value
    pending: PendingCalls | None = None

    def to_json(self) -> JsonObject:
        body: JsonObject = {"success": True, "task_id": self.task_id, "status": self.status}
        if self.pending is not None and self.pending.asked:
            body.update(self.pending.to_json())
        return body

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> UnfinishedTask:
        """Read the body leniently: only its status code says that the task has not ended.

        Raises:
            ContractError: it reports more pending calls than a task can have.
        """
        pending = PendingCalls.from_json(body) if "approvals_asked" in body else None
        return cls(lenient(body, "task_id", label) or "", lenient(body, "status", label) or "", pending)


class TaskResultDict(TypedDict, total=False):
    """The JSON form of :class:`TaskResult`; the guide's ``execute_task`` returns it too."""

    success: bool
    task_id: str
    worker_id: str | None
    status: str
    data: dict[str, Any]
    output: str
    error: str
    fault: str
    model_rest: float
    reasoning: str
    usage: dict[str, int]
    steps: int
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True)
class TaskResult:
    """The result of a task.

    Args:
        task_id: the task's id.
        worker_id: the worker that ran it; None where none did.
        state: how it ended; never ``RUNNING``.
        output: the summary for a person.
        data: the structured result; its JSON form always holds ``output`` too.
        error: one sentence; None where the task succeeded.
        usage: the tokens and model calls.
        steps: how many turns the agent's loop took.
        started_at, finished_at: seconds since the epoch, by the worker's clock.
        fault: what kept the worker from doing the task; None where the task itself failed, or the worker does not say.
        model_rest: seconds after which the model may be asked again; None where its provider named no time.
        reasoning: what the model thought, for people and never for a model; empty where the owner does not want it.
    """

    task_id: str
    worker_id: str | None
    state: TaskState
    output: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    usage: Usage = field(default_factory=Usage)
    steps: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    fault: Fault | None = None
    model_rest: float | None = None
    reasoning: str = ""

    @property
    def success(self) -> bool:
        return self.state is TaskState.COMPLETED

    def believable(self) -> TaskResult:
        """Return the result without what :meth:`from_json` would refuse at the other end, such as data from a model
        that is nested too deeply. The model must not make its worker pass for one that lies."""
        result = self if self.error is None else replace(self, error=shortened(self.error, MAX_ERROR_CHARS))
        problem = _why_not_believed(result)
        if problem is not None:
            result = replace(result, data={"note": f"the data was dropped: {problem}"})
            problem = _why_not_believed(result)
        if problem is not None:
            usage = Usage(*(min(number, MAX_TOKENS) for number in astuple(self.usage)))
            result = replace(
                result,
                state=TaskState.FAILED,
                output="",
                data={},
                error=f"its result was no use: {problem}",
                usage=usage,
                steps=min(self.steps, MAX_STEPS),
            )
        return result

    def to_json(self) -> TaskResultDict:
        body: TaskResultDict = {
            "success": self.success,
            "task_id": self.task_id,
            "worker_id": self.worker_id,
            "status": self.state.value,
            "data": {**self.data, "output": self.output},
            "output": self.output,
            "usage": self.usage.to_json(),
            "steps": self.steps,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
        }
        if self.error is not None:
            body["error"] = self.error
        if self.fault is not None:
            body["fault"] = self.fault.value
        if self.model_rest is not None:
            body["model_rest"] = self.model_rest
        if self.reasoning:
            body["reasoning"] = self.reasoning
        return body

    @classmethod
    def from_json(cls, data: object) -> TaskResult:
        """Read a worker's result.

        Raises:
            ContractError: a field that is given can't be right, or the task's id or its state is missing. It is named.
        """
        if not isinstance(data, dict):
            raise ContractError("a result must be a JSON object")
        task_id = strict(data, "task_id", label)
        state = strict(data, "status", _ended_state)
        details = {} if data.get("data") is None else strict(data, "data", _object)
        output = data["output"] if data.get("output") is not None else details.get("output", "")
        fault = Fault.read(data.get("fault")) if state is TaskState.FAILED else None
        rest = strict(data, "model_rest", _optional(lambda value: number(value, 0, MAX_MODEL_REST)))
        return cls(
            task_id=task_id,
            worker_id=strict(data, "worker_id", _optional(label)),
            state=state,
            output=strict({"output": output}, "output", lambda value: text(value, MAX_OUTPUT_CHARS)),
            data=details,
            error=strict(data, "error", _optional(_error)),
            usage=_usage(data.get("usage")),
            steps=strict(data, "steps", _optional(lambda value: count(value, MAX_STEPS))) or 0,
            started_at=strict(data, "started_at", _optional(_time)),
            finished_at=strict(data, "finished_at", _optional(_time)),
            fault=fault,
            model_rest=rest if fault is Fault.MODEL else None,
            reasoning=strict(data, "reasoning", _optional(_reasoning)) or "",
        )


T = TypeVar("T")


def _why_not_believed(result: TaskResult) -> str | None:
    try:
        sent = json.dumps(result.to_json(), ensure_ascii=False).encode("utf-8", "replace")
        TaskResult.from_json(read_object(sent, most_bytes=sys.maxsize))
    except (ContractError, ValueError, TypeError, RecursionError) as exc:
        return str(exc) or type(exc).__name__
    return None


def _optional(read: Callable[[Any], T]) -> Callable[[Any], Optional[T]]:
    return lambda value: None if value is None else read(value)


def _ended_state(value: object) -> TaskState:
    state = TaskState(label(value))
    if state is TaskState.RUNNING:
        raise ValueError("must not be 'running'")
    return state


def _object(value: object) -> JsonObject:
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")
    return dict(value)


def _error(value: object) -> str:
    return shortened(text(value, MAX_OUTPUT_CHARS), MAX_ERROR_CHARS)


def _reasoning(value: object) -> str:
    return newest(text(value, MAX_OUTPUT_CHARS), MAX_REASONING_CHARS)


def _time(value: object) -> float:
    return number(value, 0, MAX_TIME)


def _usage(data: object) -> Usage:
    if data is None:
        return Usage()
    if not isinstance(data, dict):
        raise ContractError("usage must be a JSON object")
    names = ("prompt_tokens", "completion_tokens", "llm_calls")
    try:
        return Usage(*(strict(data, name, _optional(lambda value: count(value, MAX_TOKENS))) or 0 for name in names))
    except ContractError as exc:
        raise ContractError(f"usage: {exc}") from None
