"""Read whole answers that name one of the task's tools in a form that nobody documents.

Only an answer that holds nothing else is looked at, and only with the tools at hand: their names are what makes such a
text a call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pibot.contracts import ToolSpec, bounded_int
from pibot.llm_client.call_forms import NAME, WrittenCall
from pibot.llm_client.tool_names import resolve

MAX_CHARS = 4000

_WORDS = r"(?:(?:tool[ _]?call|tool|function|call|action|functioncall|recipient|to|name)\W{1,6}){0,2}"
_BETWEEN = (
    r"(?:\b(?:json|code)\b\W{0,6}?)?"
    r"(?:(?:with\s+)?(?:arguments?|args|action[ _]input|input|parameters|params|content)\W{1,6}?)?"
)
_NAMED = re.compile(
    rf"\W{{0,12}}(?:commentary\W{{1,3}}(?=to=))?{_WORDS}({NAME})\W{{0,12}}?{_BETWEEN}"
    r"(\{.*\}|\[[^\]\n]*\]|\([^)\n]*\))[^\w{}]*(?:RESULT\W*)?",
    re.DOTALL | re.IGNORECASE,
)
_ACTION_ALONE = re.compile(rf"(?:Thought:[^\n]*\n\s*)?Action:\s*`?({NAME}?)`?(?:\(\))?", re.IGNORECASE)
_ELEMENT = re.compile(
    rf"<\s*([\w:-]+)[^<>]*\bname\s*=\s*[\"']({NAME})[\"']|<\s*(?:tool_name|name|action|tool|function)\s*>\s*({NAME})\s*<|"
    r"<\s*([\w:-]+)\s*>"
)


def read_loose(text: str, tools: Mapping[str, ToolSpec]) -> WrittenCall | None:
    """Return the call that a whole answer is, or None.

    Its arguments are text where it is a call that can't be made safely.
    """
    stripped = text.strip()
    if len(stripped) > MAX_CHARS or not stripped:
        return None
    if stripped.startswith("{"):
        return _flat(stripped, tools)
    if stripped.startswith("<") and stripped.endswith(">"):
        for found in _ELEMENT.finditer(stripped):
            written = found[2] or found[3] or found[4]
            if written in tools:  # as it is: an element of HTML may be like a tool's name
                return WrittenCall(written, stripped)
    action = _ACTION_ALONE.fullmatch(stripped)
    if action is not None and action[1] in tools:
        return WrittenCall(action[1], stripped)
    named = _NAMED.fullmatch(stripped)
    name = resolve(named[1], tools) if named else None
    if named is None or name is None:
        return None
    body = named[2].strip().strip("()").strip()
    arguments = _object(body) if body.startswith("{") else None
    return WrittenCall(name, arguments if arguments is not None and _fits(arguments, tools[name]) else stripped)


def _flat(text: str, tools: Mapping[str, ToolSpec]) -> WrittenCall | None:
    """Read ``{"name": "x", "command": "ls"}`` and ``{"x": {"command": "ls"}}``."""
    value = _object(text)
    if value is None or len(value) > 20:
        return None
    if len(value) == 1:
        [(written, inner)] = value.items()
        name = resolve(written, tools)
        if name is not None and isinstance(inner, dict) and _fits(inner, tools[name]):
            return WrittenCall(name, inner)
    for key in ("name", "tool", "function", "action", "tool_name"):
        name = resolve(value[key], tools) if isinstance(value.get(key), str) else None
        if name is not None:
            rest = {other: item for other, item in value.items() if other not in (key, "type", "id")}
            return WrittenCall(name, rest) if rest and _fits(rest, tools[name]) else None
    return None


def _fits(arguments: Mapping[str, Any], tool: ToolSpec) -> bool:
    """Return whether the arguments have the names that the tool's have."""
    known = tool.parameters.get("properties") or {}
    return set(arguments) <= set(known) and set(tool.parameters.get("required") or ()) <= set(arguments)


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text, parse_int=bounded_int)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
