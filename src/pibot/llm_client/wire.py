"""Reads and writes the JSON of the OpenAI chat-completions protocol.

Servers deviate from the protocol in many small ways. This module accepts whatever it can understand; the rest raises
:class:`~pibot.errors.LLMProtocolError`, or becomes a :class:`~pibot.contracts.ToolCall` with a ``problem`` for the
model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

from pibot.contracts import Completion, JsonObject, Message, ToolCall, ToolSpec, Usage, bounded_int
from pibot.contracts.reading import too_deep
from pibot.errors import LLMProtocolError
from pibot.llm_client.extras import calls_in, encodable, is_thinking, message_extra, reasoning_of, refusal_in
from pibot.llm_client.tool_calls import dumped, is_hollow, new_call_id, read_tool_call, read_tool_calls


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
    body: JsonObject = {"model": model, "messages": [encodable(m.to_json()) for m in messages]}
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
        data = json.loads(body, parse_int=bounded_int, strict=False)
    except (ValueError, RecursionError):  # ValueError: no JSON, no UTF-8, or a number with too many digits
        if not body.strip():
            raise EmptyAnswer("an empty answer") from None
        if body.lstrip()[:1] == b"{":
            raise EmptyAnswer("broken JSON") from None
        raise LLMProtocolError("something that is no JSON") from None
    if too_deep(data):
        raise LLMProtocolError("JSON that is nested too deeply")
    return data


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
    choice = _first_choice(data) if success else None
    found = _error_object(data.get("error"), beside_answer=choice is not None and _says_something(choice))
    if found is not None:
        return found
    if choice is not None and not _says_something(choice):
        return _error_object(choice.get("error"), beside_answer=True)  # OpenRouter, with finish_reason "error"
    if choice is None and success:
        return _status_object(data.get("base_resp")) or _named_error(data)
    text = None if success else data.get("message") or data.get("detail")
    if text:
        return ErrorObject(text if isinstance(text, str) else dumped(text), str(data.get("code") or ""))
    return None


_NO_ERROR = frozenset({"", "0", "200", "ok", "success", "none", "null", "false"})
"""What some servers write into an error's fields when there is none."""


def _error_object(error: Any, *, beside_answer: bool) -> ErrorObject | None:
    """Read an ``error``. Beside an answer, one that says nothing is none."""
    if isinstance(error, dict):
        code = error.get("code")
        message = error.get("message")
        said = [error.get(name) for name in ("code", "message", "type", "status")]
        if beside_answer and all(value is None or str(value).strip().lower() in _NO_ERROR for value in said):
            return None
        return ErrorObject(
            message if isinstance(message, str) else dumped(error),
            "" if code is None else str(code),
            str(error.get("type") or error.get("status") or ""),
        )
    if error and not (beside_answer and str(error).strip().lower() in _NO_ERROR):
        return ErrorObject(error if isinstance(error, str) else dumped(error))
    return None


_MINIMAX = {
    **dict.fromkeys(("1000", "1013", "1024", "1033"), "500"),
    "1001": "504",
    **dict.fromkeys(("1002", "1039", "1041", "2045", "2056"), "429"),
    **dict.fromkeys(("1004", "2049"), "401"),
    "1008": "402",
    "2013": "400",
}
"""MiniMax's codes, by the HTTP status that others send."""


def _status_object(status: Any) -> ErrorObject | None:
    """Read MiniMax's ``base_resp``, which says under HTTP 200 why there are no choices."""
    if not isinstance(status, dict) or not status.get("status_code"):
        return None
    code = str(status["status_code"])
    return ErrorObject(str(status.get("status_msg") or dumped(status)), _MINIMAX.get(code, code))


def _named_error(data: JsonObject) -> ErrorObject | None:
    """Read vLLM's and FastChat's older ``{"object": "error", "message": …, "code": …}``, also under HTTP 200."""
    if data.get("object") != "error" or "choices" in data:
        return None
    message = data.get("message")
    kind = data.get("type")
    return ErrorObject(
        message if isinstance(message, str) else dumped(data),
        str(data.get("code") or ""),
        kind if isinstance(kind, str) else "",
    )


def _first_choice(data: JsonObject) -> JsonObject | None:
    choices = data.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def _says_something(choice: JsonObject) -> bool:
    """Return whether a choice holds text, tool calls or a refusal."""
    message = choice.get("message")
    if not isinstance(message, dict):
        return False
    fields = ("tool_calls", "function_call", "refusal")
    return bool(_text(message.get("content")).strip()) or any(message.get(name) for name in fields)


def completion(data: Any, *, model: str, new_id: Callable[[], str] | None = None) -> Completion:
    """Read a ``chat.completion`` object. Of several choices the first is used, or the first with tool calls or text
    where that one has none.

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
    if not data["choices"]:
        raise EmptyAnswer("a completion without choices")
    choice, message = _best_choice(data["choices"])
    reason = choice.get("finish_reason")
    calls = _calls_of(message, new_id or new_call_id, cut=reason == "length")
    usage = Usage.from_json(data.get("usage"))
    named = data.get("model")
    refusal = encodable(_text(message.get("refusal")) or refusal_in(message.get("content")))
    return Completion(
        text=encodable(_text(message.get("content"))) or refusal,
        tool_calls=calls,
        usage=Usage(usage.prompt_tokens, usage.completion_tokens, llm_calls=1),
        finish_reason=reason if isinstance(reason, str) and reason else ("tool_calls" if calls else "stop"),
        model=named if isinstance(named, str) and named else model,
        reasoning=reasoning_of(message),
        extra=message_extra(message),
        refusal=refusal,
    )


def _best_choice(choices: Any) -> tuple[JsonObject, JsonObject]:
    """Return the choice to read, and its message.

    Some servers send the text in one choice and the tool calls in the next.
    """
    found = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    readable = [(choice, choice["message"]) for choice in found if isinstance(choice.get("message"), dict)]
    if not readable:
        raise LLMProtocolError("a completion whose first choice has no message")
    first, message = readable[0]
    text = _text(message.get("content"))
    if message.get("tool_calls") or (text.strip() and first.get("finish_reason") != "tool_calls"):
        return readable[0]
    for choice, other in readable[1:]:
        if other.get("tool_calls"):
            return choice, {**other, "content": _text(other.get("content")) or text}
    return next((pair for pair in readable if _says_something(pair[0])), readable[0])


def _calls_of(message: JsonObject, new_id: Callable[[], str], *, cut: bool) -> tuple[ToolCall, ...]:
    """Read the tool calls, or the one ``function_call`` of the protocol before 2023-11."""
    sent = message.get("tool_calls") or calls_in(message.get("content"))
    if isinstance(sent, list) and _text(message.get("content")).strip():
        sent = [call for call in sent if not (isinstance(call, dict) and is_hollow(call))]
    calls = read_tool_calls(sent, new_id, cut=cut)
    function = message.get("function_call")
    if not calls and isinstance(function, dict) and function.get("name"):
        return (read_tool_call({"function": function}, (), new_id, cut=cut),)
    return calls


def _text(content: Any) -> str:
    """Return the text of a message's content, which may be text, a list of parts, or null."""
    if isinstance(content, str):
        return content
    if isinstance(content, (int, float)) and not isinstance(content, bool):
        return dumped(content)
    if isinstance(content, dict):
        if not content.keys() & {"text", "type"}:
            return dumped(content)  # a final answer in JSON, which its server decoded
        content = [content]
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") if isinstance(part, dict) and not is_thinking(part) else part for part in content)
    return "".join(part for part in parts if isinstance(part, str))
