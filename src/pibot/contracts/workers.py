"""Workers as the master sees them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pibot.contracts.basics import JsonObject


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
