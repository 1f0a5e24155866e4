"""Workers as the master sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Callable, TypeVar

from pibot.contracts.basics import JsonObject

T = TypeVar("T")


class WorkerState(Enum):
    """What the pool knows of a worker. A worker not yet asked is presumed idle."""

    IDLE = "idle"
    BUSY = "busy"
    OFFLINE = "offline"


@dataclass(frozen=True)
class WorkerAddress:
    """Where a worker is. The id is how people and results name it."""

    worker_id: str
    host: str
    port: int = 5000
    scheme: str = "http"

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True)
class WorkerReport:
    """What a worker's ``GET /status`` says; None where it does not say it.

    Args:
        version: of PiBot.
        uptime: seconds since its process started.
        current_task: what it runs.
        skills: the names of those that it has.
        sandbox: ``bwrap`` or ``off``.
        memory_available: bytes that a new process could have.
        temperature: degrees Celsius of the processor.
        load_1m: the load average of the last minute.
        processors: how many it has.
        throttled: what holds it back at this moment, such as ``under-voltage``.
    """

    version: str | None = None
    uptime: float | None = None
    current_task: str | None = None
    skills: frozenset[str] | None = None
    sandbox: str | None = None
    memory_available: int | None = None
    temperature: float | None = None
    load_1m: float | None = None
    processors: int | None = None
    throttled: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> WorkerReport:
        """Read the body of ``GET /status``. What is missing or of another type counts as not said."""
        host = body.get("host")
        host = host if isinstance(host, dict) else {}
        return cls(
            version=_read(body, "version", _text),
            uptime=_read(body, "uptime_seconds", _number),
            current_task=_read(body, "current_task", _text),
            skills=_read(body, "skills", lambda value: frozenset(_texts(value))),
            sandbox=_read(body, "sandbox", _text),
            memory_available=_read(host, "memory_available_bytes", lambda value: int(_number(value))),
            temperature=_read(host, "temperature_celsius", _number),
            load_1m=_read(host, "load_1m", _number),
            processors=_read(host, "processors", lambda value: int(_number(value))),
            throttled=_read(host, "throttled", _texts) or (),
        )


def _read(body: Mapping[str, Any], name: str, convert: Callable[[Any], T]) -> T | None:
    try:
        return convert(body.get(name))
    except (TypeError, ValueError, OverflowError):
        return None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    return float(value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(_text(item) for item in value)


@dataclass(frozen=True)
class WorkerStatus:
    """What the pool knows of one worker at this moment.

    Args:
        address: where it is.
        state: idle, busy or offline.
        current_task: what it runs.
        last_seen: seconds since the epoch of its last answer; None where it never answered.
        error: why it counts as offline.
        report: what it said of itself last.
        resting: why it gets no task although it answers, such as ``hot: 83 °C``; None where it gets some.
        set_aside_until: seconds since the epoch; its tasks failed again and again, and it gets none before.
        draining: it gets no new task because somebody wants it so, or because it leaves.
        registered: it came by itself, and is in no inventory.
    """

    address: WorkerAddress
    state: WorkerState = WorkerState.IDLE
    current_task: str | None = None
    last_seen: float | None = None
    error: str | None = None
    report: WorkerReport | None = None
    resting: str | None = None
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
            "resting": self.resting,
            "set_aside_until": self.set_aside_until,
            "draining": self.draining,
            "registered": self.registered,
            "version": report.version,
            "skills": None if report.skills is None else sorted(report.skills),
            "sandbox": report.sandbox,
            "memory_available_bytes": report.memory_available,
            "temperature_celsius": report.temperature,
            "load_1m": report.load_1m,
            "throttled": list(report.throttled),
        }
