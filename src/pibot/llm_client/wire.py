"""Reads and writes the JSON of the OpenAI chat-completions protocol.

Servers deviate from the protocol in many small ways. This module accepts whatever it can understand; the rest raises
:class:`~pibot.errors.LLMProtocolError`, or becomes a :class:`~pibot.contracts.ToolCall` with a ``problem`` for the
model.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

from pibot.contracts import Completion, JsonObject, Message, ToolCall, ToolSpec, Usage, bounded_int
from pibot.errors import LLMProtocolError

MAX_TOOL_NAME_CHARS = 64
"""The protocol's limit for the name of a function (OpenAI API reference, chat completions, ``tools``)."""

_EXCERPT_CHARS = 200


class EmptyAnswer(LLMProtocolError):
    """A completion without choices, or truncated JSON: servers under load send these, and a retry may succeed."""


@dataclass(frozen=True)
class ErrorObject:
    """The protocol's ``error`` object, or another server's equivalent.

    Args:
        message: the server's text.
        code: its ``code``, a name or a number, as text.
        kind: its ``type``.
    """

    message: str
    code: str = ""
    kind: str = ""


def request(model: str, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> JsonObject:
    """Return the body of a request for one completion."""
    body: JsonObject = {"model": model, "messages": [_encodable(m.to_json()) for m in messages]}
    if tools:
        body["tools"] = [tool.to_json() for tool in tools]
    return body


def parse(body: bytes) -> Any:
    """Decode the JSON of an answer.

    Raises:
        EmptyAnswer: it is empty, or broken JSON that begins like an object.
        LLMProtocolError: it is no JSON.
    """
    try:
        return json.loads(body, parse_int=bounded_int)
    except (ValueError, RecursionError):  # ValueError: no JSON, no UTF-8, or a number with too many digits
        if not body.strip():
            raise EmptyAnswer("an empty answer") from None
        if body.lstrip()[:1] == b"{":
            raise EmptyAnswer("broken JSON") from None
        raise LLMProtocolError("something that is no JSON") from None


def find_error(data: Any, *, success: bool) -> ErrorObject | None:
    """Return the error in an answer, or None.

    Args:
        data: the decoded JSON.
        success: whether the HTTP status is a success. If not, the error formats of other servers are accepted too.
    """
    if isinstance(data, list) and len(data) == 1:
        data = data[0]
    if not isinstance(data, dict):
        return None
    error = data.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        message = error.get("message")
        return ErrorObject(
            message if isinstance(message, str) else _dump(error),
            "" if code is None else str(code),
            str(error.get("type") or error.get("status") or ""),
        )
    if error:
        return ErrorObject(error if isinstance(error, str) else _dump(error))
    text = None if success else data.get("message") or data.get("detail")
    if text:
        return ErrorObject(text if isinstance(text, str) else _dump(text), str(data.get("code") or ""))
    return None


def completion(data: Any, *, model: str, new_id: Callable[[], str] | None = None) -> Completion:
    """Read a ``chat.completion`` object. Of several choices, only the first is used.

    Args:
        data: the decoded JSON.
        model: the model that was asked for, used if the server names none.
        new_id: creates an id for a tool call without one.

    Raises:
        EmptyAnswer: it has no choices.
        LLMProtocolError: it is no completion.
    """
    if not isinstance(data, dict) or "choices" not in data:
        raise LLMProtocolError("JSON that is no chat completion: it has no choices")
    choices = data["choices"]
    if not choices:
        raise EmptyAnswer("a completion without choices")
    choice = choices[0] if isinstance(choices, list) else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise LLMProtocolError("a completion whose first choice has no message")
    calls = _tool_calls(message.get("tool_calls"), new_id or _new_id)
    usage = Usage.from_json(data.get("usage"))
    reason = choice.get("finish_reason")
    named = data.get("model")
    return Completion(
        text=_encodable(_text(message.get("content")) or _text(message.get("refusal"))),
        tool_calls=calls,
        usage=Usage(usage.prompt_tokens, usage.completion_tokens, llm_calls=1),
        finish_reason=reason if isinstance(reason, str) and reason else ("tool_calls" if calls else "stop"),
        model=named if isinstance(named, str) and named else model,
    )


def _text(content: Any) -> str:
    """Return the text of a message's content, which may be text, a list of parts, or null."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") if isinstance(part, dict) else part for part in content)
    return "".join(part for part in parts if isinstance(part, str))


def _tool_calls(calls: Any, new_id: Callable[[], str]) -> tuple[ToolCall, ...]:
    if calls is None:
        return ()
    if not isinstance(calls, list):
        raise LLMProtocolError("a completion whose tool_calls is no list")
    decoded: list[ToolCall] = []
    for call in calls:
        if isinstance(call, dict):
            decoded.append(_tool_call(call, {c.call_id for c in decoded}, new_id))
    return tuple(decoded)


def _tool_call(call: JsonObject, taken: set[str], new_id: Callable[[], str]) -> ToolCall:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    call_id = call.get("id")
    call_id = str(call_id) if isinstance(call_id, (str, int)) else ""
    if not call_id or call_id in taken:  # some servers number the calls of each answer from 0, or give all the same id
        call_id = new_id()
    # The next request repeats the conversation, and would be refused for a name outside the protocol's alphabet.
    name = re.sub(r"[^A-Za-z0-9_-]", "_", str(function.get("name") or "").strip())[:MAX_TOOL_NAME_CHARS]
    arguments, raw, problem = _arguments(function.get("arguments"))
    if not name:
        name, problem = "unnamed", problem or "The tool call has no name. Call one of the tools by its name."
    return ToolCall(call_id, name, None if problem else arguments, raw, problem)


def _arguments(written: Any) -> tuple[JsonObject | None, str, str | None]:
    """Return the decoded arguments, the text to send back, and the problem for the model.

    The text to send back is always a JSON object: servers that render the conversation with a template decode it, and
    refuse the whole conversation otherwise. The problem then quotes what the model wrote.
    """
    if isinstance(written, dict):
        written = _dump(written)
    if written is None or (isinstance(written, str) and not written.strip()):
        return {}, "{}", None  # many models write nothing for a tool without arguments
    if not isinstance(written, str):
        return None, "{}", f"The arguments must be a JSON object, not {_excerpt(_dump(written))}."
    try:
        arguments = _encodable(json.loads(written, parse_int=bounded_int, parse_constant=_no_constant))
    except RecursionError:
        return None, "{}", f"The arguments are nested too deeply. You wrote: {_excerpt(written)}"
    except ValueError as exc:
        return None, "{}", f"The arguments are not valid JSON: {exc}. You wrote: {_excerpt(written)}"
    if not isinstance(arguments, dict):
        return None, "{}", f"The arguments must be a JSON object, not {_excerpt(written)}."
    return arguments, written, None


def _excerpt(text: str) -> str:
    return text if len(text) <= _EXCERPT_CHARS else f"{text[:_EXCERPT_CHARS]}… ({len(text)} characters)"


def _dump(value: Any) -> str:
    """Return ``value`` as JSON text; empty if it is nested too deeply."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return ""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _encodable(value: Any) -> Any:
    """Return ``value`` with lone surrogates replaced, which cannot be sent. File names that are no UTF-8 have them."""
    if isinstance(value, str):
        return value if _is_utf8(value) else value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
