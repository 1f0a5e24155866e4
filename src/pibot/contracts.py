"""What crosses a boundary between parts or machines: frozen dataclasses, enums, and the protocols of collaborators.

Each type that travels as JSON has ``to_json`` and, where it is read back, ``from_json``, which raises
:class:`~pibot.errors.ContractError` (or :class:`~pibot.errors.InvalidRequest` for a caller's input) with the
name of the field that does not fit.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Callable, Protocol, TypedDict, Union

from pibot.errors import ContractError, InvalidRequest

JsonValue = Union[None, bool, int, float, str, "list[JsonValue]", "dict[str, JsonValue]"]
JsonObject = dict[str, Any]

Clock = Callable[[], float]
"""Seconds as a float: ``time.time`` for dates that are shown or stored, ``time.monotonic`` for durations."""

MAX_TASK_TIMEOUT = 24 * 3600.0
"""Seconds. A longer task is more likely a mistake in the unit than a wish."""

MAX_DESCRIPTION_CHARS = 100_000
"""Characters. About 25,000 tokens: a description larger than that leaves a small model no room to work."""

MAX_SKILLS_PER_TASK = 32

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_SKILL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")


# --- enums ------------------------------------------------------------------


class TaskComplexity(Enum):
    """How much work the planner takes a job for."""

    SIMPLE = "simple"
    MODERATE = "moderate"
    COMPLEX = "complex"


class TaskState(Enum):
    """How a task on a worker ended, or that it has not."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


class WorkerState(Enum):
    """What the pool knows of a worker. A worker not yet asked is presumed idle."""

    IDLE = "idle"
    BUSY = "busy"
    OFFLINE = "offline"


# --- tasks ------------------------------------------------------------------


def valid_id(value: object, name: str) -> str:
    """Return ``value`` if it is a usable id, as a path segment and as a folder's name.

    Raises:
        InvalidRequest: it is not 1 to 100 letters, digits, dots, underscores or hyphens, the first a letter or digit.
    """
    if isinstance(value, str) and _ID.match(value):
        return value
    raise InvalidRequest(
        f"{name} must be 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit",
        field=name,
    )


