"""What a rule is given, and what it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODEL_NAME = "pibot-rehearsal-not-an-ai"

WHO = "This is the rehearsal model: it follows fixed rules and understands nothing. Set VOLC_API_KEY for a real model."


@dataclass(frozen=True)
class Outcome:
    """What a part of a task came to.

    Args:
        success: it was done.
        output: for a person.
        data: the structured result; numbers that can be summed up are its ``value``.
    """

    success: bool
    output: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Situation:
    """What a rule can know when it acts.

    Args:
        groups: the pattern's named groups that took part.
        earlier: what the earlier parts came to, each with its name.
        before: the text of every message before the task.
    """

    groups: Mapping[str, str] = field(default_factory=dict)
    earlier: tuple[tuple[str, Outcome], ...] = ()
    before: tuple[str, ...] = ()


def first_line(text: str, limit: int = 160) -> str:
    """The first line that says something, cut to ``limit`` characters, with a mark where more was cut."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    line = lines[0] if len(lines[0]) <= limit else f"{lines[0][:limit]}…"
    return line if len(lines) == 1 else f"{line} (+{len(lines) - 1} lines)"
