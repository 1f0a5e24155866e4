"""Find the tool calls that a model wrote as text, where its server did not read them.

Whether a text that holds one is a call, or speaks of calls, is for :mod:`pibot.llm_client.answers` to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pibot.llm_client.call_forms import (
    DECODER,
    FORMS,
    MAX_CALLS,
    NAME,
    TAGS,
    WrittenCall,
    calls_in_json,
    end_of_json,
    mistral,
    python_calls,
    python_literal,
    react,
    tag_body,
)


@dataclass(frozen=True)
class Markup:
    """The markup of tool calls within a text.

    Args:
        start, end: where it is.
        inner: where its opening tag ends.
        calls: what it says; empty where it can't be read.
        certain: whether it can be nothing but the markup of calls, as tags can, and JSON or a line can't.
    """

    start: int
    end: int
    calls: tuple[WrittenCall, ...]
    certain: bool = True
    inner: int = 0


_ANY_TAG = re.compile("|".join(f"(?:{re.sub(r'[(](?![?])', '(?:', opener)})" for opener, _, _ in TAGS), re.IGNORECASE)

_REACT = re.compile(
    rf"^[ \t]*(?:\*\*)?Action:?(?:\*\*)?:?[ \t]*`?{NAME}`?(?:\(\))?[ \t]*\n\s*(?:\*\*)?Action[ _]Input",
    re.MULTILINE | re.I,
)
_THOUGHT = re.compile(r"^[ \t]*(?:\*\*)?(?:Thought|Question)(?:\*\*)?:", re.MULTILINE)
_FENCE = re.compile(
    r"```[ \t]*(?:json|tool_code|tool_call|tool|xml|python)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE
)


def find_markup(text: str, start: int = 0) -> Markup | None:
    """Return the first markup of tool calls in a text, in the forms with tags of their own.

    Args:
        text: what the model wrote, without its reasoning.
        start: where the search begins.
    """
    opened = _ANY_TAG.search(text, start)
    if opened is None:
        return None
    for opener, closer, reader in FORMS:
        form = opener.match(text, opened.start())
        if form is None:
            continue
        tag = re.escape(form[1]) if form.re.groups else ""
        closed = re.compile(closer.replace("{0}", tag), re.IGNORECASE).search(text, end_of_json(text, form.end()))
        end = closed.end() if closed else len(text)
        whole = text[opened.start() : end]
        inner = text[form.end() : closed.start() if closed else end]
        calls = tuple(reader(inner if reader in (tag_body, mistral) else whole))[:MAX_CALLS]
        return Markup(opened.start(), end, calls, inner=form.end())
    return None  # pragma: no cover - the search found one of the forms


def find_bare_call(text: str) -> Markup | None:
    """Return the call that a text is as a whole, or ends with, in a form that has no tags of its own.

    These are a JSON object or list, in a code fence or not, ``Action:`` with ``Action Input:``, and ``name(…)``.
    """
    action = _REACT.search(text)
    if action is not None:
        begin = _THOUGHT.search(text)
        start = action.start() if begin is None else min(begin.start(), action.start())
        return Markup(start, len(text), tuple(react(text[action.start() :])), certain=False)
    stripped = text.strip()
    start = text.find(stripped)
    fence = _FENCE.fullmatch(stripped)
    body = fence[1].strip() if fence else stripped
    calls = _whole_json_calls(body.removeprefix("functools")) or tuple(python_calls(body))
    calls = calls or tuple(calls_in_json(python_literal(body), bare=True))
    if calls:
        return Markup(start, len(text), calls, certain=False)
    last = re.search(r"\n[ \t]*(?=[{\[])[^\n]*\Z", stripped) or re.search(r"\n[ \t]*\{\s*\n.*\Z", stripped, re.DOTALL)
    if last is not None and not fence:
        calls = _whole_json_calls(stripped[last.start() :].strip())
        if calls:
            return Markup(start + last.start() + 1, len(text), calls, certain=False)
    fences = list(_FENCE.finditer(stripped))
    if fences and fences[-1].end() == len(stripped):
        calls = _whole_json_calls(fences[-1][1].strip())
        if not calls and "tool_c" in fences[-1][0].partition("\n")[0]:
            calls = tuple(python_calls(fences[-1][1]))
        return Markup(start + fences[-1].start(), len(text), calls, certain=False) if calls else None
    return None


def _whole_json_calls(body: str) -> tuple[WrittenCall, ...]:
    """Read a text that is one JSON value, or several on lines of their own, each of them a call."""
    calls: list[WrittenCall] = []
    place = 0
    while place < len(body):
        try:
            value, place = DECODER.raw_decode(body, place)
        except (ValueError, RecursionError):
            return ()
        found = list(calls_in_json(value, bare=True))
        if not found or len(calls) > MAX_CALLS:
            return ()
        calls += found
        place += len(re.compile(r"[\s,;]*").match(body, place)[0])  # type: ignore[index]  # it always matches
    return tuple(calls)
