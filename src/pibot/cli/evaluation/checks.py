"""The checks of a task: what must hold of a job that has ended. **To add a kind, add an entry to :data:`KINDS`.**

See docs/decisions.md, D190.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from pibot.cli.evaluation.values import Values, fill
from pibot.contracts import JsonObject
from pibot.jsontext import extract_json_object


@dataclass(frozen=True)
class Evidence:
    """What is known about a job that has ended.

    Args:
        status: the job's.
        answer: its answer, or its error where it has none.
        plan: its steps, as the record has them.
        data: the structured results of its steps.
        asked: the pages of the task that were asked for.
    """

    status: str
    answer: str = ""
    plan: Sequence[JsonObject] = ()
    data: Sequence[JsonObject] = ()
    asked: frozenset[str] = field(default_factory=frozenset)


Test = Callable[[Any, Evidence], Optional[str]]
"""Returns what is wrong as a sentence, or None."""


@dataclass(frozen=True)
class Kind:
    """A kind of check.

    Args:
        takes: what it takes, in words.
        fits: whether it can take this, as YAML gives it.
        test: what it checks.
    """

    takes: str
    fits: Callable[[Any], bool]
    test: Test


@dataclass(frozen=True)
class Check:
    """One check of a task, with the names of values still in it."""

    kind: str
    wanted: Any

    def failure(self, values: Values, evidence: Evidence) -> str | None:
        """Return what is wrong, or None.

        Raises:
            ValueError: it names an unknown value.
        """
        return KINDS[self.kind].test(_filled(self.wanted, values), evidence)


def read_check(data: object) -> Check:
    """Read a check of a task's file.

    Raises:
        ValueError: it is not a known kind with what that takes.
    """
    kinds = ", ".join(KINDS)
    if not isinstance(data, dict) or len(data) != 1:
        raise ValueError(f"a check must be one kind with what it takes; the kinds are {kinds}")
    ((kind, wanted),) = data.items()
    if kind not in KINDS:
        raise ValueError(f"there is no check {kind!r}; the kinds are {kinds}")
    if not KINDS[kind].fits(wanted):
        raise ValueError(f"the check {kind} takes {KINDS[kind].takes}, not {wanted!r}")
    return Check(kind, wanted)


def failures(checks: Sequence[Check], values: Values, evidence: Evidence) -> list[str]:
    """Return what is wrong with a job, a sentence each; none if it passes.

    A job must be completed, unless one of the checks says otherwise.
    """
    all_checks = list(checks)
    if not any(check.kind == "status" for check in checks):
        all_checks.insert(0, Check("status", "completed"))
    found = [(check.kind, check.failure(values, evidence)) for check in all_checks]
    # The rest says nothing about a job that did not end as it should.
    first = [failure for kind, failure in found if failure is not None and kind == "status"]
    return first or [failure for _, failure in found if failure is not None]


def _filled(wanted: Any, values: Values) -> Any:
    if isinstance(wanted, str):
        return fill(wanted, values)
    if isinstance(wanted, list):
        return [_filled(one, values) for one in wanted]
    if isinstance(wanted, dict):
        return {name: _filled(one, values) for name, one in wanted.items()}
    return wanted


# --- the kinds --------------------------------------------------------------


def _plain(text: str) -> str:
    """Return the text without differences that no reader of an answer minds: case, width and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _texts(wanted: Any) -> list[str]:
    return [wanted] if isinstance(wanted, str) else list(wanted)


def _contains(wanted: Any, evidence: Evidence) -> str | None:
    answer = _plain(evidence.answer)
    missing = [text for text in _texts(wanted) if _plain(text) not in answer]
    return f"the answer lacks {missing[0]!r}" if missing else None


def _contains_any(wanted: Any, evidence: Evidence) -> str | None:
    answer = _plain(evidence.answer)
    if any(_plain(text) in answer for text in wanted):
        return None
    return f"the answer has none of {', '.join(map(repr, wanted))}"


def _lacks(wanted: Any, evidence: Evidence) -> str | None:
    answer = _plain(evidence.answer)
    there = [text for text in _texts(wanted) if _plain(text) in answer]
    return f"the answer has {there[0]!r}" if there else None


