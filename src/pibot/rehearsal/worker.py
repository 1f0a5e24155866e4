"""Plays a worker's model: calls the tools that the rules name, one after the other, then gives the final JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from pibot.rehearsal.conversation import Conversation
from pibot.rehearsal.earlier import separate
from pibot.rehearsal.outcome import WHO, Outcome, Situation
from pibot.rehearsal.parts import Part, split
from pibot.rehearsal.rule import Match, Way
from pibot.rehearsal.rules import examples

Named = tuple[str, Outcome]


@dataclass(frozen=True)
class Call:
    """The model asks for a tool."""

    tool: str
    arguments: Mapping[str, Any]


def play(conversation: Conversation) -> Union[Call, str]:
    """The next tool call, or the final text.

    Nothing is kept between requests: with each, the parts are gone through from the first, and the tools' answers in
    the conversation are used up on the way.
    """
    task, earlier = separate(conversation.task)
    given = list(conversation.answers)
    done: list[Named] = []
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
        return Outcome(False, "There are no earlier results in what was sent with this task.")
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
    """What is said of a part that no rule fits."""
    shown = text if len(text) <= 100 else f"{text[:100]}…"
    return Outcome(False, f"{WHO} It has no rule for: {shown!r}. It knows, for example: {examples()}.")


def _missing(match: Match, text: str) -> Outcome:
    skills = " or ".join(dict.fromkeys(way.skill for way in match.rule.ways))
    return Outcome(False, f"{text!r} takes the skill {skills}, which this task was not given.")


def _joined(done: Sequence[Named], wanted: int) -> Outcome:
    """One outcome of all the parts' outcomes; the last is a failure, or all succeeded."""
    if wanted == 1:
        return done[0][1]
    lines = [f"{name}: {outcome.output}" for name, outcome in done]
    if len(done) < wanted:
        lines.append(f"Not done after this failure: {wanted - len(done)} more.")
    data: dict[str, Any] = {"parts": [{"part": n, "success": o.success, "data": dict(o.data)} for n, o in done]}
    if "value" in done[-1][1].data:
        data["value"] = done[-1][1].data["value"]
    return Outcome(done[-1][1].success, "\n".join(lines), data)


def _wants_json(conversation: Conversation) -> bool:
    """Whether this is a worker's conversation, by its tools or by the answer's form in ``worker_soul.md``."""
    return bool(conversation.tools) or '"success"' in conversation.system


def _json(outcome: Outcome) -> str:
    return json.dumps(
        {"success": outcome.success, "data": dict(outcome.data), "output": outcome.output}, ensure_ascii=False
    )
