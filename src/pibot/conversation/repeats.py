"""Notice tool calls that are made again and again with the same outcome."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pibot.contracts import ToolCall, ToolResult

POINTED_OUT = 3
"""How often the same call may have the same outcome until the model is told."""

ENDED = 5
"""How often the same call may have the same outcome until the task is ended."""

_DAYS = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
_MONTHS = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_ZONE = r"(?:Z|[+-]\d\d:?\d\d|[A-Z]{3,5})"
_TIMES = re.compile(
    r"\d{4}[-/.]\d\d?[-/.]\d\d?"  # 2026-11-28
    r"|\b20\d{6}[T_-]?\d{6}Z?\b"  # 20261128T090000Z
    r"|\d{4}年\d\d?月\d\d?日"
    rf"|\b(?:{_DAYS},? +)?(?:{_MONTHS} +\d\d?|\d\d? +{_MONTHS})(?:,? +\d{{4}})?\b"
    rf"|(?:\bT?|(?<=\dT))\d\d?:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?[AaPp][Mm]\b)?(?: ?{_ZONE}\b)?"
    r"|\bin \d+(?:\.\d+)? ?(?:ms|s|sec|seconds)\b"  # in 0.12s, as test runners end
    r"|(?<![\d.])1[5-9]\d{8}(?:\.\d+|\d{3}|\d{6}|\d{9})?(?![\d.])"  # seconds, ms, µs or ns since 1970, 2017 to 2033
)


# docs/decisions.md, D173
class Repeats:
    """Counts the tool calls of one task that bring nothing new.

    A call counts with its name, its arguments and its outcome, without the times of day and the dates in it. Calls
    count from the last answer of the model that brought anything new, so that a test that fails again after another
    change is no repeat, and neither is a question whose answer changes.
    """

    def __init__(self) -> None:
        self._counts: Counter[bytes] = Counter()
        self._seen: set[bytes] = set()

    def note(self, done: Iterable[tuple[ToolCall, ToolResult]]) -> dict[str, int]:
        """Note the tool calls of one answer of the model with their results.

        The same call twice in one answer counts once.

        Returns:
            How often each call was made with the same outcome, by the call's id.
        """
        keys = {call.call_id: _key(call, result) for call, result in done}
        if any(key not in self._seen for key in keys.values()):
            self._counts = Counter(dict.fromkeys(self._counts, 1))
        self._seen.update(keys.values())
        self._counts.update(set(keys.values()))
        return {call_id: self._counts[key] for call_id, key in keys.items()}


def hint(times: int) -> str:
    """Return what to tell the model of a call that was made ``times`` times with the same outcome; empty if nothing."""
    if not POINTED_OUT <= times < ENDED:
        return ""
    left = ENDED - times
    end = f"After {left} more the task ends." if left > 1 else "After one more the task ends."
    return (
        f"[You have made this call {times} times, with the same outcome. Do something else, or give your final answer. "
        f"{end}]"
    )


def end_of(name: str) -> str:
    """Return why a task ends whose model repeats a call of the tool ``name``."""
    return f"the model called {name} {ENDED} times with the same arguments and the same outcome"


def _key(call: ToolCall, result: ToolResult) -> bytes:
    arguments = call.raw_arguments if call.arguments is None else _plain(dict(call.arguments))
    outcome = _TIMES.sub("", result.content)
    written = json.dumps([call.name, arguments, call.problem, result.is_error, outcome], sort_keys=True, default=str)
    return hashlib.sha256(written.encode("utf-8", "replace")).digest()


def _plain(value: Any) -> Any:
    """Return the value without the blanks around its texts."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