def valid_description(value: object) -> str:
    """Return ``value`` if it is a task's or job's description: text, not blank, not beyond the limit.

    Raises:
        InvalidRequest: it is none of these.
    """
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest("description must be a text that says what to do", field="description")
    if len(value) > MAX_DESCRIPTION_CHARS:
        raise InvalidRequest(
            f"description has {len(value)} characters, {MAX_DESCRIPTION_CHARS} are allowed",
            field="description",
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("description holds a lone surrogate, which is no text", field="description") from None
    return value


def valid_skills(value: object) -> tuple[str, ...]:
    """Return ``value`` as a tuple of skill names without repetitions, in their order.

    Raises:
        InvalidRequest: it is no list of names of the form that a skill's folder may have.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(x, str) and _SKILL_NAME.match(x) for x in value):
        raise InvalidRequest(
            "skills must be a list of skill names (lower-case letters, digits, '_' or '-'), [] for none",
            field="skills",
        )
    names = tuple(dict.fromkeys(value))
    if len(names) > MAX_SKILLS_PER_TASK:
        raise InvalidRequest(f"skills names {len(names)}, {MAX_SKILLS_PER_TASK} are allowed", field="skills")
    return names


def valid_timeout(value: object) -> float | None:
    """Return ``value`` in seconds, or None where none was given.

    Raises:
        InvalidRequest: it is no number above 0 and up to :data:`MAX_TASK_TIMEOUT`.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_TASK_TIMEOUT:
        raise InvalidRequest(
            f"timeout must be a number of seconds above 0 and up to {MAX_TASK_TIMEOUT:.0f}", field="timeout"
        )
    return float(value)


@dataclass(frozen=True)
class TaskRequest:
    """One task as a worker gets it.

    Args:
        task_id: the caller's name for it; the same id with the same body is the same task.
        description: what to do, in words.
        skills: the skills that the task may use, and no others.
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
            InvalidRequest: it names the field that does not fit.
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
class SubTask:
    """One step of a plan, to be run by one worker.

    Args:
        task_id: unique within its plan.
        description: what to do, in words.
        skills: the skills that it may use.
        depends_on: the ``task_id`` of each step whose result it needs.
        timeout: seconds; None for the default.
    """

    task_id: str
    description: str
    skills: Sequence[str] = ()
    depends_on: Sequence[str] = ()
    timeout: float | None = None

    def to_json(self) -> JsonObject:
        return {
            "task_id": self.task_id,
            "description": self.description,
            "skills": list(self.skills),
            "depends_on": list(self.depends_on),
            "timeout": self.timeout,
        }

    @classmethod
    def from_json(cls, data: object) -> SubTask:
        """Read one step of a plan, from a model, a caller or the store.

        Raises:
            InvalidRequest: it names the field that does not fit.
        """
        if not isinstance(data, dict):
            raise InvalidRequest("each subtask must be a JSON object", field="subtasks")
        depends_on = data.get("depends_on") or []
        if not isinstance(depends_on, (list, tuple)):
            raise InvalidRequest("depends_on must be a list of task_ids", field="depends_on")
        return cls(
            task_id=valid_id(data.get("task_id"), "task_id"),
            description=valid_description(data.get("description")),
            skills=valid_skills(data.get("skills") or []),
            depends_on=tuple(dict.fromkeys(valid_id(d, "depends_on") for d in depends_on)),
            timeout=valid_timeout(data.get("timeout")),
        )


@dataclass(frozen=True)
class TaskPlan:
    """What the planner made of a job.

    Args:
        complexity: how much work it takes the job for.
        handle_locally: the master answers by itself, with ``answer``; there are no subtasks then.
        subtasks: the steps, a directed acyclic graph by their ``depends_on``.
        answer: the master's own answer where it handles the job locally.
        reasoning: one sentence on why it is planned so, for the dashboard.
        note: what the owner should know of the planning itself, such as that the model's plan was unusable.
    """

    complexity: TaskComplexity
    handle_locally: bool
    subtasks: Sequence[SubTask] = ()
    answer: str | None = None
    reasoning: str = ""
    note: str = ""

    def to_json(self) -> JsonObject:
        return {
            "complexity": self.complexity.value,
            "handle_locally": self.handle_locally,
            "subtasks": [s.to_json() for s in self.subtasks],
            "answer": self.answer,
            "reasoning": self.reasoning,
            "note": self.note,
        }

    @classmethod
    def from_json(cls, data: JsonObject) -> TaskPlan:
        """Read back a plan from the store; see the planner for a plan that a model wrote."""
        return cls(
            complexity=TaskComplexity(data["complexity"]),
            handle_locally=bool(data["handle_locally"]),
            subtasks=tuple(SubTask.from_json(s) for s in data["subtasks"]),
            answer=data.get("answer"),
            reasoning=data.get("reasoning", ""),
            note=data.get("note", ""),
        )


@dataclass(frozen=True)
class Usage:
    """Tokens and calls that a model was asked for. A server that counts none leaves zeros."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    llm_calls: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.llm_calls + other.llm_calls,
        )

    def to_json(self) -> JsonObject:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "llm_calls": self.llm_calls,
        }

    @classmethod
    def from_json(cls, data: object) -> Usage:
        """Read counts leniently: what is missing or no number counts as zero."""
        if not isinstance(data, dict):
            return cls()

        def count(name: str) -> int:
            value = data.get(name)
            return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0

        return cls(count("prompt_tokens"), count("completion_tokens"), count("llm_calls"))


