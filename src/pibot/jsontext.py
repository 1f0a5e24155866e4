"""Find the JSON object that a model meant, in a text that also holds prose or code fences."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from typing import Any

from pibot.contracts import bounded_int


def _finite(text: str) -> float | None:
    """Parse a number; None for one that JSON can't express, such as 1e999."""
    number = float(text)
    return number if math.isfinite(number) else None


# Not strict: models write bare line breaks into their strings. NaN and Infinity become null, so that the result can
# always be written as JSON again.
_DECODER = json.JSONDecoder(strict=False, parse_int=bounded_int, parse_float=_finite, parse_constant=lambda _: None)


MAX_BREAKS = 1000
"""Broken objects after which the search ends. Each costs time in proportion to the text before it, and no meaningful
answer has so many."""


def extract_json_object(text: str, *, keys: Collection[str] = ()) -> dict[str, Any] | None:
    """Find the JSON object that a model's answer is about.

    The last object wins, since models think first and answer last. An object inside another is never returned on its
    own, even if the outer one is cut off: a part of a plan must not pass for a whole one. After a broken object the
    search goes on behind the break, up to :data:`MAX_BREAKS` times.

    Args:
        text: the model's answer, with prose, code fences and anything else.
        keys: the wanted object has at least one of these names. If no object does, the last non-empty one wins.

    Returns:
        The object; None if the text holds none.
    """
    best: dict[str, Any] | None = None
    best_rank = -1
    breaks = 0
    start = text.find("{")
    while start >= 0:
        try:
            found, end = _DECODER.raw_decode(text, start)
        except json.JSONDecodeError as exc:
            breaks += 1
            if breaks == MAX_BREAKS:
                break
            start = text.find("{", max(exc.pos, start + 1))
            continue
        except (RecursionError, ValueError):
            break  # nested a thousand deep, or a number with thousands of digits
        rank = 2 if any(key in found for key in keys) else 1 if found else 0
        if rank >= best_rank:
            best, best_rank = found, rank
        start = text.find("{", end)
    return best if best is None or not _SURROGATE.search(text) else _as_text(best)


_SURROGATE = re.compile(r"(?i)\\ud[89a-f]")


def _as_text(found: dict[str, Any]) -> dict[str, Any]:
    """Replace lone surrogates, which half an escaped emoji leaves: they can't be stored or sent."""
    clean: dict[str, Any] = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
    return clean
