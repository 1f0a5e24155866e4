"""The form of the table's entries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from pibot.rehearsal import calls
from pibot.rehearsal.outcome import Outcome, Situation

ANY_FILE = "*"


@dataclass(frozen=True)
class Way:
    """One way to do a part, with one tool of one skill."""

    skill: str
    tool: str
    arguments: Callable[[Situation], Mapping[str, Any]]
    outcome: Callable[[Situation, str], Outcome]


@dataclass(frozen=True)
class Rule:
    """One kind of part.

    Args:
        name: for the plan's reasoning.
        example: what to type, for who reads what the model knows.
        pattern: matches the whole of a part's text, whatever its case.
        ways: the first whose tool is offered is taken.
        answer: what it is answered with where it needs no tool.
        needs_earlier: it is about the results of all the earlier parts.
        writes: it leaves the file in its group ``file`` behind.
        looks_around: it may read any file, as a listing does.
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
    """The rule that a part's text fits, and what its pattern found."""

    rule: Rule
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> frozenset[str]:
        """The files of the workspace that the part is about."""
        if self.rule.looks_around:
            return frozenset({ANY_FILE})
        named = {calls.unquoted(self.groups[name]) for name in ("file", "target") if name in self.groups}
        return frozenset(named or ({calls.TEST_FILE} if self.rule.writes else ()))
