"""Removes the provider's key from its answers: some providers repeat it, or a part of it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

from pibot.contracts import JsonObject
from pibot.settings import SHORTEST_KEY

if TYPE_CHECKING:
    from pibot.llm_client.configuration import Endpoint

HIDDEN = "***"

SHORTEST_PIECE = 8
"""Characters of a key's beginning from which on the text of a stream is held back until it is known how it goes on."""

MAX_BEGINNINGS = 256
"""How many texts of a stream may be in the middle of a key at once."""

_ESCAPE = re.compile(rb"\\[u/\"\\]")
"""How JSON may write a printable ASCII character other than by itself."""

_Path = tuple[Union[str, int], ...]


class AnswerRedactor:
    """Removes one provider's secrets from its answers.

    Args:
        endpoint: where the provider is; it knows the secrets.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._of_refusals = endpoint.redactor
        # A short key, such as the offline model's, may be an ordinary word of an answer.
        self.secrets = tuple(secret for secret in endpoint.secrets if len(secret) >= SHORTEST_KEY)

    def header(self, value: str) -> str:
        """Return a header without the secrets."""
        for secret in self.secrets:
            value = value.replace(secret, HIDDEN)
        return value

    def body(self, status: int, content: bytes) -> bytes:
        """Return a body without the secrets; that of a refusal also without parts of them."""
        if status >= 400:
            return self._of_refusals.hide(content.decode("utf-8", "replace")).encode()
        return self.part(content)

    def part(self, content: bytes) -> bytes:
        """Return a body, or a part of one, without the secrets, however JSON writes them."""
        for secret in self.secrets:
            content = content.replace(secret.encode(), HIDDEN.encode())
        if self.secrets and _ESCAPE.search(content):
            with contextlib.suppress(ValueError, RecursionError):
                text = json.dumps(json.loads(content))
                written = [json.dumps(secret)[1:-1] for secret in self.secrets]
                if any(secret in text for secret in written):
                    for secret in written:
                        text = text.replace(secret, HIDDEN)
                    return text.encode()
        return content


@dataclass
class _Beginning:
    """The beginning of a secret, with which a text of a stream ends so far.

    Args:
        length: its characters.
        held: how many of them, at its end, are not passed on yet.
    """

    length: int
    held: int


# docs/decisions.md, D99
class StreamRedactor:
    """Removes the secrets from one stream, also where they are split between events.

    Args:
        answers: knows the secrets.
    """

    def __init__(self, answers: AnswerRedactor) -> None:
        self._answers = answers
        self._beginnings: dict[tuple[_Path, str], _Beginning] = {}
        self.longest = max(map(len, answers.secrets), default=0)

    def part(self, content: bytes) -> bytes:
        """Return a part of the stream that is no JSON event."""
        return self._answers.part(content)

    def event(self, event: bytes, chunk: JsonObject) -> bytes:
        """Return an event of the stream.

        Args:
            event: its bytes.
            chunk: the JSON object in it.
        """
        if not self._answers.secrets:
            return event
        shown = {name: self._text((name,), value) for name, value in chunk.items()}
        if shown != chunk:
            lines = [line for line in event.splitlines() if line and not line.startswith(b"data:")]
            event = b"\n".join([*lines, b"data: " + json.dumps(shown).encode(), b"", b""])
        return self.held(chunk) + self.part(event)

    def held(self, chunk: JsonObject | None = None) -> bytes:
        """Return events in place of what is still held back and will not go on.

        Args:
            chunk: the event before which they are sent; None at the end of the stream.
        """
        ended = None if chunk is None else set(_ended_choices(chunk))
        events = []
        for (path, secret), beginning in tuple(self._beginnings.items()):
            if beginning.held and (ended is None or path[:2] in ended):
                del self._beginnings[path, secret]
                head = {name: value for name, value in (chunk or {}).items() if isinstance(value, (str, int))}
                events.append(b"data: " + json.dumps({**head, **_nested(path, HIDDEN)}).encode() + b"\n\n")
        return b"".join(events)

    def _text(self, path: _Path, value: Any) -> Any:
        """Return a value of an event without the secrets."""
        if isinstance(value, str):
            for secret in self._answers.secrets:
                value = self._go_on(path, secret, value) if path[0] == "choices" else value.replace(secret, HIDDEN)
            return value
        if isinstance(value, dict):
            return {name: self._text((*path, name), item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._text((*path, _index(place, item)), item) for place, item in enumerate(value)]
        return value

    def _go_on(self, path: _Path, secret: str, piece: str) -> str:
        """Return the next piece of a text, as far as it can be passed on now."""
        before = self._beginnings.pop((path, secret), _Beginning(0, 0))
        text = secret[: before.length] + piece
        passed_on = before.length - before.held
        shown, after = [], 0
        while (at := text.find(secret, after)) >= 0:
            shown += [text[passed_on:at], HIDDEN]
            passed_on = after = at + len(secret)
        longest = min(len(secret) - 1, len(text) - after)
        length = next((n for n in range(longest, 0, -1) if text.endswith(secret[:n])), 0)
        held = min(length, len(text) - passed_on) if length >= SHORTEST_PIECE else 0
        if length:
            self._beginnings[path, secret] = _Beginning(length, held)
            if len(self._beginnings) > MAX_BEGINNINGS:
                del self._beginnings[next(iter(self._beginnings))]
        return "".join([*shown, text[passed_on : len(text) - held]])


def _index(place: int, item: Any) -> int:
    """Return the number of an item in a list: the protocol's own, as for choices and tool calls, or its place."""
    index = item.get("index") if isinstance(item, dict) else None
    return index if isinstance(index, int) else place


def _ended_choices(chunk: JsonObject) -> Iterator[_Path]:
    choices = chunk.get("choices")
    for place, choice in enumerate(choices if isinstance(choices, list) else ()):
        if isinstance(choice, dict) and choice.get("finish_reason") is not None:
            yield "choices", _index(place, choice)


def _nested(path: _Path, value: Any) -> Any:
    """Return an object, or a list's item, that holds ``value`` at ``path``."""
    for name in reversed(path):
        if isinstance(name, str):
            value = {name: value}
        else:
            value = [{"index": name, **value} if isinstance(value, dict) else value]
    return value
