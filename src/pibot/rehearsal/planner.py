"""Plays the planner's model: makes a plan of a job's parts, and one text of the steps' results."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from pibot.rehearsal.conversation import Conversation
from pibot.rehearsal.outcome import Situation, first_line
from pibot.rehearsal.parts import Part, split
from pibot.rehearsal.rule import ANY_FILE
from pibot.rehearsal.rules import RULES, trimmed

PLAN_MARKER = "PIBOT-PLAN/1"
SUMMARY_MARKER = "PIBOT-SUMMARY/1"

DEFAULT_SUBTASKS = 12


def plan(conversation: Conversation) -> str:
    """The plan's JSON for the job that is the first user's message."""
    parts = split(conversation.first.strip())
    if len(parts) == 1 and parts[0].match is not None and parts[0].match.rule.answer is not None:
        outcome = parts[0].match.rule.answer(Situation(parts[0].match.groups, (), ()))
        if outcome.success:
            return _json("simple", True, parts, outcome.output, [])
    steps = _one_workspace(parts)
    if len(steps) > _most(conversation.system):
        steps = [_Step(tuple(parts), ())]  # a worker goes through the parts by itself
    known = _skills(conversation.system)
    subtasks = [
        {
            "task_id": f"step-{number}",
            "description": step.text,
            "skills": step.skills(known),
            "depends_on": [f"step-{need + 1}" for need in step.needs],
        }
        for number, step in enumerate(steps, 1)
    ]
    complexity = "simple" if len(parts) == 1 else "moderate" if len(parts) <= 3 else "complex"
    return _json(complexity, False, parts, None, subtasks)


def _json(
    complexity: str, locally: bool, parts: Sequence[Part], answer: Optional[str], subtasks: list[dict[str, Any]]
) -> str:
    rules = ", ".join(part.match.rule.name if part.match else "none" for part in parts)
    return json.dumps(
        {
            "complexity": complexity,
            "handle_locally": locally,
            "reasoning": f"Planned by the rehearsal's fixed rules, by part: {rules}.",
            "answer": answer,
            "subtasks": subtasks,
        },
        ensure_ascii=False,
    )


def _skills(system: str) -> frozenset[str]:
    """The skills that the prompt names, of those that the rules can use; all of these where it names none."""
    usable = {way.skill for rule in RULES for way in rule.ways}
    return frozenset(skill for skill in usable if re.search(rf"\b{skill}\b", system)) or frozenset(usable)


def _most(system: str) -> int:
    """How many subtasks the prompt allows."""
    match = re.search(r"at most (\d{1,4}) subtasks", system, re.IGNORECASE)
    return int(match.group(1)) if match else DEFAULT_SUBTASKS


@dataclass(frozen=True)
class _Step:
    """What one worker is to do: one part, or several that share a file, for workers share none."""

    parts: tuple[Part, ...]
    needs: tuple[int, ...]

    @property
    def text(self) -> str:
        return ", then ".join(trimmed(part.text) for part in self.parts)

    def skills(self, known: frozenset[str]) -> list[str]:
        wanted = []
        for part in self.parts:
            ways = part.match.rule.ways if part.match else ()
            wanted += [next((way.skill for way in ways if way.skill in known), ways[0].skill)] if ways else []
        return list(dict.fromkeys(wanted))


def _one_workspace(parts: Sequence[Part]) -> list[_Step]:
    """Put parts about the same file into one step, behind the part that writes it."""
    steps: list[_Step] = []
    place: dict[int, int] = {}  # a part's step
    for number, part in enumerate(parts):
        needs = tuple(dict.fromkeys(place[need] for need in part.needs))
        home = _home(steps, part, needs)
        if home is None:
            place[number] = len(steps)
            steps.append(_Step((part,), needs))
        else:
            place[number] = home
            both = dict.fromkeys((*steps[home].needs, *(need for need in needs if need != home)))
            steps[home] = replace(steps[home], parts=(*steps[home].parts, part), needs=tuple(both))
    return steps


def _home(steps: Sequence[_Step], part: Part, needs: tuple[int, ...]) -> Optional[int]:
    """The step whose files ``part`` is about, unless it also waits for a step that waits for that one."""
    files = part.match.files if part.match else frozenset()
    for number in range(len(steps) - 1, -1, -1):
        written = {f for p in steps[number].parts if p.match and p.match.rule.writes for f in p.match.files}
        shared = files & written or (ANY_FILE in files and written and number in needs)
        if shared and not any(_waits_for(steps, need, number) for need in needs if need != number):
            return number
    return None


def _waits_for(steps: Sequence[_Step], one: int, other: int) -> bool:
    return any(need == other or _waits_for(steps, need, other) for need in steps[one].needs)


# --- the summary ------------------------------------------------------------


def summary(conversation: Conversation) -> str:
    """One text of the steps' results, which the user's message holds as a JSON object a line."""
    rows = conversation.first.rpartition("\nWhat its steps came to:\n")[2]
    results = [r for r in map(_result, rows.splitlines()) if r is not None]
    if not results:
        return "There are no results."
    done = sum(1 for r in results if r.get("success") is True)
    lines = [f"{done} of {len(results)} steps succeeded:"]
    for r in results:
        said = first_line(str((r.get("output") if r.get("success") else r.get("error")) or r.get("output") or ""))
        mark = "✓" if r.get("success") else "✗"
        lines.append(f"{mark} {r.get('description') or r.get('task_id')}: {said or 'no output'}")
    return "\n".join(lines)


def _result(line: str) -> Optional[dict[str, Any]]:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "success" in found else None