class TaskResultDict(TypedDict, total=False):
    """The JSON form of :class:`TaskResult`, which the worker answers and ``execute_task`` returns."""

    success: bool
    task_id: str
    worker_id: str | None
    status: str
    data: dict[str, Any]
    output: str
    error: str
    usage: dict[str, int]
    steps: int
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True)
class TaskResult:
    """How a task ended.

    Args:
        task_id: the task's.
        worker_id: who ran it; None where no worker did.
        state: how it ended; never ``RUNNING``.
        output: the summary for a person.
        data: the structured result; always holds ``output`` too.
        error: one sentence where it did not succeed.
        usage: what the model was asked for.
        steps: how many times the agent's loop asked the model.
        started_at, finished_at: seconds since the epoch, by the worker's clock.
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

    @property
    def success(self) -> bool:
        return self.state is TaskState.COMPLETED

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
        return body

    @classmethod
    def from_json(cls, data: object) -> TaskResult:
        """Read a worker's result.

        Raises:
            ContractError: it names the field that does not fit.
        """
        if not isinstance(data, dict):
            raise ContractError("a result must be a JSON object")
        try:
            state = TaskState(data["status"])
            task_id = str(data["task_id"])
        except (KeyError, ValueError) as exc:
            raise ContractError(f"a result without a usable task_id and status: {exc}") from exc
        if state is TaskState.RUNNING:
            raise ContractError("a result whose status is still 'running'")
        details = data.get("data")
        details = dict(details) if isinstance(details, dict) else {}
        output = data.get("output", details.get("output", ""))
        error = data.get("error")
        steps = data.get("steps", 0)
        return cls(
            task_id=task_id,
            worker_id=data.get("worker_id"),
            state=state,
            output=output if isinstance(output, str) else str(output),
            data=details,
            error=None if error is None else str(error),
            usage=Usage.from_json(data.get("usage")),
            steps=steps if isinstance(steps, int) else 0,
            started_at=data.get("started_at"),
            finished_at=data.get("finished_at"),
        )


# --- the model --------------------------------------------------------------


@dataclass(frozen=True)
class ToolCall:
    """A tool call that a model asked for.

    Args:
        call_id: the model's id for it, repeated in the answer.
        name: the tool's name, as the model wrote it.
        arguments: the decoded arguments; None where they could not be decoded.
        raw_arguments: what the model wrote, as text, sent back in the conversation; ``{}`` where it wrote no JSON
            object, because servers refuse a conversation with anything else there.
        problem: why the arguments could not be decoded, as a sentence for the model.
    """

    call_id: str
    name: str
    arguments: Mapping[str, Any] | None
    raw_arguments: str = "{}"
    problem: str | None = None


@dataclass(frozen=True)
class ToolResult:
    """What a tool call came to.

    Args:
        call_id: the call's.
        content: text for the model.
        is_error: the tool could not do it; ``content`` says why.
    """

    call_id: str
    content: str
    is_error: bool = False


@dataclass(frozen=True)
class Message:
    """One message of a conversation with a model.

    Args:
        role: ``system``, ``user``, ``assistant`` or ``tool``.
        content: the text.
        tool_calls: for an assistant's message, the calls that it asks for.
        tool_call_id: for a tool's message, the call that it answers.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    def to_json(self) -> JsonObject:
        """The form that the OpenAI chat-completions protocol has for it."""
        body: JsonObject = {"role": self.role, "content": self.content}
        if self.tool_calls:
            body["tool_calls"] = [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.raw_arguments},
                }
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            body["tool_call_id"] = self.tool_call_id
        return body


@dataclass(frozen=True)
class ToolSpec:
    """A tool as a model is told of it: a name, what it does, and a JSON Schema for its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def to_json(self) -> JsonObject:
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": dict(self.parameters),
            },
        }


@dataclass(frozen=True)
class Completion:
    """A model's answer.

    Args:
        text: what it said; may be empty where it asks for tools.
        tool_calls: the tools that it asks for.
        usage: counted by its server; zeros where it counts none.
        finish_reason: the protocol's, such as ``stop``, ``tool_calls`` or ``length``.
        model: the model's name as its server gave it.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = "stop"
    model: str = ""


class LLMClient(Protocol):
    """Something that completes a conversation. Used within one event loop; safe for concurrent calls there."""

    @property
    def model(self) -> str:
        """The model's name, as shown to people."""
        ...

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, timeout: float | None = None
    ) -> Completion:
        """Ask for one completion.

        Args:
            messages: the whole conversation; the server keeps none.
            tools: what the model may ask for.
            timeout: seconds for the call with all its retries; None for the client's own limit.

        Raises:
            LLMError: one of its kinds; each says what was wrong and what to do.
        """
        ...

    async def close(self) -> None:
        """Give back connections. Calling it twice is fine."""
        ...


