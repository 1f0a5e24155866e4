"""Read a streamed completion as if it had come whole: some servers stream unasked, others answer in no other way."""

from __future__ import annotations

import json
from typing import Any

from pibot.contracts import JsonObject, bounded_int
from pibot.contracts.reading import too_deep

_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
"""How a line of a stream of server-sent events begins. No JSON begins like that."""

_JOINED = frozenset({"content", "reasoning_content", "reasoning", "refusal", "arguments"})
"""Fields of a delta whose texts are pieces of one text."""


class BadStream(ValueError):
    """A stream that can't be read; the message says why, as the end of a sentence."""


def begins_like_stream(body: bytes) -> bool:
    """Return whether a body begins like server-sent events; it may be its first part alone."""
    return body.lstrip().startswith(_FIELDS)


def _is_whole(data: list[bytes]) -> bool:
    if not data[-1].rstrip().endswith(b"}"):
        return False
    try:
        json.loads(b"\n".join(data), parse_int=bounded_int)
    except (ValueError, RecursionError):
        return False
    return True


class StreamedCompletion:
    """Puts the pieces of a streamed completion together. Of several choices, only the first is used.

    Attributes:
        ended: whether the last event has come.
    """

    def __init__(self) -> None:
        self.ended = False
        self._size = 0
        self._line = b""
        self._data: list[bytes] = []
        self._head: JsonObject = {}
        self._message: JsonObject = {"role": "assistant", "content": None}
        self._calls: dict[Any, JsonObject] = {}
        self._reason: Any = None
        self._whole: JsonObject | None = None
        self._events = 0

    @property
    def size(self) -> int:
        """Characters that are kept."""
        return self._size + len(self._line) + sum(map(len, self._data))

    def feed(self, part: bytes) -> None:
        """Take the next bytes."""
        # A line may end with CR, LF or both; providers send no lone CR.
        *lines, self._line = (self._line + part).split(b"\n")
        for line in lines:
            self._take_line(line.rstrip(b"\r"))

    def result(self) -> JsonObject:
        """Return the completion, or the error that came instead.

        Raises:
            BadStream: the stream broke off, or held no completion.
        """
        self._take_line(self._line.rstrip(b"\r"))
        self._take_line(b"")
        if self._whole is not None:
            return self._whole
        if not self._events:
            raise BadStream("sent a stream without a completion in it")
        if self._reason is None and not self.ended:
            raise BadStream("broke off in the middle of its answer")
        message = dict(self._message)
        if self._calls:
            message["tool_calls"] = list(self._calls.values())
        choice = {"index": 0, "message": message, "finish_reason": self._reason}
        return {**self._head, "object": "chat.completion", "choices": [choice]}

    def _take_line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            value = line[5:].lstrip(b" ")
            if self._data and value[:1] in b"{[" and _is_whole(self._data):
                self._take_line(b"")  # some servers send no blank line between the events
            self._data.append(value)
        elif line.startswith(b"{"):  # a whole answer behind comments that kept the connection alive
            self._data.append(line)
        elif not line and self._data:
            data, self._data = b"\n".join(self._data), []
            self._take_event(data)

    def _take_event(self, data: bytes) -> None:
        if data.strip() == b"[DONE]":
            self.ended = True
            return
        try:
            chunk = json.loads(data, parse_int=bounded_int)
        except (ValueError, RecursionError):
            return  # such as a text to keep the connection alive
        if not isinstance(chunk, dict) or too_deep(chunk):
            return
        if chunk.get("error"):
            self._whole = self._whole or {"error": chunk["error"]}
            return
        choices = chunk.get("choices")
        for name, value in chunk.items():
            if name not in ("choices", "object", "usage") or (name == "usage" and value):
                self._head[name] = value
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                self._events += 1
                self._take_choice(choice, chunk)

    def _take_choice(self, choice: JsonObject, chunk: JsonObject) -> None:
        if isinstance(choice.get("message"), dict) and not choice.get("delta"):
            self._size += len(str(choice["message"]))
            self._whole = chunk
            return
        self._reason = choice.get("finish_reason") or self._reason
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        for name, value in delta.items():
            if name == "tool_calls":
                for place, call in enumerate(value if isinstance(value, list) else ()):
                    if isinstance(call, dict):
                        self._take_call(call, place)
            elif name != "role" and value is not None:
                self._join(self._message, name, value)

    def _take_call(self, piece: JsonObject, place: int) -> None:
        key = piece.get("index")
        if not isinstance(key, (int, str)):  # Gemini and others number none: an id or a name begins a new call
            function = piece.get("function")
            begins = piece.get("id") or (isinstance(function, dict) and function.get("name"))
            key = f"{len(self._calls)}+" if begins or not self._calls else list(self._calls)[-1]
        elif piece.get("id") and self._calls.get(key, {}).get("id") not in (None, "", piece["id"]):
            key = f"{len(self._calls)}+"  # every call has the same number
        call = self._calls.setdefault(key, {"type": "function", "function": {"name": "", "arguments": ""}})
        for name, value in piece.items():
            if name == "function":
                self._take_function(call["function"], value if isinstance(value, dict) else {})
            elif name == "id":
                call["id"] = call.get("id") or value
            elif name not in ("index", "type") and value is not None:
                self._size += len(str(value))
                call[name] = value

    def _take_function(self, function: JsonObject, piece: JsonObject) -> None:
        for name, value in piece.items():
            if name == "name":
                written = function["name"]
                if isinstance(value, str) and value != written:  # some repeat the name in every piece
                    function["name"] = written + value
            elif value is not None:
                self._join(function, name, value)

    def _join(self, target: JsonObject, name: str, value: Any) -> None:
        """Add a piece to a field: texts and lists go on, anything else takes the place of what was there."""
        before: Any = target.get(name)
        self._size += len(value) if isinstance(value, str) else len(str(value))
        if name == "arguments" and value in ("", {}) and before:
            return
        pieces = isinstance(value, list) or (name in _JOINED and isinstance(value, str))
        target[name] = before + value if pieces and isinstance(before, type(value)) else value
