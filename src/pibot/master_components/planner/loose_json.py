"""Find the JSON values in a model's answer, also where they are not quite JSON.

Models write comments, trailing commas, single or typographic quotes, and names without quotes. What is read here is
always one whole value: a value that is cut off, or that can be read in two ways, is no value.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from pibot.contracts import bounded_int

MAX_BREAKS = 1000
"""Broken values after which the search ends. Each costs time in proportion to the text before it."""

MAX_WORK = 400_000
"""Steps that the search for not quite JSON takes at most: about half a second of a Pi."""

MAX_DEPTH = 40
"""Levels of lists and objects in one another."""


@dataclass(frozen=True)
class FoundValue:
    """A list or an object in a text.

    Args:
        data: the value.
        start, end: where it is in the text.
    """

    data: Any
    start: int
    end: int


@dataclass(frozen=True)
class FoundValues:
    """The values of a text.

    Args:
        values: in the order of the text; none is part of another.
        broken: a value broke off after its beginning, so that later ones may be parts of it.
    """

    values: tuple[FoundValue, ...]
    broken: bool


class _NotJson(Exception):
    """The value ends at ``position``, before it is whole."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class _TooMuchWork(Exception):
    """The search took too many steps."""


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


_STRICT = json.JSONDecoder(strict=False, parse_int=bounded_int, parse_float=_finite, parse_constant=lambda _: None)

_START = re.compile(r"[{\[｛［]|<(/?)think(?:ing)?>", re.IGNORECASE)
_THOUGHT_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_SURROGATE = re.compile(r"(?i)\\ud[89a-f]|[\ud800-\udfff]")


def find_values(text: str) -> FoundValues:
    """Find the lists and objects in a text. What a model thought aloud, in ``<think>`` marks, holds none."""
    values: list[FoundValue] = []
    broken = False
    reader = _LooseReader(text)
    position = 0
    breaks = 0
    while breaks < MAX_BREAKS:
        match = _START.search(text, position)
        if match is None:
            break
        position = match.end()
        if match[0].startswith("<"):
            if match[1]:  # the beginning of the thoughts was in the prompt
                values, broken = [], False
                continue
            end = _THOUGHT_END.search(text, position)
            if end is None:
                break
            position = end.end()
            continue
        start = match.start()
        try:
            data, position = _read_at(text, start, reader)
        except _NotJson as exc:
            breaks += 1
            broken = broken or reader.began
            position = max(exc.position, start + 1)
        except (_TooMuchWork, RecursionError, ValueError):  # ValueError: a number with thousands of digits
            broken = True
            break
        else:
            values.append(FoundValue(data, start, position))
    return FoundValues(tuple(values), broken)


def _read_at(text: str, start: int, reader: _LooseReader) -> tuple[Any, int]:
    try:
        data, end = _STRICT.raw_decode(text, start)
    except json.JSONDecodeError:
        data, end = reader.read(start)
    if _SURROGATE.search(text, start, end):  # half a character can't be stored or sent
        data = json.loads(json.dumps(data, ensure_ascii=False).encode("utf-8", "replace"))
    return data, end


# --- not quite JSON ---

_BLANK = re.compile(r"[\s\ufeff\u200b]*")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_WORD = re.compile(r"[A-Za-z_$][\w$.-]*")
_WORDS: dict[str, Any] = {
    "true": True,
    "false": False,
    "null": None,
    "none": None,
    "undefined": None,
    "nan": None,
    "infinity": None,
}
_OPEN_OBJECT, _CLOSE_OBJECT = "{｛", "}｝"
_OPEN_LIST, _CLOSE_LIST = "[［", "]］"
_COLONS = ":："
_COMMAS = ",，"
_QUOTES = {
    '"': '"',
    "＂": "＂",
    "“": "”",
    "”": "”",
    "„": "“",
    "«": "»",
    "'": "'",
    "‘": "’",
    "’": "’",
    "＇": "＇",
    "`": "`",
    "「": "」",
    "『": "』",
}
"""The quotes that begin a text, each with the one that ends it. The first one ends it too, as some keyboards do."""

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_AFTER_A_TEXT = frozenset(_CLOSE_OBJECT + _CLOSE_LIST + _COLONS + _COMMAS)


