"""Read a model's final answer: from the JSON object that it was asked for, or from plain text."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pibot.contracts import TaskState
from pibot.llm_client.final_objects import FINAL_KEYS, final_object

CUT_MARK = "\n[the model's answer ends here: it reached its length limit]"

MAX_LITERAL_CHARS = 20_000
"""The longest text that is read as an object in Python's notation, which some models take for JSON."""

_NO = frozenset({"false", "no", "0", "failed", "failure", "fail", "error", "unsuccessful", "否", "失败", "假"})
_NOTHING = frozenset({"", "none", "null", "n/a", "na", "no", "-", "undefined", "无", "no error", "no errors", "false"})


@dataclass(frozen=True)
class FinalAnswer:
    """What a model says its task came to.

    Args:
        state: completed or failed.
        output: text for people.
        data: the result for programs.
        error: why it failed.
    """

    state: TaskState
    output: str
    data: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def read_final(text: str, *, cut: bool = False) -> FinalAnswer:
    """Read a final answer.

    Args:
        text: without the model's reasoning.
        cut: whether it ends at the length limit.
    """
    found = final_object(text) or _literal(text)
    if found is None:
        return FinalAnswer(TaskState.COMPLETED, text.strip() + (CUT_MARK if cut else ""))
    raw = found.get("data")
    data = raw if isinstance(raw, dict) else {} if raw is None else {"value": raw}
    output = _text(found.get("output", data.get("output")))
    if succeeded(found):
        return FinalAnswer(TaskState.COMPLETED, output or _text(raw), data)
    error = _text(found.get("error")) or _text(data.get("error")) or output or "the agent reports a failure"
    return FinalAnswer(TaskState.FAILED, output, data, error)


def succeeded(found: Mapping[str, Any]) -> bool:
    """Return whether a final object reports a success, in whatever form it writes yes and no.

    An object that does not say either is a failure if it names an error.
    """
    said = found.get("success")
    if isinstance(said, str):
        word = said.strip().strip(".!").lower()
        if word in _NO:
            return False
        said = None if word in _NOTHING else True
    if said is not None:
        return bool(said)
    status = found.get("status")
    if isinstance(status, str) and status.strip().lower() in _NO:
        return False
    error = found.get("error") or found.get("errors")
    if not error and "success" in found and isinstance(found.get("data"), dict):
        error = found["data"].get("error")
    return not error or (isinstance(error, str) and error.strip().lower() in _NOTHING)


def _literal(text: str) -> dict[str, Any] | None:
    """Read ``{'success': False, …}``; None where a text is no such object."""
    stripped = text.strip().strip("`").removeprefix("python").removeprefix("json").strip()
    if not stripped.startswith("{") or not stripped.endswith("}") or len(stripped) > MAX_LITERAL_CHARS:
        return None
    try:
        found = ast.literal_eval(stripped)
        json.dumps(found)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    return found if isinstance(found, dict) and FINAL_KEYS & found.keys() else None


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
