"""Read what an assistant's message holds beyond the protocol: reasoning, signatures, fields that nobody knows here.

Providers want some of these back, so they are kept as they came, within bounds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pibot.contracts import JsonObject

MAX_EXTRA_BYTES = 128 * 1024
"""Bytes of further fields that one message, or one tool call, may carry back. A long reasoning has about 100 kB."""

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought", "reasoning_details")
"""Where providers put the reasoning: DeepSeek, Kimi and Ark; Ollama, vLLM and OpenRouter; others."""

# Of the protocol. OpenAI sends the last ones, and has no use for them in a request.
_OF_MESSAGE = frozenset(
    {"role", "content", "tool_calls", "tool_call_id", "function_call", "refusal", "audio", "annotations"}
)
_OF_CALL = frozenset({"id", "type", "function", "index"})
_OF_FUNCTION = frozenset({"name", "arguments"})


def message_extra(message: JsonObject) -> JsonObject:
    """Return the fields of a message that go back with it though this program does not read them.

    A content in parts is one of them where a part is no text, such as Mistral's ``thinking``.
    """
    extra = {name: value for name, value in message.items() if name not in _OF_MESSAGE and value is not None}
    content = message.get("content")
    if isinstance(content, list) and any(is_thinking(part) for part in content):
        extra["content"] = content
    return bounded(extra)


def call_extra(call: JsonObject) -> JsonObject:
    """Return the further fields of a tool call; those of its function under ``function``."""
    extra = {name: value for name, value in call.items() if name not in _OF_CALL and value is not None}
    function = call.get("function")
    if isinstance(function, dict):
        further = {name: value for name, value in function.items() if name not in _OF_FUNCTION and value is not None}
        if further:
            extra["function"] = further
    return bounded(extra)


def bounded(extra: JsonObject) -> JsonObject:
    """Return the fields that fit into :data:`MAX_EXTRA_BYTES`, the smallest first; a longer reasoning is cut."""
    room = MAX_EXTRA_BYTES
    sizes = {name: _size(name, value) for name, value in extra.items()}
    kept = {}
    for name in sorted(extra, key=sizes.__getitem__):
        value = extra[name]
        if sizes[name] > room and isinstance(value, str) and name in REASONING_FIELDS:
            value = value.encode("utf-8", "replace")[: max(0, room - len(name) - 100)].decode("utf-8", "ignore")
            sizes[name] = _size(name, value)
        if sizes[name] <= room:
            kept[name] = value
            room -= sizes[name]
    return {encodable(name): encodable(kept[name]) for name in extra if name in kept}


def reasoning_of(message: Mapping[str, Any]) -> str:
    """Return what the model thought, where the provider sends it apart from the answer."""
    for name in REASONING_FIELDS:
        found = _thought(message.get(name))
        if found.strip():
            return encodable_text(found)
    content = message.get("content")
    if isinstance(content, list):
        parts = (_thought(part.get("thinking") or part.get("text")) for part in content if is_thinking(part))
        return encodable_text("\n".join(part for part in parts if part))
    return ""


def _thought(value: Any) -> str:
    """Return the text of a reasoning, which may be text, a part or a list of parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return next(
            (found for name in ("text", "summary", "content", "thinking") if (found := _thought(value.get(name)))), ""
        )
    if isinstance(value, list):
        return "".join(map(_thought, value[:1000]))
    return ""


_THINKING = ("thinking", "reasoning", "redacted_thinking", "thought")
"""How the types of parts that are reasoning begin."""


def is_thinking(part: Any) -> bool:
    """Return whether a part of a content is reasoning and no text of the answer."""
    return isinstance(part, dict) and (part.get("thought") is True or str(part.get("type")).startswith(_THINKING))


def refusal_in(content: Any) -> str:
    """Return the refusal among a content's parts."""
    parts = content if isinstance(content, list) else []
    return "".join(part["refusal"] for part in parts if isinstance(part, dict) and isinstance(part.get("refusal"), str))


def calls_in(content: Any) -> list[JsonObject] | None:
    """Return the tool calls among a content's parts, as gateways to Anthropic's protocol leave them there."""
    parts = content if isinstance(content, list) else []
    found = [part for part in parts if isinstance(part, dict) and part.get("type") == "tool_use"]
    return [
        {"id": part.get("id"), "function": {"name": part.get("name"), "arguments": part.get("input")}} for part in found
    ] or None


def _size(name: str, value: Any) -> int:
    """Return the bytes that a field takes in a request; more than there is room for if it can't be written."""
    try:
        return len(json.dumps({name: value}, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return MAX_EXTRA_BYTES + 1


def encodable_text(text: str) -> str:
    """Return ``text`` with lone surrogates replaced, which cannot be sent."""
    return text if _is_utf8(text) else text.encode("utf-8", "replace").decode()


def encodable(value: Any) -> Any:
    """Return ``value`` with lone surrogates replaced, which cannot be sent. File names that are no UTF-8 have them."""
    if isinstance(value, str):
        return encodable_text(value)
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [encodable(item) for item in value]
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
