"""Estimate the tokens of a conversation, corrected by what the provider counted of earlier calls."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from pibot.contracts import Message, ToolSpec

ASCII_A_TOKEN = 3.5
"""Characters of ASCII a token: prose has 4 to 5, code and JSON 3, so this errs on the safe side."""

TOKENS_A_LETTER = 1.2
"""Tokens of a character outside ASCII: Chinese takes 0.6 to 1.3 by the model, an emoji 2."""

MOST_ASCII_A_TOKEN = 7.0
LEAST_TOKENS_A_LETTER = 0.4
"""The same for the fewest tokens that a text of some length can have."""

A_MESSAGE = 6
"""Tokens of a message besides its text: its role and its marks."""

LEAST_RATIO, MOST_RATIO = 0.3, 4.0
"""Bounds of the correction; a count outside them counts something else, such as a part of the prompt alone."""


def tokens_of(text: str) -> float:
    """Estimate the tokens of a text."""
    if text.isascii():
        return len(text) / ASCII_A_TOKEN
    plain = len(text.encode("ascii", "ignore"))
    return plain / ASCII_A_TOKEN + (len(text) - plain) * TOKENS_A_LETTER


def tokens_of_message(message: Message) -> float:
    """Estimate the tokens of a message, with its tool calls and its further fields."""
    tokens = A_MESSAGE + tokens_of(message.content)
    for call in message.tool_calls:
        tokens += A_MESSAGE + tokens_of(call.name) + tokens_of(call.raw_arguments) + _tokens_of_extra(call.extra)
    return tokens + _tokens_of_extra(message.extra)


def least_tokens_of_message(message: Message) -> float:
    """Return how many tokens a message has at least with any model, to notice a prompt that was cut."""
    text = message.content
    plain = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
    return plain / MOST_ASCII_A_TOKEN + (len(text) - plain) * LEAST_TOKENS_A_LETTER


def tokens_of_all(messages: Iterable[Message]) -> float:
    """Estimate the tokens of messages."""
    return sum(map(tokens_of_message, messages))


def tokens_of_tools(tools: Sequence[ToolSpec]) -> float:
    """Estimate the tokens of the tools' descriptions."""
    return sum(A_MESSAGE + tokens_of(json.dumps(tool.to_json(), ensure_ascii=False)) for tool in tools)


def _tokens_of_extra(extra: object) -> float:
    return tokens_of(json.dumps(extra, ensure_ascii=False, default=str)) if extra else 0.0
