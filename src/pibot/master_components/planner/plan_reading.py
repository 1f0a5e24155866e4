"""Read the plan in a model's answer, in the forms in which models write it.

What can be read in one way only is read; for anything else a :class:`PlanError` says what is wrong, in words for the
model (docs/decisions.md, D140).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pibot.contracts import TaskComplexity, TaskPlan
from pibot.errors import PlanError
from pibot.llm_client.thinking import for_json, without_thinking
from pibot.master_components.planner import wording
from pibot.master_components.planner.loose_json import find_values
from pibot.master_components.planner.step_reading import NO_STEPS, EarlierSteps, is_step, read_steps

_MAX_WRAPPERS = 5
"""Objects and lists around a plan, such as ``{"tool_calls": [{"function": {"arguments": {…}}}]}``."""


@dataclass(frozen=True)
class _Candidate:
    """A value that may be the plan.

    Args:
        rank: 3 for a plan, 2 for a list of steps, 1 for a step or an answer alone, 0 for a plan without steps.
        steps: its steps, as the model wrote them.
        fields: the plan's other fields.
        example: the text before it calls it an example, or it holds places for words alone.
    """

    rank: int
    steps: Sequence[Any]
    fields: dict[str, Any]
    example: bool = False


def read_plan(text: str, skills: Sequence[str], max_steps: int, earlier: EarlierSteps = NO_STEPS) -> TaskPlan:
    """Read the plan in a model's answer.

    Args:
        skills: the skills that a step may name.
        max_steps: how many steps it may have.
        earlier: the steps of the job's earlier plans.

    Raises:
        PlanError: the plan is unusable; the message is written for the model.
    """
    plan = _choose(_candidates(text))
    fields = plan.fields
    reasoning = next((r for _, r in wording.given(fields, wording.REASONING) if isinstance(r, str)), "")
    if not plan.steps:
        if not _locally(fields):
            raise PlanError("there must be at least one subtask, or handle_locally true and an answer")
        answer = without_thinking(_answer(fields))
        if not answer.strip() or wording.is_place(answer, brackets=False):
            raise PlanError("handle_locally is true, so answer must hold the answer as text")
        return TaskPlan(_complexity(fields, 0), True, (), answer, without_thinking(reasoning))
    if len(plan.steps) > max_steps:
        raise PlanError(f"there are {len(plan.steps)} subtasks, {max_steps} are allowed")
    steps = read_steps(plan.steps, skills, earlier)
    return TaskPlan(_complexity(fields, len(steps)), False, steps, None, without_thinking(reasoning))


def _candidates(text: str) -> list[_Candidate]:
    """Return what may be the plan, in the order of the text.

    Raises:
        PlanError: there is no list and no object.
    """
    if text.lstrip()[:1] not in ("{", "[", '"'):  # else the marks may be the plan's own text
        text = for_json(text)
    found = find_values(_unquoted(text))
    if not found.values:
        raise PlanError("there is no JSON object in the answer")
    candidates, end = [], 0
    for value in found.values:
        candidate = _candidate(value.data)
        # After a value that broke off, only a whole plan is sure to be no part of it.
        if candidate is not None and (candidate.rank in (0, 3) or not found.broken):
            example = wording.is_example(text[end : value.start]) or _is_empty(candidate)
            candidates.append(replace(candidate, example=example))
        end = value.end
    return candidates


def _is_empty(candidate: _Candidate) -> bool:
    """Return whether a plan shows its form alone: all its steps, or its answer, are places such as ``...``."""
    if candidate.steps:
        texts = [wording.fields_of(step).get("description") for step in candidate.steps if isinstance(step, dict)]
        return bool(texts) and not any(map(wording.has_words, texts)) and all(isinstance(text, str) for text in texts)
    return candidate.rank > 0 and wording.is_place(_answer(candidate.fields), brackets=False)


def _unquoted(text: str) -> str:
    """Return the answer; what it says where the whole of it is one JSON text, or one within another."""
    for _ in range(_MAX_WRAPPERS):
        if text.strip()[:1] != '"':
            return text
        try:
            inner = json.loads(text.strip(), strict=False)
        except (ValueError, RecursionError):
            return text
        if not isinstance(inner, str):
            return text
        text = inner
    return text


def _candidate(data: object, wrappers: int = 0) -> _Candidate | None:
    if isinstance(data, list) and len(data) == 1 and not is_step(data[0]) and wrappers < _MAX_WRAPPERS:
        return _candidate(data[0], wrappers + 1)
    if isinstance(data, list):
        return _Candidate(2, data, {}) if data and all(map(is_step, data)) else None
    if not isinstance(data, dict):
        return None
    fields = wording.fields_of(data)
    steps = _steps_in(fields)
    if steps or (_locally(fields) and "handlelocally" in fields):
        return _Candidate(3, steps, fields)
    if is_step(data):
        return _Candidate(1, [data], {})
    if wrappers < _MAX_WRAPPERS:
        within = (_candidate(_parsed(value), wrappers + 1) for value in fields.values())
        plans = [found for found in within if found is not None and found.rank > 0]
        if len(plans) == 1:
            return plans[0]
    if any(name in fields for name in (*wording.LOCALLY, "subtasks", "steps")):
        return _Candidate(0, (), fields)
    return _Candidate(1, (), fields) if _locally(fields) else None


def _parsed(value: object) -> object:
    """Return a value, or what it says where it is a text that holds one list or object."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    found = find_values(value).values
    return found[0].data if len(found) == 1 else value


