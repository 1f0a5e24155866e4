"""A model with a window, for :class:`tests.support.scripted_llm.ScriptedLLM`: it counts, refuses, and checks pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.scripted_llm import RecordedRequest, Reply, call, error, text, tool_calls

Refuse = Callable[[int, int], Reply]
"""Makes the refusal of a prompt, of its tokens and those of the window."""


def openai_refusal(sent: int, window: int) -> Reply:
    return error(
        400,
        f"This model's maximum context length is {window} tokens. However, your messages resulted in {sent} tokens.",
        type="invalid_request_error",
        code="context_length_exceeded",
    )


def nameless_refusal(sent: int, window: int) -> Reply:
    """Refuse as Ark does, without a number."""
    return error(
        400, "Total tokens of image and text exceed max message tokens. Request id: 0217", code="InvalidParameter"
    )


def tokens(request: RecordedRequest) -> int:
    """Count three characters a token."""
    return len(json.dumps([request.messages, request.json.get("tools")], ensure_ascii=False)) // 3


@dataclass
class WindowedModel:
    """Calls one tool again and again, then answers. Give it to :meth:`ScriptedLLM.answer_with`.

    Args:
        calls: how many tool calls it makes; each has other arguments.
        window: the tokens that it takes.
        refuse: makes its refusal; None cuts without a word.
        tool: the tool's name.
        counts: whether it reports usage.

    Attributes:
        counted: the tokens of each prompt that it answered.
        refused: how many prompts it refused.
        summaries: the requests for a summary.
    """

    calls: int
    window: int
    refuse: Refuse | None = openai_refusal
    tool: str = "tool"
    counts: bool = True
    counted: list[int] = field(default_factory=list)
    refused: int = 0
    summaries: list[RecordedRequest] = field(default_factory=list)
    made: int = 0

    def __call__(self, request: RecordedRequest) -> Reply:
        check_pairs(request.messages)
        size = tokens(request)
        if size > self.window:
            if self.refuse is not None:
                self.refused += 1
                return self.refuse(size, self.window)
            size = self.window
        self.counted.append(size)
        usage = {"prompt_tokens": size, "completion_tokens": 20, "total_tokens": size + 20} if self.counts else None
        if request.messages[0]["content"].startswith("You sum up"):
            self.summaries.append(request)
            return text("So far: the outputs were read.", usage=usage)
        if self.made < self.calls and "tools" in request.json:
            self.made += 1
            asked = {"content": None, "tool_calls": [call(self.tool, {"number": self.made})]}
            return tool_calls(*asked["tool_calls"], usage=usage)  # type: ignore[misc]  # a list of dicts
        return text(json.dumps({"success": True, "data": {}, "output": f"done after {self.made}"}), usage=usage)


def check_pairs(messages: list[dict[str, Any]]) -> None:
    """Check that every tool call has its result right behind it, and every result its call."""
    open_calls: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] in open_calls, f"a result without its call: {message}"
            open_calls.remove(message["tool_call_id"])
            continue
        assert not open_calls, f"calls without results: {open_calls}"
        for made in message.get("tool_calls") or ():
            json.loads(made["function"]["arguments"])
            open_calls.append(made["id"])
    assert not open_calls, f"calls without results: {open_calls}"
