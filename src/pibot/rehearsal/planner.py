"""Play the model of the master's planner: plan a job's parts as steps, and sum up the results of the steps."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from pibot.rehearsal.conversation import Conversation
from pibot.rehearsal.outcome import Situation, first_line, json_object
from pibot.rehearsal.parts import Part, split
from pibot.rehearsal.rule import ANY_FILE
from pibot.rehearsal.rules import RULES, trimmed

PLAN_MARKER = "PIBOT-PLAN/1"
"""In the system message of a request for a plan."""

SUMMARY_MARKER = "PIBOT-SUMMARY/1"
"""In the system message of a request for a summary."""

DEFAULT_STEPS = 12
"""Steps that a plan may have, unless the prompt says another number."""


def plan(conversation: Conversation) -> str:
    """Return the plan's JSON for the job, which is the first user message."""
    parts = split(conversation.first.strip())
    if len(parts) == 1 and parts[0].match is not None and parts[0].match.rule.answer is not None:
        outcome = parts[0].match.rule.answer(Situation(parts[0].match.groups, (), ()))
        if outcome.success:
            return _json("simple", True, parts, outcome.output, [])
    steps = _one_workspace(parts)
    if len(steps) > _most(conversation.system):
        steps = [_Step(tuple(parts), ())]  # one worker does all parts
    known = skills_in(conversation.system)
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


def skills_in(system: str) -> frozenset[str]:
    """Return the skills that the rules can use and the prompt names; all usable ones if it names none."""
    usable = {way.skill for rule in RULES for way in rule.ways}
    return frozenset(skill for skill in usable if re.search(rf"\b{skill}\b", system)) or frozenset(usable)


def _most(system: str) -> int:
    """Return how many steps the prompt allows."""
    match = re.search(r"at most (\d{1,4}) subtasks", system, re.IGNORECASE)
    return int(match.group(1)) if match else DEFAULT_STEPS


@dataclass(frozen=True)
class _Step:
    """One step: one part, or several parts that share a file, since workers share no files."""

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
    """Make steps of the parts. Parts about the same file go into the step that writes it."""
    steps: list[_Step] = []
    place: dict[int, int] = {}  # by the part's index, the index of its step
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
    """Return the step that writes a file of ``part``, unless joining it would make that step wait for itself."""
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
    """Return the results as one text."""
    return summed_up(results_of(conversation))


def results_of(conversation: Conversation) -> list[dict[str, Any]]:
    """Return the results in the first user message, which holds them as a JSON object a line."""
    rows = conversation.first.rpartition("\nWhat its steps came to:\n")[2]
    return [row for row in map(json_object, rows.splitlines()) if "success" in row]


def summed_up(results: Sequence[dict[str, Any]]) -> str:
    """Return a line for each result."""
    if not results:
        return "There are no results."
    done = sum(1 for r in results if r.get("success") is True)
    lines = [f"{done} of {len(results)} steps succeeded:"]
    for r in results:
        text = first_line(str((r.get("output") if r.get("success") else r.get("error")) or r.get("output") or ""))
        mark = "✓" if r.get("success") else "✗"
        lines.append(f"{mark} {r.get('description') or r.get('task_id')}: {text or 'no output'}")
    return "\n".join(lines)
