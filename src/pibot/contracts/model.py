"""A conversation with a model, and what it is asked through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pibot.contracts.basics import JsonObject


@dataclass(frozen=True)
class Usage:
    """Tokens and calls that a model was asked for. A server that counts none leaves zeros."""

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
        """Read counts leniently: what is missing or no number counts as zero."""
        if not isinstance(data, dict):
            return cls()

        def count(name: str) -> int:
            value = data.get(name)
            return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0

        return cls(count("prompt_tokens"), count("completion_tokens"), count("llm_calls"))


@dataclass(frozen=True)
class ToolCall:
    """A tool call that a model asked for.

    Args:
        call_id: the model's id for it, repeated in the answer.
        name: the tool's name, as the model wrote it.
        arguments: the decoded arguments; None where they could not be decoded.
        raw_arguments: what the model wrote, as text, sent back in the conversation; ``{}`` where it wrote no JSON
            object, because servers refuse a conversation with anything else there.
        problem: why the arguments could not be decoded, as a sentence for the model.
    """

    call_id: str
    name: str
    arguments: Mapping[str, Any] | None
    raw_arguments: str = "{}"
    problem: str | None = None


@dataclass(frozen=True)
class ToolResult:
    """What a tool call came to.

    Args:
        call_id: the call's.
        content: text for the model.
        is_error: the tool could not do it; ``content`` says why.
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
        tool_calls: for an assistant's message, the calls that it asks for.
        tool_call_id: for a tool's message, the call that it answers.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    def to_json(self) -> JsonObject:
        """The form that the OpenAI chat-completions protocol has for it."""
        body: JsonObject = {"role": self.role, "content": self.content}
        if self.tool_calls:
            body["tool_calls"] = [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.raw_arguments},
                }
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            body["tool_call_id"] = self.tool_call_id
        return body


@dataclass(frozen=True)
class ToolSpec:
    """A tool as a model is told of it: a name, what it does, and a JSON Schema for its arguments."""

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


@dataclass(frozen=True)
class Completion:
    """A model's answer.

    Args:
        text: what it said; may be empty where it asks for tools.
        tool_calls: the tools that it asks for.
        usage: counted by its server; zeros where it counts none.
        finish_reason: the protocol's, such as ``stop``, ``tool_calls`` or ``length``.
        model: the model's name as its server gave it.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = "stop"
    model: str = ""


class LLMClient(Protocol):
    """Something that completes a conversation. Used within one event loop; safe for concurrent calls there."""

    @property
    def model(self) -> str:
        """The model's name, as shown to people."""
        ...

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, timeout: float | None = None
    ) -> Completion:
        """Ask for one completion.

        Args:
            messages: the whole conversation; the server keeps none.
            tools: what the model may ask for.
            timeout: seconds for the call with all its retries; None for the client's own limit.

        Raises:
            LLMError: one of its kinds; each says what was wrong and what to do.
        """
        ...

    async def close(self) -> None:
        """Give back connections. Calling it twice is fine."""
        ...
