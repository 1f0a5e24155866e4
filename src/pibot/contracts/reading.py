"""Reads JSON that another machine wrote, strictly and within bounds. Nothing is believed of the sender.

Every bound holds before anything large is built, and no step takes more than linear time or Python's recursion limit.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Callable, NoReturn, TypeVar

from pibot.contracts.basics import JsonObject
from pibot.errors import ContractError

T = TypeVar("T")

MAX_DEPTH = 64
"""Levels of lists and objects in one another."""

MAX_VALUES = 50_000
"""Values in one text. An empty object takes 64 bytes of memory and three of text, so bytes alone are no bound."""

MAX_DIGITS = 30
"""Digits in a row in a number. Before Python 3.9.14 an integer takes time with the square of its digits."""

MAX_COUNT = 10**12
"""The largest count that is read: bytes, tokens or tasks. Sums of such counts fit SQLite's 64 bits."""

MAX_TIME = 1e11
"""Seconds since the epoch, in the year 5138: beyond it dates can't be shown."""

CUT_MARK = "[what came before was cut]\n"
"""Begins a text that has lost its beginning."""

_BRACKET = re.compile(rb"[\[{]|([\]}])")
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS + 1))
_SURROGATE = re.compile(rb"\\[uU][dD][89a-fA-F]")


def read_object(data: bytes, *, most_bytes: int, most_values: int = MAX_VALUES) -> JsonObject:
    """Read a JSON object from the bytes of an answer.

    Raises:
        ContractError: it is too long, nested too deeply or has too many values; or it is no JSON object in UTF-8, or
            holds NaN, an infinite number, a number of more than :data:`MAX_DIGITS` digits or half of a surrogate pair.
    """
    if len(data) > most_bytes:
        raise ContractError(f"it has more than {most_bytes} bytes")
    _check_form(data, most_values)
    try:
        found = _DECODER.decode(data.decode("utf-8"))
        if _SURROGATE.search(data):
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError:
        raise ContractError("it is not UTF-8") from None
    except UnicodeEncodeError:
        raise ContractError("it holds half of a surrogate pair, which is no text") from None
    except (ValueError, RecursionError) as exc:
        raise ContractError(f"it is not JSON ({str(exc)[:200]})") from None
    if not isinstance(found, dict):
        raise ContractError("it is no JSON object")
    return found


def _check_form(data: bytes, most_values: int) -> None:
    """Count brackets and values outside the texts.

    Escaped quotes are removed first: within a run of backslashes the pairs are, from its start, escaped backslashes.
    Most answers are so short that no such care is needed.

    Raises:
        ContractError: there are too many, or a number is too long.
    """
    if len(data) <= most_values and data.count(b"[") + data.count(b"{") <= MAX_DEPTH and not _LONG_NUMBER.search(data):
        return
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
    too_many = ContractError(f"it has more than {most_values} values")
    if plain.count(b'"') > 4 * most_values:  # a name and a text for each value
        raise too_many
    outside = b"".join(plain.split(b'"')[::2])
    if sum(map(outside.count, (b",", b"[", b"{"))) > most_values:
        raise too_many
    if _LONG_NUMBER.search(outside):
        raise ContractError(f"it holds a number of more than {MAX_DIGITS} digits")
    depth = 0
    for bracket in _BRACKET.finditer(outside):
        depth += -1 if bracket.group(1) else 1
        if depth > MAX_DEPTH:
            raise ContractError(f"it is nested more than {MAX_DEPTH} levels deep")
        if depth < 0:
            return  # it is no JSON, as its reader will say


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)

# --- single values ---


def text(value: object, most: int) -> str:
    """Return ``value`` if it is a text of up to ``most`` characters that can be encoded.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"must be a text of up to {most} characters")
    value.encode("utf-8")  # its error is a ValueError too
    return value


def label(value: object, most: int = 100) -> str:
    """Return ``value`` if it is a short text without line breaks and other characters that can't be seen.

    Raises:
        ValueError: it is not.
    """
    found = text(value, most)
    if not found.isprintable():
        raise ValueError("must have no characters that can't be seen")
    return found


def number(value: object, least: float, most: float) -> float:
    """Return ``value`` if it is a number from ``least`` to ``most``.

    Raises:
        ValueError: it is not; NaN and infinity never are.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ValueError(f"must be a number from {least:g} to {most:g}")
    return float(value)


def count(value: object, most: int = MAX_COUNT) -> int:
    """Return ``value`` if it is a whole number from 0 to ``most``.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"must be a whole number from 0 to {most}")
    return value


def shortened(value: str, most: int) -> str:
    """Return a text cut to ``most`` characters, with a mark where it was."""
    return value if len(value) <= most else value[: most - 1] + "…"


def newest(value: str, most: int) -> str:
    """Return the last ``most`` characters of a text, which begin with a mark where others were cut."""
    return value if len(value) <= most else f"{CUT_MARK}{value[len(value) - most + len(CUT_MARK) :]}"


def too_deep(value: object, most: int = MAX_DEPTH) -> bool:
    """Return whether lists and objects are nested in one another more than ``most`` times."""
    level = [value]
    for _ in range(most):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        if not inner:
            return False
        level = inner
    return any(isinstance(item, (dict, list)) for item in level)


def lenient(body: Mapping[str, Any], name: str, read: Callable[[Any], T]) -> T | None:
    """Read one value; None where it is missing or not as it must be."""
    try:
        return read(body.get(name))
    except ValueError:
        return None


def strict(body: Mapping[str, Any], name: str, read: Callable[[Any], T]) -> T:
    """Read one value.

    Raises:
        ContractError: it is missing or not as it must be; it is named.
    """
    try:
        return read(body.get(name))
    except ValueError as exc:
        raise ContractError(f"{name} {exc}") from None
