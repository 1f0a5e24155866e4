"""The input and the output of a rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODEL_NAME = "pibot-rehearsal-not-an-ai"

WHO = "This is the rehearsal model: it follows fixed rules and understands nothing. Set VOLC_API_KEY for a real model."


@dataclass(frozen=True)
class Outcome:
    """The result of one part of a task.

    Args:
        success: whether it was done.
        output: for people.
        data: the structured result; ``value`` is a number that later parts can add up.
    """

    success: bool
    output: str
    data: Mapping[str, Any] = field(default_factory=dict)


NamedOutcome = tuple[str, Outcome]


@dataclass(frozen=True)
class Situation:
    """Everything that a rule may use.

    Args:
        groups: the named groups of the rule's pattern that matched.
        earlier: the outcomes of earlier parts and steps, by name.
        before: the text of every message before the task.
    """

    groups: Mapping[str, str] = field(default_factory=dict)
    earlier: tuple[NamedOutcome, ...] = ()
    before: tuple[str, ...] = ()


def first_line(text: str, limit: int = 160) -> str:
    """Return the first line that is not blank, cut to ``limit`` characters, and how many lines follow."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    line = lines[0] if len(lines[0]) <= limit else f"{lines[0][:limit]}…"
    return line if len(lines) == 1 else f"{line} (+{len(lines) - 1} lines)"


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object; empty if ``text`` is anything else."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
