"""The values of a task: random ones that no model can know, and others computed from them for the checks."""

from __future__ import annotations

import base64
import hashlib
import random
import re
from collections.abc import Mapping
from typing import Callable

Values = Mapping[str, str]

NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_PLACE = re.compile(r"\{([a-z][a-z0-9_]*)\}")

MOST = 60
"""Letters or digits of a random value."""


def fill(text: str, values: Values) -> str:
    """Replace each ``{name}`` by its value. Braces around anything but a name stay.

    Raises:
        ValueError: there is no value of that name.
    """

    def value(match: re.Match[str]) -> str:
        try:
            return values[match[1]]
        except KeyError:
            raise ValueError(f"{match[0]} is no value; the values are {', '.join(values) or 'none'}") from None

    return _PLACE.sub(value, text)


def make(rules: Mapping[str, object], rng: random.Random, given: Values) -> dict[str, str]:
    """Make a task's values, in the order of their rules.

    Args:
        rules: by the value's name, a mapping of one entry: the kind and what it takes.
        rng: for the random ones.
        given: values that are there already.

    Raises:
        ValueError: a rule is wrong; the message names the value.
    """
    values = dict(given)
    for name, rule in rules.items():
        if not NAME.match(name) or name in values:
            raise ValueError(f"{name!r} is no name for a value, or is one already; use small letters, digits and '_'")
        try:
            values[name] = _made(rule, rng, values)
        except ValueError as exc:
            raise ValueError(f"the value {name!r}: {exc}") from None
    return values


def _made(rule: object, rng: random.Random, values: Values) -> str:
    kinds = ", ".join([*_RANDOM, *_OF_TEXT, *_OF_NUMBERS])
    if not isinstance(rule, dict) or len(rule) != 1:
        raise ValueError(f"it must be one kind with what it takes; the kinds are {kinds}")
    ((kind, taken),) = rule.items()
    if kind in _RANDOM:
        if type(taken) is not int or not 1 <= taken <= MOST:
            raise ValueError(f"{kind} takes a whole number from 1 to {MOST}, not {taken!r}")
        return _RANDOM[kind](rng, taken)
    if kind in _OF_TEXT:
        if not isinstance(taken, str):
            raise ValueError(f"{kind} takes a text, with {{name}} for a value, not {taken!r}")
        return _OF_TEXT[kind](fill(taken, values))
    if kind in _OF_NUMBERS:
        if not isinstance(taken, list) or len(taken) < 2:
            raise ValueError(f"{kind} takes a list of two or more numbers or names of values, not {taken!r}")
        numbers = [_number(one, values) for one in taken]
        result = numbers[0]
        for number in numbers[1:]:
            result = _OF_NUMBERS[kind](result, number)
        return str(result)
    raise ValueError(f"there is no kind {kind!r}; the kinds are {kinds}")


def _number(one: object, values: Values) -> int:
    if type(one) is int:
        return one
    text = values.get(one, "") if isinstance(one, str) else ""
    if not re.fullmatch(r"-?\d+", text, re.ASCII):
        raise ValueError(f"{one!r} is neither a whole number nor the name of a value that is one")
    return int(text)


def _word(rng: random.Random, letters: int) -> str:
    """Return a word that can be spoken: a tokenizer splits it into few pieces, so that a model copies it well."""
    pairs = (rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(letters))
    return "".join(pairs)[:letters]


def _digits(rng: random.Random, digits: int) -> str:
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def _divided(dividend: int, divisor: int) -> int:
    if not divisor:
        raise ValueError("it divides by 0")
    return dividend // divisor


def _rest(dividend: int, divisor: int) -> int:
    if not divisor:
        raise ValueError("it divides by 0")
    return dividend % divisor


_RANDOM: Mapping[str, Callable[[random.Random, int], str]] = {"letters": _word, "digits": _digits}

_OF_TEXT: Mapping[str, Callable[[str], str]] = {
    "sha256": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "upper": str.upper,
    "reverse": lambda text: text[::-1],
}

_OF_NUMBERS: Mapping[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": _divided,
    "remainder": _rest,
}
