"""Tell whether a tool call in writing comes from what a tool gave, such as a page, and not from the model itself.

A model that repeats a page may change its quotes, its line breaks or the tags around a call. So the call is looked for
by its tool's name and its arguments, close to each other, and not by its text.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence

from pibot.llm_client.call_forms import WrittenCall

NEAR_CHARS = 300
"""Characters between a tool's name and the arguments of one call."""

SHORTEST = 6
"""Letters of the shortest arguments that are looked for without regard to the signs between them."""

_HEADER = re.compile(r"<tool_output id=[^<>]*>")
"""It names the tool that ran."""


def is_injected(call: WrittenCall, given: Sequence[str]) -> bool:
    """Return whether a tool gave this call.

    Args:
        call: with its tool's own name.
        given: what the tools gave.
    """
    if not isinstance(call.arguments, dict) or not call.arguments:
        return False
    values = [value if isinstance(value, str) else json.dumps(value) for value in call.arguments.values()]
    plain = [html.unescape(_HEADER.sub("", text)) for text in given]
    if sum(len(_letters(value)) for value in values) >= SHORTEST:
        return any(_near(_letters(text), _letters(call.name), list(map(_letters, values))) for text in plain)
    return any(_near(text, call.name, values) for text in plain)


def _near(text: str, name: str, values: Sequence[str]) -> bool:
    """Return whether all values stand near one place of the name."""
    reach = NEAR_CHARS + sum(map(len, values))
    for found in re.finditer(re.escape(name), text):
        part = text[max(0, found.start() - reach) : found.end() + reach]
        if all(value in part for value in values):
            return True
    return False


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).lower()
