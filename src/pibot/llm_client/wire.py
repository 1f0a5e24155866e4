"""The OpenAI chat-completions protocol as JSON: what is asked, and what comes back, from whatever server.

Servers differ from the protocol in many small ways. What can be understood is understood here; the rest is a
:class:`~pibot.errors.LLMProtocolError`, or a :class:`~pibot.contracts.ToolCall` with a ``problem`` for the model.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

from pibot.contracts import Completion, JsonObject, Message, ToolCall, ToolSpec, Usage
from pibot.errors import LLMProtocolError

MAX_TOOL_NAME_CHARS = 64
"""The protocol's own limit for a function's name (OpenAI API reference, chat completions, ``tools``)."""

_EXCERPT_CHARS = 200


class EmptyAnswer(LLMProtocolError):
    """A completion without a choice in it, or cut JSON: servers under load send such, and the next one may be whole."""


@dataclass(frozen=True)
class ErrorObject:
    """The protocol's ``error``, or what stands for it.

    Args:
        message: the server's text.
        code: its code, a name or a number, as text.
        kind: its ``type``.
    """

    message: str
    code: str = ""
    kind: str = ""


def request(model: str, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> JsonObject:
    """The body that asks for one completion."""
    body: JsonObject = {"model": model, "messages": [_encodable(m.to_json()) for m in messages]}
    if tools:
        body["tools"] = [tool.to_json() for tool in tools]
    return body


def parse(body: bytes) -> Any:
    """The JSON of an answer.

    Raises:
        EmptyAnswer: it is empty, or begins like an object and is broken.
        LLMProtocolError: it is no JSON.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # ValueError: no JSON, no UTF-8, or a number of too many digits
        if not body.strip():
            raise EmptyAnswer("an empty answer") from None
        if body.lstrip()[:1] == b"{":
            raise EmptyAnswer("broken JSON") from None
        raise LLMProtocolError("something that is no JSON") from None


def find_error(data: Any, *, success: bool) -> ErrorObject | None:
    """The error that an answer carries; None where it carries none.

    Args:
        data: the decoded JSON.
        success: whether its HTTP status is one of success. Where it isn't, also other servers' forms are looked for.
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
    """Read a ``chat.completion`` object. Of several choices the first counts.

    Args:
        data: the decoded JSON.
        model: the model that was asked for, where the server doesn't name one.
        new_id: makes an id for a tool call that came without.

    Raises:
        EmptyAnswer: there is no choice in it.
        LLMProtocolError: it is something else.
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
    """A message's content: text, a list of parts, or null."""
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
    if not call_id or call_id in taken:  # some servers number each answer's calls from 0, or all of them alike
        call_id = new_id()
    # A name outside the protocol's alphabet would have the next request refused, as it repeats the conversation.
    name = re.sub(r"[^A-Za-z0-9_-]", "_", str(function.get("name") or "").strip())[:MAX_TOOL_NAME_CHARS]
    arguments, raw, problem = _arguments(function.get("arguments"))
    if not name:
        name, problem = "unnamed", problem or "The tool call has no name. Call one of the tools by its name."
    return ToolCall(call_id, name, None if problem else arguments, raw, problem)


def _arguments(written: Any) -> tuple[JsonObject | None, str, str | None]:
    """The arguments decoded, the text to send back, and the problem for the model.

    The text to send back is always a JSON object: servers that render a conversation with a template decode it, and
    refuse the whole conversation for anything else. What the model wrote is then in the problem.
    """
    if isinstance(written, dict):
        written = _dump(written)
    if written is None or (isinstance(written, str) and not written.strip()):
        return {}, "{}", None  # many models write nothing for a tool without arguments
    if not isinstance(written, str):
        return None, "{}", f"The arguments must be a JSON object, not {_excerpt(_dump(written))}."
    try:
        arguments = _encodable(json.loads(written, parse_constant=_no_constant))
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
    """``value`` as JSON text; empty where it is nested too deeply for that."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return ""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _encodable(value: Any) -> Any:
    """``value`` with lone surrogates (as in file names that are no UTF-8) replaced: they can't be sent."""
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