class _LooseReader:
    """Reads values that are not quite JSON.

    Attributes:
        began: the last value that broke had at least one whole entry.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._work = 0
        self._comments_end = len(text)  # no comment that begins here or later ends
        self.began = False

    def read(self, start: int) -> tuple[Any, int]:
        """Return the value at ``start``, and where it ends.

        Raises:
            _NotJson: there is no whole value.
            _TooMuchWork: it took too many steps.
        """
        self.began = False
        return self._value(start, 0)

    def _value(self, at: int, depth: int) -> tuple[Any, int]:
        self._step()
        char = self._text[at : at + 1]
        if not char or depth > MAX_DEPTH:
            raise _NotJson(at)
        if char in _OPEN_OBJECT:
            return self._object(at + 1, depth)
        if char in _OPEN_LIST:
            return self._list(at + 1, depth)
        if char in _QUOTES:
            return self._string(at)
        return self._plain(at)

    def _object(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        while True:
            at = self._skip(at)
            if self._is(at, _CLOSE_OBJECT):
                return found, at + 1
            key, at = self._key(at)
            at = self._skip(at)
            if not self._is(at, _COLONS):
                raise _NotJson(at)
            found[key], at = self._value(self._skip(at + 1), depth + 1)
            self.began = True
            at = self._skip(at)
            if self._is(at, _COMMAS):
                at += 1
            elif not self._is(at, _CLOSE_OBJECT):
                raise _NotJson(at)

    def _list(self, at: int, depth: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        while True:
            at = self._skip(at)
            if self._is(at, _CLOSE_LIST):
                return found, at + 1
            value, at = self._value(at, depth + 1)
            found.append(value)
            self.began = self.began or isinstance(value, dict)
            at = self._skip(at)
            if self._is(at, _COMMAS):
                at += 1
            elif not self._is(at, _CLOSE_LIST) and not (isinstance(value, dict) and self._is(at, _OPEN_OBJECT)):
                raise _NotJson(at)

    def _key(self, at: int) -> tuple[str, int]:
        if self._is(at, "".join(_QUOTES)):
            return self._string(at)
        word = _WORD.match(self._text, at)
        if word is None:
            raise _NotJson(at)
        return word[0], word.end()

    def _plain(self, at: int) -> tuple[Any, int]:
        """Read a number, a constant, or a word without quotes."""
        number = _NUMBER.match(self._text, at)
        word = number or _WORD.match(self._text, at)
        if word is None or not self._ends_at(word.end()):
            raise _NotJson(at)
        if number is None:
            return _WORDS.get(word[0].lower(), word[0]), word.end()
        if number[0].lstrip("+-").isdecimal():
            return bounded_int(number[0]), number.end()
        return _finite(number[0]), number.end()

    def _string(self, at: int) -> tuple[str, int]:
        """Read a text. A quote within it that is not followed by ``,``, ``:``, ``}`` or ``]`` belongs to it."""
        quote = self._text[at]
        ends = _QUOTES[quote]
        stop = re.compile(f"[\\\\{re.escape(quote + ends)}]")
        parts: list[str] = []
        position, inner = at + 1, 0
        while True:
            self._step()
            found = stop.search(self._text, position)
            if found is None:
                raise _NotJson(at)
            parts.append(self._text[position : found.start()])
            position = found.end()
            if found[0] == "\\":
                part, position = self._escape(position)
                parts.append(part)
            elif inner == 0 and self._ends_at(position):
                return "".join(parts), position
            else:
                if quote != ends:  # a pair of such quotes within the text
                    inner += 1 if found[0] == quote else -1 if inner else 0
                parts.append(found[0])

    def _escape(self, at: int) -> tuple[str, int]:
        char = self._text[at : at + 1]
        if char == "u":
            digits = re.compile(r"(?:[0-9a-fA-F]{4}\\u(?=[dD][c-fC-F]))?[0-9a-fA-F]{4}").match(self._text, at + 1)
            if digits is not None:
                return json.loads(f'"\\u{digits[0]}"'), digits.end()
        if char in _ESCAPES:
            return _ESCAPES[char], at + 1
        # An escape that JSON does not know, such as in a regular expression, stays as it is.
        return (char if char in "\\/" or char in _QUOTES else f"\\{char}"), at + 1

    def _ends_at(self, at: int) -> bool:
        """Return whether a text or a word may end here."""
        at = _BLANK.match(self._text, at).end()  # type: ignore[union-attr]  # it matches everywhere
        char = self._text[at : at + 1]
        return char in _AFTER_A_TEXT or char == "#" or self._text.startswith(("//", "/*"), at)

    def _skip(self, at: int) -> int:
        """Skip blanks and comments."""
        text = self._text
        while True:
            self._step()
            at = _BLANK.match(text, at).end()  # type: ignore[union-attr]  # it matches everywhere
            if text.startswith(("//", "#"), at):
                end = text.find("\n", at)
                at = len(text) if end < 0 else end
            elif text.startswith("/*", at) and at < self._comments_end:
                end = text.find("*/", at + 2)
                if end < 0:
                    self._comments_end = at
                    return at
                at = end + 2
            else:
                return at

    def _is(self, at: int, chars: str) -> bool:
        return self._text[at : at + 1] in chars if at < len(self._text) else False

    def _step(self) -> None:
        self._work += 1
        if self._work > MAX_WORK:
            raise _TooMuchWork
