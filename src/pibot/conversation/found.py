"""What a task has found so far, for a task that ends without an answer of the model."""

from __future__ import annotations

from collections.abc import Sequence

from pibot.contracts import Message
from pibot.conversation.shorten import body_of, shortened, tool_of

FOUND_CHARS = 6_000
"""Characters of the whole."""

OUTPUT_CHARS = 600
"""Characters of one tool's output."""


def found_so_far(messages: Sequence[Message]) -> str:
    """Return the model's last words and the latest outputs of its tools; empty where there is nothing."""
    answers = [m.content.strip() for m in messages if m.role == "assistant" and m.content.strip()]
    outputs = [
        f"[{tool_of(m)}] {shortened(body_of(m.content)[1].strip(), OUTPUT_CHARS)}" for m in messages if m.role == "tool"
    ]
    left = FOUND_CHARS
    kept: list[str] = []
    for output in reversed(outputs):
        left -= len(output)
        if left < 0:
            break
        kept.append(output)
    parts = [shortened(answers[-1], FOUND_CHARS // 2)] if answers else []
    if kept:
        earlier = f" (the latest {len(kept)} of {len(outputs)})" if len(kept) < len(outputs) else ""
        parts.append(f"What the tools gave{earlier}:\n" + "\n".join(reversed(kept)))
    return "\n\n".join(parts)
