"""A conversation with a model, and the client that sends it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pibot.contracts.basics import JsonObject

MAX_TOKENS = 10**9
"""Tokens, or model calls, that one model call or task may be said to have used."""


@dataclass(frozen=True)
class Usage:
    """Tokens and model calls. Tokens are zero where the provider counts none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    llm_calls: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.llm_calls + other.llm_calls,
        )

    def to_json(self) -> JsonObject:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "llm_calls": self.llm_calls,
        }

    @classmethod
    def from_json(cls, data: object) -> Usage:
        """Read the counts leniently: a missing or impossible count becomes zero."""
        if not isinstance(data, dict):
            return cls()

        def count(name: str) -> int:
            value = data.get(name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_TOKENS:
                return 0
            return value

        return cls(count("prompt_tokens"), count("completion_tokens"), count("llm_calls"))


@dataclass(frozen=True)
class ToolCall:
    """A tool call chosen by the model.

    Args:
        call_id: the model's id for the call, repeated in the tool's result.
        name: the tool's name, as the model wrote it.
        arguments: the decoded arguments; None where they could not be decoded.
        raw_arguments: the arguments as the model wrote them, sent back in the conversation; ``{}`` where they are no
            JSON object, because providers refuse anything else there.
        problem: why the arguments could not be decoded, as a sentence for the model.
        extra: further fields that the provider sent with the call, which go back with it, such as Gemini's
            ``extra_content``. What it has under ``function`` goes into the call's function.
        written_name: the name as the model wrote it, where that is not ``name``.
    """

    call_id: str
    name: str
    arguments: Mapping[str, Any] | None
    raw_arguments: str = "{}"
    problem: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    written_name: str = ""

    def to_json(self) -> JsonObject:
        """Return the call in the form of the OpenAI chat-completions protocol."""
        further = self.extra.get("function")
        function = {**(further if isinstance(further, Mapping) else {}), "name": self.name}
        return {
            **self.extra,
            "id": self.call_id,
            "type": "function",
            "function": {**function, "arguments": self.raw_arguments},
        }


@dataclass(frozen=True)
class ToolResult:
    """The result of a tool call.

    Args:
        call_id: the call's id.
        content: text for the model.
        is_error: the tool failed; ``content`` says why.
    """

    call_id: str
    content: str
    is_error: bool = False


@dataclass(frozen=True)
class Message:
    """One message of a conversation with a model.

    Args:
        role: ``system``, ``user``, ``assistant`` or ``tool``.
        content: the text.
        tool_calls: the tool calls of an assistant's message.
        tool_call_id: the call that a tool's message answers.
        extra: further fields that the provider sent with an assistant's message, which go back with it, such as
            DeepSeek's ``reasoning_content``. Its ``content`` is a content in parts, sent instead of the text.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Return the message in the form of the OpenAI chat-completions protocol."""
        body: JsonObject = {"role": self.role, "content": self.content, **self.extra}
        if self.tool_calls:
            body["tool_calls"] = [call.to_json() for call in self.tool_calls]
        if self.tool_call_id is not None:
            body["tool_call_id"] = self.tool_call_id
        return body


@dataclass(frozen=True)
class ToolSpec:
    """A tool as the model sees it: its name, its purpose, and a JSON Schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def to_json(self) -> JsonObject:
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": dict(self.parameters),
            },
        }


_LENGTH_LIMIT = re.compile(
    r"length|(?:max_?|max_output_|max_completion_|max_new_)tokens|(?:token_|max_)limit|model_length|model_context_window_exceeded"
)
"""What servers give as ``finish_reason`` where an answer reached its length limit."""


@dataclass(frozen=True)
class Completion:
    """The answer to one model call.

    Args:
        text: the model's text; may be empty where it chose tools.
        tool_calls: the tool calls that it chose.
        usage: as the provider counted; zeros where it counts none.
        finish_reason: the protocol's, such as ``stop``, ``tool_calls`` or ``length``.
        model: the model's name as the provider gave it.
        reasoning: what the model thought before it answered, where the provider sends it apart; no part of the answer.
        extra: further fields of the model's message, for :attr:`Message.extra`.
        refusal: what the model said instead of an answer, where the provider sends a refusal apart.
        window: tokens of the window of the model that answered, where the fleet's gateway says so.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = "stop"
    model: str = ""
    reasoning: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    refusal: str = ""
    window: int | None = None

    @property
    def cut(self) -> bool:
        """Return whether the answer ends at its length limit."""
        return _LENGTH_LIMIT.fullmatch(self.finish_reason.strip().lower()) is not None

    def to_message(self, tool_calls: tuple[ToolCall, ...] | None = None) -> Message:
        """Return the message that repeats the answer in the next request.

        Args:
            tool_calls: used instead of the answer's own.
        """
        calls = self.tool_calls if tool_calls is None else tool_calls
        return Message("assistant", self.text, calls, extra=self.extra)


class LLMClient(Protocol):
    """Makes model calls. Use it within one event loop; concurrent calls are safe there."""

    @property
    def model(self) -> str:
        """The model's name, for people."""
        ...

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, timeout: float | None = None
    ) -> Completion:
        """Make one model call.

        Args:
            messages: the whole conversation; the provider keeps none.
            tools: the tools that the model may call.
            timeout: seconds for the call with all its retries; None for the client's own limit.

        Raises:
            LLMError: one of its kinds; each says what is wrong and what to do.
        """
        ...

    async def close(self) -> None:
        """Close the connections. Calling it twice is fine."""
        ...
