"""Counts the tokens of a call: as the provider reports them, or estimated if it reports none."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from pibot.contracts import JsonObject, Usage
from pibot.contracts.reading import too_deep
from pibot.errors import LLMProtocolError
from pibot.llm_client.backend import HttpAnswer
from pibot.master_hub.gateway.origin import StreamMark
from pibot.master_hub.gateway.redaction import StreamRedactor

BYTES_A_TOKEN = 4
"""For estimates: about right for English, too many tokens for text that JSON escapes, such as Chinese."""

MAX_EVENT_BYTES = 1024 * 1024
"""Longest event of a stream that is parsed; a longer one is passed on unread, in pieces."""

MAX_TOKENS = 10**9
"""Most tokens counted for one call: a broken provider that reports more must not spoil the sums."""

TOKENS_A_SECOND = 100
"""For estimates of an answer that nobody saw: fast models generate about that many."""

_END_OF_EVENT = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True)
class Counted:
    """The tokens of one call.

    Args:
        usage: the tokens.
        estimated: whether they are estimated because the provider reported none.
    """

    usage: Usage
    estimated: bool = False


def estimate(text_bytes: int) -> int:
    """Estimate the tokens of a text from its size in bytes."""
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


def of_hung_up(body_bytes: int, seconds: float) -> Counted:
    """Return the tokens of a call whose client hung up before the provider answered.

    Args:
        body_bytes: size of the request's body.
        seconds: how long the provider worked on it.
    """
    generated = min(MAX_TOKENS, int(max(0.0, seconds) * TOKENS_A_SECOND))
    return Counted(Usage(estimate(body_bytes), generated, 1), estimated=True)


def asks_for_usage(call: JsonObject) -> bool:
    """Return whether the caller of a stream asks for the chunk with its token counts."""
    options = call.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def asking_for_usage(call: JsonObject) -> JsonObject:
    """Return the call of a stream with the option that asks for the chunk with its token counts."""
    options = call.get("stream_options")
    return {**call, "stream_options": {**(options if isinstance(options, dict) else {}), "include_usage": True}}


class StreamMeter:
    """Counts the tokens of a stream while it is passed on.

    Removes the provider's key, and the chunk that holds nothing but token counts unless the caller asked for it.

    Args:
        body_bytes: size of the request's body.
        tell_usage: whether the caller asked for the token counts.
        redactor: removes the provider's key.
        mark: names the model in its message; None where there is no other model.

    Attributes:
        done: whether the last event has passed.
    """

    def __init__(
        self, body_bytes: int, *, tell_usage: bool, redactor: StreamRedactor, mark: StreamMark | None = None
    ) -> None:
        self._mark = mark
        self._body_bytes = body_bytes
        self._redactor = redactor
        self._tell_usage = tell_usage
        self._unread = b""
        self._usage: Usage | None = None
        self._text_bytes = 0
        self.done = False

    def pass_on(self, part: bytes) -> bytes:
        """Take the next part of the stream, and return what can be passed on now."""
        self._unread += part
        passed = []
        start = 0
        for end in _END_OF_EVENT.finditer(self._unread):
            event = self._unread[start : end.end()]
            start = end.end()
            passed.append(self._count(event))
        self._unread = self._unread[start:]
        if len(self._unread) > MAX_EVENT_BYTES:
            # A key may begin at the end of what has come.
            unread = self._redactor.part(self._unread)
            kept = max(0, len(unread) - self._redactor.longest)
            self._unread = unread[kept:]
            self._text_bytes += kept
            passed.append(unread[:kept])
        return b"".join(passed)

    def rest(self) -> bytes:
        """Return what is left to pass on at the end of the stream."""
        rest, self._unread = self._unread, b""
        self._text_bytes += len(rest)
        return self._redactor.held() + self._redactor.part(rest)

    def counted(self) -> Counted:
        """Return the tokens so far."""
        if self._usage is not None:
            return Counted(self._usage)
        return Counted(Usage(estimate(self._body_bytes), estimate(self._text_bytes), 1), estimated=True)

    def _count(self, event: bytes) -> bytes:
        """Count an event, and return what the caller gets of it."""
        data = b"".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
        try:
            chunk = json.loads(data) if data.startswith(b"{") else None
        except (ValueError, RecursionError):
            chunk = None
        if too_deep(chunk):
            return b""  # no client reads it, and no secret could be looked for in it
        if not isinstance(chunk, dict):
            last = data == b"[DONE]"
            self.done = self.done or last
            return (self._redactor.held() if last else b"") + self._redactor.part(event)
        if self._mark is not None and self._mark.put(chunk):
            lines = [line for line in event.splitlines() if line and not line.startswith(b"data:")]
            event = b"\n".join([*lines, b"data: " + json.dumps(chunk).encode(), b"", b""])
        reported = _reported(chunk)
        if reported is not None:
            self._usage = reported  # some providers send a running total with each chunk: the last one counts
        self._text_bytes += _text_bytes_of(chunk, "delta")
        for_caller = self._tell_usage or reported is None or bool(chunk.get("choices"))
        return self._redactor.event(event, chunk) if for_caller else b""


def _reported(data: Any) -> Usage | None:
    """Return the token counts in an answer or a chunk; None if there are none."""
    usage = data.get("usage") if isinstance(data, dict) else None
    if not isinstance(usage, dict):
        return None
    reported = Usage.from_json(usage)
    if not reported.total_tokens:
        return None
    return Usage(min(reported.prompt_tokens, MAX_TOKENS), min(reported.completion_tokens, MAX_TOKENS), 1)


def _text_bytes_of(data: JsonObject, what: str) -> int:
    """Return the size of the model's own text in an answer's messages, or in a chunk's deltas."""
    choices = data.get("choices")
    parts = [choice.get(what) for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    return sum(map(_text_bytes, parts))


def _text_bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, dict):
        return sum(_text_bytes(part) for name, part in value.items() if name not in ("role", "id", "type"))
    return sum(map(_text_bytes, value)) if isinstance(value, list) else 0
