"""The body of an answer that is not a success."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pibot.contracts.basics import JsonObject
from pibot.contracts.reading import label, lenient, shortened

MAX_ERROR_CHARS = 2000
"""Characters of a refusal's sentence that are read."""

MAX_SKILLS = 256

_BUSY = "busy"


@dataclass(frozen=True)
class Refusal:
    """Why the hub or a worker refused a request: a sentence for people, and what a program may need.

    Args:
        error: what is wrong and what to do; empty where an answer gives no reason.
        field: the request's field that is invalid.
        skills: the skills that exist, where the request named another.
        busy: the worker runs another task.
        current_task: that task.
    """

    error: str
    field: str | None = None
    skills: tuple[str, ...] | None = None
    busy: bool = False
    current_task: str | None = None

    def to_json(self) -> JsonObject:
        body: JsonObject = {"success": False, "error": self.error}
        if self.field is not None:
            body["field"] = self.field
        if self.skills is not None:
            body["skills"] = list(self.skills)
        if self.busy:
            body.update(status=_BUSY, current_task=self.current_task)
        return body

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Refusal:
        """Read the body leniently: whatever answered may be no PiBot."""
        error, skills = body.get("error"), body.get("skills")
        names = [name for name in skills[:MAX_SKILLS] if isinstance(name, str)] if isinstance(skills, list) else None
        return cls(
            error=shortened(error, MAX_ERROR_CHARS) if isinstance(error, str) else "",
            field=lenient(body, "field", label),
            skills=None if names is None else tuple(shortened(name, 100) for name in names),
            busy=body.get("status") == _BUSY,
            current_task=lenient(body, "current_task", label),
        )