def _steps_in(fields: dict[str, Any]) -> list[Any]:
    """Return the steps of a plan's fields; empty if it has none.

    Raises:
        PlanError: two fields hold different steps, or the field of the schema holds no list.
    """
    lists = []
    for name, value in wording.given(fields, wording.STEPS):
        value = _parsed(value)
        if isinstance(value, dict):
            value = _steps_by_id(value)
        elif isinstance(value, str) and name == "subtasks" and value.strip().casefold() not in wording.NOTHING:
            raise PlanError("subtasks must be a list")
        if isinstance(value, list) and value and value not in lists:
            if name == "subtasks":
                return value
            lists.append(value)
    if len(lists) > 1:
        raise PlanError("two fields hold different lists of subtasks; write one list, in subtasks")
    return lists[0] if lists else []


def _steps_by_id(steps: dict[str, Any]) -> list[Any]:
    """Return the steps of an object that holds them by their ids, or that is one step."""
    if is_step(steps):
        return [steps]
    if steps and all(map(is_step, steps.values())):
        return [{**step, "task_id": key} for key, step in steps.items()]
    return []


def _locally(fields: dict[str, Any]) -> bool:
    """Return whether the plan is an answer. A plan that does not say so is one if it holds an answer alone."""
    said = next((wording.truth(value) for _, value in wording.given(fields, wording.LOCALLY)), None)
    if said is None and not any(name in fields for name in wording.LOCALLY):
        return _answer(fields).strip() != ""
    return said is True


def _answer(fields: dict[str, Any]) -> str:
    """Return the plan's own answer; one that is JSON as text."""
    answer = next((value for _, value in wording.given(fields, wording.ANSWER)), "")
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


def _choose(candidates: Sequence[_Candidate]) -> _Candidate:
    """Choose the plan: the last of the highest rank, since models think first and answer last.

    Raises:
        PlanError: there is none.
    """
    if not candidates:
        raise PlanError("the JSON in the answer is no plan: it needs handle_locally and subtasks")
    best = max(candidate.rank for candidate in candidates)
    same = [candidate for candidate in candidates if candidate.rank == best]
    meant = [candidate for candidate in same if not candidate.example] or same
    steps = [step for candidate in meant for step in candidate.steps]
    if best == 1 and len(steps) == len(meant) > 1:
        return _Candidate(2, steps, {})  # a step a line
    return meant[-1]


def _complexity(fields: dict[str, Any], steps: int) -> TaskComplexity:
    """Read the complexity. It is only shown, so an unknown word is no reason to refuse the plan."""
    for _, value in wording.given(fields, wording.COMPLEXITY):
        known = wording.COMPLEXITIES.get(str(value).strip().casefold())
        if known is not None:
            return known
    return TaskComplexity.SIMPLE if steps <= 1 else TaskComplexity.MODERATE
