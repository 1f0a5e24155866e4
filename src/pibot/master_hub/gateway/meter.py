"""How many tokens a call took: what the provider says, or an estimate where it says nothing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from pibot.contracts import JsonObject, Usage
from pibot.errors import LLMProtocolError
from pibot.llm_client.backend import HttpAnswer

BYTES_A_TOKEN = 4
"""For an estimate: about right for English; text that JSON escapes, such as Chinese, comes out too high."""

MAX_EVENT_BYTES = 1024 * 1024
"""Of one event of a stream; a longer one is passed on in pieces and not looked into."""

MAX_TOKENS = 10**9
"""Of one call; a provider that tells of more is broken, and must not break the sums."""

_END_OF_EVENT = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True)
class Counted:
    """A call's tokens.

    Args:
        estimated: the provider did not tell them.
    """

    usage: Usage
    estimated: bool = False


def estimate(text_bytes: int) -> int:
    """Tokens of so many bytes."""
    return -(-text_bytes // BYTES_A_TOKEN)


def of_answer(body_bytes: int, answer: HttpAnswer) -> Counted:
    """Return the tokens of a call that was answered in one piece.

    Args:
        body_bytes: size of the request's body.
        answer: the provider's answer.
    """
    try:
        data = answer.data
    except LLMProtocolError:
        data = None
    reported = _reported(data)
    if reported is not None:
        return Counted(reported)
    size = _text_bytes_of(data, "message") if isinstance(data, dict) else len(answer.body)
    return Counted(Usage(estimate(body_bytes), estimate(size), 1), estimated=True)


def asks_for_usage(call: JsonObject) -> bool:
    """Whether the caller of a stream wants the chunk that tells its tokens."""
    options = call.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def asking_for_usage(call: JsonObject) -> JsonObject:
    """The call of a stream, with the wish for the chunk that tells its tokens."""
    options = call.get("stream_options")
    return {**call, "stream_options": {**(options if isinstance(options, dict) else {}), "include_usage": True}}


class StreamMeter:
    """Counts a stream as it goes by, and keeps the chunk that only tells its tokens from who did not ask for it.

    Args:
        body_bytes: of the request.
        tell_usage: the caller did ask.

    Attributes:
        done: its last event went by.
    """

    def __init__(self, body_bytes: int, *, tell_usage: bool) -> None:
        self._body_bytes = body_bytes
        self._tell_usage = tell_usage
        self._rest = b""
        self._usage: Usage | None = None
        self._said = 0
        self.done = False

    def pass_on(self, part: bytes) -> bytes:
        """What of the stream can be passed on now, with its next part."""
        self._rest += part
        passed = []
        start = 0
        for end in _END_OF_EVENT.finditer(self._rest):
            event = self._rest[start : end.end()]
            start = end.end()
            if self._look_at(event):
                passed.append(event)
        self._rest = self._rest[start:]
        if len(self._rest) > MAX_EVENT_BYTES:
            passed.append(self.rest())
        return b"".join(passed)

    def rest(self) -> bytes:
        """What is left of the stream at its end."""
        rest, self._rest = self._rest, b""
        self._said += len(rest)
        return rest

    def counted(self) -> Counted:
        """The tokens so far."""
        if self._usage is not None:
            return Counted(self._usage)
        return Counted(Usage(estimate(self._body_bytes), estimate(self._said), 1), estimated=True)

    def _look_at(self, event: bytes) -> bool:
        """Whether an event is for the caller."""
        data = b"".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
        self.done = self.done or data == b"[DONE]"
        try:
            chunk = json.loads(data) if data.startswith(b"{") else None
        except (ValueError, RecursionError):
            chunk = None
        if not isinstance(chunk, dict):
            return True
        told = _reported(chunk)
        if told is not None:
            self._usage = told  # some providers tell the sum so far with each chunk: the last one counts
        self._said += _text_bytes_of(chunk, "delta")
        return self._tell_usage or told is None or bool(chunk.get("choices"))


def _reported(data: Any) -> Usage | None:
    """The tokens that an answer or a chunk tells of."""
    usage = data.get("usage") if isinstance(data, dict) else None
    if not isinstance(usage, dict):
        return None
    told = Usage.from_json(usage)
    most = MAX_TOKENS
    return Usage(min(told.prompt_tokens, most), min(told.completion_tokens, most), 1) if told.total_tokens else None


def _text_bytes_of(data: JsonObject, what: str) -> int:
    """Bytes of what the model said in an answer's messages, or in a chunk's deltas."""
    choices = data.get("choices")
    said = [choice.get(what) for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    return sum(_text_bytes(part) for part in said)


def _text_bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, dict):
        return sum(_text_bytes(part) for name, part in value.items() if name not in ("role", "id", "type"))
    return sum(map(_text_bytes, value)) if isinstance(value, list) else 0