# --- running commands and tools --------------------------------------------


@dataclass(frozen=True)
class CommandResult:
    """What a confined command came to.

    Args:
        exit_code: the program's; negative for the signal that ended it.
        output: stdout and stderr as they were interleaved, decoded, cut to the limit.
        truncated: output went beyond the limit and the rest was dropped.
        timed_out: it was ended at its deadline, with every process that it had started.
    """

    exit_code: int
    output: str
    truncated: bool = False
    timed_out: bool = False


class CommandRunner(Protocol):
    """Runs a command that nobody vouches for."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        workspace: Path,
        timeout: float,
        stdin: bytes = b"",
        network: bool = False,
    ) -> CommandResult:
        """Run ``argv`` confined to ``workspace`` and wait for it.

        When this returns, raises or is cancelled, no process of the command is left.

        Args:
            argv: the program and its arguments; no shell is added.
            workspace: the one folder that it can write, its working directory and its ``HOME``.
            timeout: seconds until it is ended.
            stdin: what it can read.
            network: whether it may use the network.

        Raises:
            SandboxUnavailable: it cannot be confined here; it was not run.
            ToolError: the program could not be started.
        """
        ...


@dataclass(frozen=True)
class ToolContext:
    """What a tool is handed beside its arguments: a parameter annotated with this type is filled in, never asked
    of the model.

    Args:
        task_id: the task it works for.
        workspace: the task's own folder; it exists, and goes with the task.
        commands: how to run a command.
        options: the owner's settings for skills, such as ``web_allow``, ``read_paths``; read-only.
    """

    task_id: str
    workspace: Path
    commands: CommandRunner
    options: Mapping[str, Any] = field(default_factory=dict)


# --- the agent --------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """How far one task may go. Each is checked before a model is asked.

    Args:
        max_steps: model calls.
        max_seconds: wall-clock seconds from the start, the task's timeout.
        max_tokens: prompt and completion together, over all calls.
        max_output_chars: characters of the final output; the rest is cut, and said to be.
    """

    max_steps: int = 20
    max_seconds: float = 300.0
    max_tokens: int = 200_000
    max_output_chars: int = 50_000


@dataclass(frozen=True)
class AgentOutcome:
    """What a run of an agent came to; the executor makes a :class:`TaskResult` of it.

    Args:
        state: ``COMPLETED``, ``FAILED`` or ``TIMEOUT``.
        output: the summary for a person.
        data: the structured result.
        error: one sentence where it did not succeed.
        usage: what the model was asked for.
        steps: how many times it was asked.
    """

    state: TaskState
    output: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    usage: Usage = field(default_factory=Usage)
    steps: int = 0


class Agent(Protocol):
    """Runs one task, then is thrown away."""

    def run(self, request: TaskRequest) -> Awaitable[AgentOutcome]:
        """Run the task to its end. Cancelling the awaiting task ends it, with all it had started."""
        ...


# --- workers as the master sees them ---------------------------------------


@dataclass(frozen=True)
class WorkerAddress:
    """Where a worker is. The id is how people and results name it."""

    worker_id: str
    host: str
    port: int = 5000

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True)
class WorkerStatus:
    """What the pool knows of one worker at this moment.

    Args:
        address: where it is.
        state: idle, busy or offline.
        current_task: what it runs.
        last_seen: seconds since the epoch of its last answer; None where it never answered.
        error: why it counts as offline.
    """

    address: WorkerAddress
    state: WorkerState = WorkerState.IDLE
    current_task: str | None = None
    last_seen: float | None = None
    error: str | None = None

    def to_json(self) -> JsonObject:
        return {
            "id": self.address.worker_id,
            "ip": self.address.host,
            "port": self.address.port,
            "status": self.state.value,
            "current_task": self.current_task,
            "last_seen": self.last_seen,
            "error": self.error,
        }
