"""Parse a chat-completions request, as strictly as OpenAI's server does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pibot.errors import InvalidRequest

ROLES = ("system", "developer", "user", "assistant", "tool")

_MARKED = re.compile(r'<tool_output id="(\w+)"[^>\n]*>\n(.*)\n</tool_output id="\1">(?:\n\[[^\n]*\])*\Z', re.DOTALL)

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


@dataclass(frozen=True)
class Said:
    """One message."""

    role: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """The content of a request.

    Args:
        said: every message, in order.
        tools: the names of the tools that the model may call.
        answers: the tools' answers since the last user message, in the order of the tool calls.
        stream: whether to stream the answer.
        stream_usage: whether the stream ends with the usage.
        prompt_tokens: a rough count of four characters a token.
    """

    said: tuple[Said, ...]
    tools: frozenset[str] = frozenset()
    answers: tuple[str, ...] = ()
    stream: bool = False
    stream_usage: bool = False
    prompt_tokens: int = 0

    @property
    def system(self) -> str:
        return "\n".join(s.text for s in self.said if s.role in ("system", "developer"))

    @property
    def task(self) -> str:
        """The last user message. A worker's conversation has the task there."""
        return self.said[self._task_at].text if self._task_at >= 0 else ""

    @property
    def first(self) -> str:
        """The first user message. A planner's conversation has the job there, even when it asks again."""
        return next((s.text for s in self.said if s.role == "user"), "")

    @property
    def before(self) -> tuple[str, ...]:
        """The texts of all messages before the task, of every role."""
        return tuple(s.text for s in self.said[: max(self._task_at, 0)])

    @property
    def _task_at(self) -> int:
        return max((i for i, s in enumerate(self.said) if s.role == "user"), default=-1)


def read_request(body: object) -> Conversation:
    """Check and read a request's decoded body.

    Raises:
        InvalidRequest: the body is not valid; ``field`` is OpenAI's ``param``.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise InvalidRequest("you must provide a model parameter", field="model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages must be a list of at least one message", field="messages")
    if body.get("n", 1) not in (1, None):
        raise InvalidRequest("only n = 1 is supported: this model gives one choice", field="n")
    stream, stream_usage = _stream(body)
    said = tuple(_said(message, f"messages[{i}]") for i, message in enumerate(messages))
    tools = body.get("tools") or []
    names = _tools(tools)
    answers = _answers(messages)
    if body.get("tool_choice") == "none":
        names = frozenset()
    characters = len(json.dumps([messages, tools], ensure_ascii=False))
    return Conversation(said, names, answers, stream, stream_usage, tokens(characters))


def tokens(characters: int) -> int:
    """Estimate the tokens of a text: four characters each, rounded up."""
    return -(-characters // 4)


def _stream(body: Mapping[str, Any]) -> tuple[bool, bool]:
    stream = body.get("stream")
    if not isinstance(stream, (bool, type(None))):
        raise InvalidRequest("stream must be true or false", field="stream")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict) or (options and not stream):
        raise InvalidRequest("stream_options must be an object, and requires stream: true", field="stream_options")
    return bool(stream), options.get("include_usage") is True


def _said(message: object, where: str) -> Said:
    if not isinstance(message, dict):
        raise InvalidRequest(f"{where} must be an object with role and content", field=where)
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequest(f"{where}.role must be one of {', '.join(ROLES)}, not {role!r}", field=f"{where}.role")
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(_text_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    if content is None and role == "assistant" and message.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise InvalidRequest(f"{where}.content must be a text or a list of text parts", field=f"{where}.content")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{where}.content holds a lone surrogate, which is not valid text", field=where) from None
    return Said(role, content)


def _text_part(part: object, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise InvalidRequest(f"{where} must be of type text: this model reads nothing else", field=where)


def _tools(tools: object) -> frozenset[str]:
    if not isinstance(tools, list):
        raise InvalidRequest("tools must be a list", field="tools")
    names = set()
    for i, tool in enumerate(tools):
        where = f"tools[{i}]"
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not _TOOL_NAME.match(name):
            raise InvalidRequest(
                f"{where} must be of type function, with a name of 1 to 64 letters, digits, '_' or '-'", field=where
            )
        if not isinstance(function.get("parameters", {}), dict):
            raise InvalidRequest(f"{where}.function.parameters must be a JSON Schema", field=where)
        names.add(name)
    return frozenset(names)


def _answers(messages: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the tools' answers since the last user message, in the order of the tool calls.

    Refuses a conversation whose tool calls and answers don't match, as a real server does.
    """
    answers: dict[str, str | None] = {}
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if message["role"] == "tool":
            call_id = message.get("tool_call_id")
            if not isinstance(call_id, str) or answers.get(call_id, "") is not None:
                raise InvalidRequest(
                    f"{where}: a message of role 'tool' must answer a tool call of the assistant's message before it; "
                    "its tool_call_id says which",
                    field=f"{where}.tool_call_id",
                )
            answers[call_id] = unmarked(_said(message, where).text)
            continue
        _demand_all_answered(answers, where)
        if message["role"] == "user":
            answers = {}
        for call_id in _call_ids(message, where):
            answers[call_id] = None
    _demand_all_answered(answers, f"messages[{len(messages)}]")
    return tuple(text for text in answers.values() if text is not None)


def unmarked(text: str) -> str:
    """Remove the marks with which a worker declares a tool's answer to be data."""
    match = _MARKED.match(text)
    return match.group(2) if match else text


def _demand_all_answered(answers: Mapping[str, str | None], where: str) -> None:
    missing = [call_id for call_id, text in answers.items() if text is None]
    if missing:
        raise InvalidRequest(
            f"before {where}: an assistant's message with tool_calls must be followed by an answer to each; "
            f"missing: {', '.join(missing)}",
            field="messages",
        )


def _call_ids(message: Mapping[str, Any], where: str) -> list[str]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or (calls and message["role"] != "assistant"):
        raise InvalidRequest(f"{where}.tool_calls must be a list; only an assistant's message may have it", field=where)
    ids = []
    for j, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) and call.get("type") == "function" else None
        if (
            not isinstance(function, dict)
            or not isinstance(call.get("id"), str)
            or not isinstance(function.get("name"), str)
            or not isinstance(function.get("arguments"), str)
        ):
            raise InvalidRequest(
                f"{where}.tool_calls[{j}] must have an id, type 'function', and a function with a name and "
                "arguments as a text",
                field=f"{where}.tool_calls[{j}]",
            )
        ids.append(call["id"])
    return ids