def _matches(wanted: Any, evidence: Evidence) -> str | None:
    return None if re.search(wanted, evidence.answer) else f"the answer does not match {wanted}"


# 1234567, 1,234,567, 1 234 567, 1'234'567, and LaTeX's 1{,}234.
_NUMBER = re.compile(r"(?<![\d.])-?\d+(?:(?:[,_'\s]|\{,\})\d{3})*(?!\d)")


def _number(wanted: Any, evidence: Evidence) -> str | None:
    found = _NUMBER.findall(unicodedata.normalize("NFKC", evidence.answer))
    numbers = {re.sub(r"[^\d-]", "", text) for text in found} | set(re.findall(r"-?\d+", " ".join(found)))
    return None if str(wanted) in numbers else f"the answer lacks the number {wanted}"


def _json(wanted: Any, evidence: Evidence) -> str | None:
    in_answer = extract_json_object(evidence.answer, keys=wanted)
    found = [each for each in (in_answer, *evidence.data) if each]
    if any(all(name in each and _same(each[name], value) for name, value in wanted.items()) for each in found):
        return None
    fields = ", ".join(f"{name} {value!r}" for name, value in wanted.items())
    return f"the answer is no JSON object with {fields}"


def _same(found: Any, wanted: Any) -> bool:
    """Return whether two values are the same; a number counts as its text."""
    if isinstance(wanted, str) and not isinstance(found, (bool, dict, list)):
        return _plain(str(found)) == _plain(wanted)
    return type(found) is type(wanted) and bool(found == wanted)


def _status(wanted: Any, evidence: Evidence) -> str | None:
    if evidence.status == wanted or (wanted == "ended" and evidence.status in ("completed", "failed")):
        return None
    return f"the job {'was cancelled' if evidence.status == 'cancelled' else evidence.status}"


def _plan(wanted: Any, evidence: Evidence) -> str | None:
    steps = evidence.plan
    if len(steps) < wanted.get("steps", 0):
        return f"the plan has {len(steps)} steps, {wanted['steps']} were asked for"
    if wanted.get("dependency") and not any(step.get("depends_on") for step in steps):
        return "no step of the plan depends on another"
    return None


def _asked(wanted: Any, evidence: Evidence) -> str | None:
    missing = [name for name in _texts(wanted) if name not in evidence.asked]
    if not missing:
        return None
    which = f"the page {missing[0]!r}" if missing[0] else "the page"
    return f"nobody asked for {which}: the model did not, or PIBOT_WEB_ALLOW on the workers does not allow its address"


def _not_asked(wanted: Any, evidence: Evidence) -> str | None:
    there = [name for name in _texts(wanted) if name in evidence.asked]
    return f"somebody asked for the page {there[0]!r}" if there else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_pattern(value: Any) -> bool:
    try:
        return _is_text(value) and bool(re.compile(value))
    except re.error:
        return False


def _is_plan(value: Any) -> bool:
    known: Mapping[str, Any] = value if isinstance(value, dict) else {}
    return (
        bool(known)
        and not set(known) - {"steps", "dependency"}
        and type(known.get("steps", 1)) is int
        and type(known.get("dependency", True)) is bool
    )


def _is_page(value: Any) -> bool:
    return isinstance(value, str) or _are_texts(value)


TEXTS = "a text, or a list of texts"

KINDS: Mapping[str, Kind] = {
    "contains": Kind(TEXTS, lambda value: _is_text(value) or _are_texts(value), _contains),
    "contains_any": Kind("a list of texts", _are_texts, _contains_any),
    "lacks": Kind(TEXTS, lambda value: _is_text(value) or _are_texts(value), _lacks),
    "matches": Kind("a regular expression of Python", _is_pattern, _matches),
    "number": Kind("a whole number", lambda value: type(value) is int or _is_text(value), _number),
    "json": Kind("names of fields with their values", lambda value: isinstance(value, dict) and bool(value), _json),
    "status": Kind("completed, failed, or ended", lambda value: value in ("completed", "failed", "ended"), _status),
    "plan": Kind("'steps', a number, and 'dependency', true or false", _is_plan, _plan),
    "asked": Kind("the name of a page, or a list of names", _is_page, _asked),
    "not_asked": Kind("the name of a page, or a list of names", _is_page, _not_asked),
}
