"""Names of types that are used everywhere."""

from __future__ import annotations

from typing import Any, Callable

JsonObject = dict[str, Any]

Clock = Callable[[], float]
"""Returns seconds: ``time.time`` for dates that are shown or stored, ``time.monotonic`` for durations."""

MAX_DIGITS = 1_000
"""Digits of a number in JSON. ``float`` has no use for more, and Python before 3.9.14 takes a minute for a million."""


def bounded_int(text: str) -> int:
    """Parse an integer of JSON (``parse_int`` of :func:`json.loads`) in bounded time.

    Raises:
        ValueError: it has more than :data:`MAX_DIGITS` digits.
    """
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} digits, {MAX_DIGITS} are allowed")
    return int(text)
