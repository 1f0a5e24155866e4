"""A worker as it reports itself, and as the master sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pibot.contracts.addresses import WorkerAddress
from pibot.contracts.basics import JsonObject
from pibot.contracts.reading import count, label, lenient, number, text
from pibot.contracts.tasks import TaskState
from pibot.contracts.validation import valid_id
from pibot.errors import InvalidRequest

MAX_SKILLS = 256
MAX_THROTTLED = 16
MAX_PROBLEM_CHARS = 1_000
MAX_SECONDS = 1e10
"""Seconds that a machine or process may have been up: 300 years."""


class WorkerState(Enum):
    """What the pool knows of a worker. A worker that was never asked is presumed idle."""

    IDLE = "idle"
    BUSY = "busy"
    OFFLINE = "offline"


@dataclass(frozen=True)
class WorkerHealth:
    """The body of a worker's ``GET /health``: these three keys exactly.

    Args:
        worker_id: the worker's id.
        current_task: the task that it runs; None where it runs none.
        status: ``healthy``; anything else counts as unhealthy.
    """

    worker_id: str | None
    current_task: str | None
    status: str = "healthy"

    @property
    def healthy(self) -> bool:
        return self.status == "healthy"

    def to_json(self) -> JsonObject:
        return {"status": self.status, "worker_id": self.worker_id, "current_task": self.current_task}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> WorkerHealth:
        """Read the body leniently: a missing or invalid id counts as not given."""
        status = lenient(body, "status", label)
        return cls(lenient(body, "worker_id", label), lenient(body, "current_task", task_id_of), status or "unreadable")


@dataclass(frozen=True)
class HostReading:
    """One reading of a machine's state. None where the machine has no such reading.

    Args:
        memory_total: bytes of the whole machine.
        memory_available: bytes that a new process could have.
        process_memory: bytes, the proportional set size of this process.
        load_1m: the load average of the last minute.
        temperature: degrees Celsius of the processor.
        uptime: seconds since the machine started.
        processors: how many processors this process may use.
        throttled: why a Raspberry Pi's firmware throttles the machine now, such as ``under-voltage``.
    """

    memory_total: int | None = None
    memory_available: int | None = None
    process_memory: int | None = None
    load_1m: float | None = None
    temperature: float | None = None
    uptime: float | None = None
    processors: int | None = None
    throttled: tuple[str, ...] | None = None

    def to_json(self) -> JsonObject:
        return {
            "memory_total_bytes": self.memory_total,
            "memory_available_bytes": self.memory_available,
            "process_memory_bytes": self.process_memory,
            "load_1m": self.load_1m,
            "temperature_celsius": self.temperature,
            "uptime_seconds": self.uptime,
            "processors": self.processors,
            "throttled": None if self.throttled is None else list(self.throttled),
        }

    @classmethod
    def from_json(cls, data: object) -> HostReading:
        """Read the ``host`` object leniently: a missing or impossible reading becomes None."""
        body = data if isinstance(data, dict) else {}
        return cls(
            memory_total=lenient(body, "memory_total_bytes", _count),
            memory_available=lenient(body, "memory_available_bytes", _count),
            process_memory=lenient(body, "process_memory_bytes", _count),
            load_1m=lenient(body, "load_1m", lambda value: number(value, 0, 1e6)),
            temperature=lenient(body, "temperature_celsius", lambda value: number(value, -273, 1000)),
            uptime=lenient(body, "uptime_seconds", _seconds),
            processors=lenient(body, "processors", _count),
            throttled=lenient(body, "throttled", lambda value: _labels(value, MAX_THROTTLED)),
        )


@dataclass(frozen=True)
class WorkerReport:
    """The body of a worker's ``GET /status``. None where a worker does not give the value.

    Args:
        worker_id: the worker's id.
        version: its version of PiBot.
        uptime: seconds since its process started.
        current_task: the task that it runs.
        tasks: how many tasks have ended since its start, by their state.
        skills: the names of the skills that it has.
        model: the name of its model.
        sandbox: ``bwrap`` or ``off``.
        host: the state of its machine.
        problem: why it can run no task now, as a sentence without a capital; None where it can.
    """

    worker_id: str | None = None
    version: str | None = None
    uptime: float | None = None
    current_task: str | None = None
    tasks: Mapping[str, int] = field(default_factory=dict)
    skills: frozenset[str] | None = None
    model: str | None = None
    sandbox: str | None = None
    host: HostReading = field(default_factory=HostReading)
    problem: str | None = None

    def to_json(self) -> JsonObject:
        return {
            "worker_id": self.worker_id,
            "version": self.version,
            "uptime_seconds": None if self.uptime is None else round(self.uptime, 3),
            "current_task": self.current_task,
            "tasks": dict(self.tasks),
            "skills": None if self.skills is None else sorted(self.skills),
            "model": self.model,
            "sandbox": self.sandbox,
            "host": self.host.to_json(),
            "problem": self.problem,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> WorkerReport:
        """Read the body leniently: a missing or impossible value counts as not given."""
        return cls(
            worker_id=lenient(body, "worker_id", label),
            version=lenient(body, "version", label),
            uptime=lenient(body, "uptime_seconds", _seconds),
            current_task=lenient(body, "current_task", task_id_of),
            tasks=lenient(body, "tasks", _counts) or {},
            skills=lenient(body, "skills", lambda value: frozenset(_labels(value, MAX_SKILLS))),
            model=lenient(body, "model", label),
            sandbox=lenient(body, "sandbox", label),
            host=HostReading.from_json(body.get("host")),
            problem=lenient(body, "problem", lambda value: text(value, MAX_PROBLEM_CHARS)),
        )


def task_id_of(value: object) -> str:
    """Return ``value`` if it can be a task's id.

    Raises:
        ValueError: it can't.
    """
    try:
        return valid_id(value, "current_task")
    except InvalidRequest as exc:
        raise ValueError(str(exc)) from None


def _seconds(value: object) -> float:
    return number(value, 0, MAX_SECONDS)


def _count(value: object) -> int:
    """Read a count that may have been written as a float."""
    return count(int(number(value, 0, 2**53)), 2**53)


def _labels(value: object, most: int) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"must be a list of up to {most} texts")
    return tuple(label(item) for item in value)


def _counts(value: object) -> dict[str, int]:
    if not isinstance(value, dict) or len(value) > len(TaskState):
        raise ValueError("must be the number of tasks by state")
    return {TaskState(name).value: count(number) for name, number in value.items()}


@dataclass(frozen=True)
class WorkerStatus:
    """What the pool knows of one worker at this moment.

    Args:
        address: where it listens.
        state: idle, busy or offline.
        current_task: the task that it runs.
        last_seen: seconds since the epoch of its last answer; None where it never answered.
        error: why it counts as offline or could not do its last tasks, or what else its owner should mend.
        report: its last report.
        unfit: why it gets no task although it answers, such as ``hot: 83 °C``; None where it is fit.
        set_aside_until: seconds since the epoch until which it gets no task, because it lost several in a row.
        draining: it gets no new task, because an operator drained it or because it leaves.
        registered: it registered by itself and is in no inventory.
    """

    address: WorkerAddress
    state: WorkerState = WorkerState.IDLE
    current_task: str | None = None
    last_seen: float | None = None
    error: str | None = None
    report: WorkerReport | None = None
    unfit: str | None = None
    set_aside_until: float | None = None
    draining: bool = False
    registered: bool = False

    def to_json(self) -> JsonObject:
        report = self.report or WorkerReport()
        return {
            "id": self.address.worker_id,
            "ip": self.address.host,
            "port": self.address.port,
            "status": self.state.value,
            "current_task": self.current_task,
            "last_seen": self.last_seen,
            "error": self.error,
            "resting": self.unfit,
            "set_aside_until": self.set_aside_until,
            "draining": self.draining,
            "registered": self.registered,
            "version": report.version,
            "skills": None if report.skills is None else sorted(report.skills),
            "sandbox": report.sandbox,
            "memory_available_bytes": report.host.memory_available,
            "temperature_celsius": report.host.temperature,
            "load_1m": report.host.load_1m,
            "throttled": list(report.host.throttled or ()),
        }


class NoWorkerKind(Enum):
    """Why a step has no worker yet."""

    NONE_KNOWN = "none_known"
    """The fleet has no worker."""

    NO_SKILL = "no_skill"
    """Every worker has reported its skills, and none has all that the step needs."""

    ALL_BUSY = "all_busy"
    """Every worker runs a task; the step waits for its turn."""

    NEXT = "next"
    """A worker is free and gets the step next."""

    UNAVAILABLE = "unavailable"
    """Each worker has a reason of its own."""

    MODEL_AWAY = "model_away"
    """The model's provider is away; the step waits for it, whatever workers there are."""

    MODEL_RESTS = "model_rests"
    """The model's provider asked to be left alone until a named time; the step waits for that."""


@dataclass(frozen=True)
class NoWorkerReason:
    """Why no worker takes a step now.

    Args:
        kind: for programs.
        detail: for people.
    """

    kind: NoWorkerKind
    detail: str

    def __str__(self) -> str:
        return self.detail
