"""Play the planner's model after a failure: do a failed step in another way, if the rules know one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Optional

from pibot.rehearsal.conversation import Conversation
from pibot.rehearsal.planner import results_of, skills_in, summed_up
from pibot.rehearsal.rules import find_rule

REPLAN_MARKER = "PIBOT-REPLAN/1"
"""In the system message of a request for what to do instead."""

NO_OTHER_WAY = "The rehearsal's fixed rules know no other way."


def replan(conversation: Conversation) -> str:
    """Return the JSON of the further steps: the failed ones with another skill, and those that need them."""
    rows = results_of(conversation)
    done = {row.get("description") for row in rows if row.get("success") is True}
    # A step that was tried again stands in the rows twice; its last try counts.
    failed = {row["description"]: row for row in rows if row.get("description") and row["description"] not in done}
    lost = {row.get("task_id") for row in failed.values()}
    known = skills_in(conversation.system)
    steps = []
    for text, row in failed.items():
        skills = row.get("skills", [])
        if not lost.intersection(row.get("depends_on", [])):
            other = _other_skill(text, rows, known)
            if other is None:
                return _json(f"{NO_OTHER_WAY}\n{summed_up(rows)}", [])
            skills = [other]
        steps.append(
            {
                "task_id": row.get("task_id"),
                "description": text,
                "skills": skills,
                "depends_on": row.get("depends_on", []),
            }
        )
    return _json(None, steps) if steps else _json(summed_up(rows), [])


def _other_skill(text: str, rows: Sequence[dict[str, Any]], known: frozenset[str]) -> Optional[str]:
    """Return a skill with which this was not tried yet; None if there is none."""
    match = find_rule(text)
    tried = {skill for row in rows if row.get("description") == text for skill in row.get("skills", [])}
    ways = match.rule.ways if match else ()
    return next((way.skill for way in ways if way.skill in known and way.skill not in tried), None)


def _json(answer: Optional[str], steps: Sequence[dict[str, Any]]) -> str:
    return json.dumps(
        {
            "complexity": "moderate",
            "handle_locally": answer is not None,
            "reasoning": NO_OTHER_WAY if answer is not None else "The rehearsal's fixed rules know another way.",
            "answer": answer,
            "subtasks": list(steps),
        },
        ensure_ascii=False,
    )
