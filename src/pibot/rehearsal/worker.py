"""Play a worker's model: call the rules' tools one after the other, then give the final JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from pibot.rehearsal.conversation import Conversation
from pibot.rehearsal.earlier import separate
from pibot.rehearsal.outcome import WHO, NamedOutcome, Outcome, Situation
from pibot.rehearsal.parts import Part, split
from pibot.rehearsal.rule import Match, Way
from pibot.rehearsal.rules import examples


@dataclass(frozen=True)
class Call:
    """A tool call that the model asks for."""

    tool: str
    arguments: Mapping[str, Any]


def play(conversation: Conversation) -> Union[Call, str]:
    """Return the next tool call, or the final text.

    Keeps no state between requests: each time it starts at the first part, and consumes the tools' answers of the
    conversation on its way to the first part without one.
    """
    task, earlier = separate(conversation.task)
    given = list(conversation.answers)
    done: list[NamedOutcome] = []
    before = list(conversation.before)
    parts = split(task)
    for part in parts:
        situation = Situation(part.match.groups if part.match else {}, (*earlier, *done), tuple(before))
        outcome = _outcome(part, situation, conversation.tools, given)
        if isinstance(outcome, Call):
            return outcome
        done.append((part.text, outcome))
        before.append(part.text)
        if not outcome.success:
            break
    final = _joined(done, len(parts))
    return _json(final) if _wants_json(conversation) else final.output


def _outcome(part: Part, situation: Situation, tools: frozenset[str], given: list[str]) -> Union[Call, Outcome]:
    if part.match is None:
        return unknown(part.text)
    rule = part.match.rule
    if rule.answer is not None:
        return rule.answer(situation)
    if rule.needs_earlier and not situation.earlier:
        return Outcome(False, "This task came without the earlier results that it is about.")
    way = next((way for way in rule.ways if way.tool in tools), None)
    if way is None:
        return _missing(part.match, part.text)
    if not given:
        return Call(way.tool, way.arguments(situation))
    return _from_answer(way, situation, given.pop(0))


def _from_answer(way: Way, situation: Situation, answer: str) -> Outcome:
    if answer.startswith("ERROR: "):
        return Outcome(False, f"{way.tool}: {answer[len('ERROR: ') :]}")
    return way.outcome(situation, answer)


def unknown(text: str) -> Outcome:
    """Return the outcome of a part that no rule fits."""
    shown = text if len(text) <= 100 else f"{text[:100]}…"
    return Outcome(False, f"{WHO} It has no rule for: {shown!r}. It knows, for example: {examples()}.")


def _missing(match: Match, text: str) -> Outcome:
    skills = " or ".join(dict.fromkeys(way.skill for way in match.rule.ways))
    return Outcome(False, f"{text!r} needs the skill {skills}, which this task does not have.")


def _joined(done: Sequence[NamedOutcome], wanted: int) -> Outcome:
    """Join the parts' outcomes into one. Only the last one may be a failure."""
    if wanted == 1:
        return done[0][1]
    lines = [f"{name}: {outcome.output}" for name, outcome in done]
    if len(done) < wanted:
        lines.append(f"Parts not tried after this failure: {wanted - len(done)}.")
    data: dict[str, Any] = {"parts": [{"part": n, "success": o.success, "data": dict(o.data)} for n, o in done]}
    if "value" in done[-1][1].data:
        data["value"] = done[-1][1].data["value"]
    return Outcome(done[-1][1].success, "\n".join(lines), data)


def _wants_json(conversation: Conversation) -> bool:
    """Return whether the caller is a worker: it offers tools, or its ``worker_soul.md`` asks for this JSON."""
    return bool(conversation.tools) or '"success"' in conversation.system


def _json(outcome: Outcome) -> str:
    return json.dumps(
        {"success": outcome.success, "data": dict(outcome.data), "output": outcome.output}, ensure_ascii=False
    )
