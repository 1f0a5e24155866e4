"""Remember which model wrote which message of a conversation, in the message itself.

A conversation may go to the fallback model and back. What one model sent beyond the protocol, such as its reasoning
and its signatures, goes back to that model alone: another would refuse it, or take it for its own. Callers send back
what they got, so the mark costs no memory here and outlives a restart. It is taken off before a provider sees it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pibot.contracts import JsonObject
from pibot.errors import LLMProtocolError
from pibot.llm_client.backend import HttpAnswer
from pibot.llm_client.configuration import Endpoint

# docs/decisions.md, D183
MARK = "pibot_origin"
"""The field of an assistant's message that names the model which wrote it."""

_OF_MESSAGE = frozenset({"role", "content", "tool_calls", "tool_call_id", "function_call", "name", "refusal", "audio"})
_OF_CALL = frozenset({"id", "type", "function", "index"})
_OF_FUNCTION = frozenset({"name", "arguments"})

_TAKEN_EVERYWHERE = re.compile(r"[A-Za-z0-9_-]{1,40}")


def origin_of(endpoint: Endpoint, model: str) -> str:
    """Return the name of a model for the mark: short, and without the provider's address in it."""
    return hashlib.sha256(f"{endpoint.base_url}\n{model}".encode()).hexdigest()[:12]


def for_model(body: JsonObject, origin: str, first: str) -> JsonObject:
    """Return a request as the model of ``origin`` may see it.

    Args:
        body: of the caller.
        origin: the model that is asked.
        first: the model that wrote the messages without a mark.
    """
    messages = body.get("messages")
    if not isinstance(messages, list):
        return body
    renamed: dict[str, str] = {}
    written = [_for_model(message, origin, first, renamed) for message in messages]
    return body if all(a is b for a, b in zip(written, messages)) else {**body, "messages": written}


def _for_model(message: Any, origin: str, first: str, renamed: dict[str, str]) -> Any:
    if not isinstance(message, dict):
        return message
    if message.get("role") == "tool" and isinstance(message.get("tool_call_id"), str):
        new_id = renamed.get(message["tool_call_id"])
        return message if new_id is None else {**message, "tool_call_id": new_id}
    if message.get("role") != "assistant":
        return message
    kept = {name: value for name, value in message.items() if name != MARK}
    if message.get(MARK, first) == origin:
        return kept if MARK in message else message
    kept = {name: value for name, value in kept.items() if name in _OF_MESSAGE}
    if isinstance(kept.get("content"), list):
        kept["content"] = _text(kept["content"])
    if isinstance(kept.get("tool_calls"), list):
        kept["tool_calls"] = [_foreign_call(call, renamed) for call in kept["tool_calls"]]
    return message if kept == message else kept


def _foreign_call(call: Any, renamed: dict[str, str]) -> Any:
    """Return a tool call without what only its own model understands, and with an id that every provider takes."""
    if not isinstance(call, dict):
        return call
    kept = {name: value for name, value in call.items() if name in _OF_CALL}
    if isinstance(kept.get("function"), dict):
        kept["function"] = {name: value for name, value in kept["function"].items() if name in _OF_FUNCTION}
    call_id = kept.get("id")
    if isinstance(call_id, str) and not _TAKEN_EVERYWHERE.fullmatch(call_id):
        renamed[call_id] = kept["id"] = f"call{hashlib.sha256(call_id.encode('utf-8', 'replace')).hexdigest()[:5]}"
    return kept


def _text(parts: list[Any]) -> str:
    texts = (part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part for part in parts)
    return "".join(part for part in texts if isinstance(part, str))


def marked(answer: HttpAnswer, origin: str) -> HttpAnswer:
    """Return an answer with the mark on its messages, where another model could stumble over them."""
    try:
        data = answer.data
    except LLMProtocolError:
        return answer
    choices = data.get("choices") if isinstance(data, dict) else None
    messages = (
        [choice.get("message") for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    )
    found = [_mark(message, origin) for message in messages]  # each, and not only up to the first
    if not any(found):
        return answer
    return replace(answer, body=json.dumps(data, ensure_ascii=False).encode("utf-8", "replace"))


class StreamMark:
    """Puts the mark on one streamed answer, in the first delta that holds more than text.

    Args:
        origin: the model that is asked.
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._done = False

    def put(self, chunk: JsonObject) -> bool:
        """Put the mark into an event's object if it belongs there, and return whether it did."""
        choices = chunk.get("choices")
        if self._done or not isinstance(choices, list):
            return False
        for choice in choices:
            if isinstance(choice, dict) and _mark(choice.get("delta"), self._origin):
                self._done = True
                return True
        return False


def _mark(message: Any, origin: str) -> bool:
    if not isinstance(message, dict) or not _holds_more_than_text(message):
        return False
    message[MARK] = origin
    return True


def _holds_more_than_text(message: Mapping[str, Any]) -> bool:
    if message.get("tool_calls") or isinstance(message.get("content"), list):
        return True
    return any(name not in _OF_MESSAGE and value not in (None, "", [], {}) for name, value in message.items())
