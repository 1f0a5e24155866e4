"""Shorten messages of a conversation: their head, their tail and their size stay, and so do their marks."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from pibot.contracts import Message, ToolCall

_FIRST_MARK = re.compile(r'<(\w+) id="(\w+)"[^>\n]*>\n')
_NOTE = re.compile(
    r"\n\[… \d+ of (\d{1,12}) characters were (?:left out|cut) here(?:; (\S+) holds the whole)?[^\n]*…\]\n"
)
"""The note of an earlier cut, by this module or by the toolbox."""

LEAST_GAIN = 200
"""Characters below which a cut is not worth the note that it needs."""


def shortened(text: str, limit: int, where: str | None = None) -> str:
    """Return a text of about ``limit`` characters: its head and its tail, with a note between them.

    Args:
        text: the text.
        limit: characters to keep.
        where: the file that holds the whole text, as a tool would name it; None where there is none.
    """
    if len(text) <= limit + LEAST_GAIN:
        return text
    cut = _NOTE.search(text)
    before, after, size = (
        (text, text, len(text)) if cut is None else (text[: cut.start()], text[cut.end() :], int(cut[1]))
    )
    if cut is not None and where is None:
        where = cut[2]
    before, after = before[: limit - limit // 4], after[-(limit // 4) :] if limit >= 4 else ""
    whole = f"; {where} holds the whole" if where else ""
    note = f"[… {size - len(before) - len(after)} of {size} characters were left out here{whole} …]"
    return f"{before}\n{note}\n{after}"


def body_of(content: str) -> tuple[str, str, str]:
    """Split a tool's message into its first mark, the tool's own text, and its last mark with what follows."""
    first = _FIRST_MARK.match(content)
    if first is None:
        return "", content, ""
    end = content.rfind(f'\n</{first[1]} id="{first[2]}">')
    if end < first.end() - 1:
        return "", content, ""
    return content[: first.end()], content[first.end() : end], content[end:]


def tool_of(message: Message) -> str:
    """Return the name of the tool whose output a message holds, from its first mark; ``tool`` where that has none."""
    named = re.match(r'<\w+ id="\w+" tool="([A-Za-z0-9_-]+)"', message.content)
    return named[1] if named else "tool"


def is_kept(message: Message) -> bool:
    """Return whether a file holds the whole of a tool's message that was cut before, as its note says."""
    cut = _NOTE.search(message.content)
    return cut is not None and cut[2] is not None


def shortened_output(message: Message, limit: int, where: str | None = None) -> Message:
    """Return a tool's message with its output shortened; the message itself where it is short enough."""
    first, body, last = body_of(message.content)
    short = shortened(body, limit, where)
    return message if short is body else replace(message, content=f"{first}{short}{last}")


def shortened_answer(message: Message, limit: int) -> Message:
    """Return an assistant's message with its text, and the long texts among its arguments, shortened.

    Its further fields stay: a provider that wants them back wants them whole.
    """
    text = shortened(message.content, limit)
    calls = tuple(_shortened_call(call, limit) for call in message.tool_calls)
    if text is message.content and all(new is old for new, old in zip(calls, message.tool_calls)):
        return message
    extra = message.extra if text is message.content else {k: v for k, v in message.extra.items() if k != "content"}
    return replace(message, content=text, tool_calls=calls, extra=extra)


def _shortened_call(call: ToolCall, limit: int) -> ToolCall:
    if len(call.raw_arguments) <= limit + LEAST_GAIN or call.arguments is None:
        return call
    arguments = _shortened_value(dict(call.arguments), limit)
    raw = json.dumps(arguments, ensure_ascii=False)
    return replace(call, arguments=arguments, raw_arguments=raw) if len(raw) < len(call.raw_arguments) else call


def _shortened_value(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        return shortened(value, limit)
    if isinstance(value, dict):
        return {name: _shortened_value(item, limit) for name, item in value.items()}
    if isinstance(value, list):
        kept = [_shortened_value(item, limit) for item in value[:20]]
        return kept if len(value) <= 20 else [*kept, f"… {len(value) - 20} more items were left out"]
    return value
