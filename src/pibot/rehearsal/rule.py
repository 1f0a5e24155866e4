"""The types of the rules' table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from pibot.rehearsal import calls
from pibot.rehearsal.outcome import Outcome, Situation

ANY_FILE = "*"
"""Stands for any file of the workspace."""


@dataclass(frozen=True)
class Way:
    """One way to do a part of a task, with one tool.

    Args:
        skill: the tool's.
        tool: its name.
        arguments: makes the arguments of the call.
        outcome: makes the outcome of the tool's answer.
    """

    skill: str
    tool: str
    arguments: Callable[[Situation], Mapping[str, Any]]
    outcome: Callable[[Situation, str], Outcome]


@dataclass(frozen=True)
class Rule:
    """One kind of part.

    Args:
        name: appears in the plan's reasoning.
        example: a text that fits, shown to people.
        pattern: matches the whole text of a part, ignoring case.
        ways: to do it; the first one whose tool the request offers is used.
        answer: makes the outcome of a rule that needs no tool.
        needs_earlier: whether it uses the outcomes of all earlier parts.
        writes: whether it leaves the file of its group ``file`` behind.
        looks_around: whether it may read any file, as a listing does.
    """

    name: str
    example: str
    pattern: re.Pattern[str]
    ways: tuple[Way, ...] = ()
    answer: Optional[Callable[[Situation], Outcome]] = None
    needs_earlier: bool = False
    writes: bool = False
    looks_around: bool = False


@dataclass(frozen=True)
class Match:
    """A rule that a part's text fits, with the named groups of its pattern."""

    rule: Rule
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> frozenset[str]:
        """The files of the workspace that the part is about."""
        if self.rule.looks_around:
            return frozenset({ANY_FILE})
        named = {calls.unquoted(self.groups[name]) for name in ("file", "target") if name in self.groups}
        return frozenset(named or ({calls.TEST_FILE} if self.rule.writes else ()))
