"""Finding the JSON object that a model meant, in a text that also holds prose or code fences."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from typing import Any


def _finite(text: str) -> float | None:
    """A number as Python has it; None for what JSON cannot say, such as 1e999."""
    number = float(text)
    return number if math.isfinite(number) else None


# Not strict: models write bare line breaks into their strings. NaN and Infinity are no JSON and become null, so
# that whatever is found here can be written out again for any reader.
_DECODER = json.JSONDecoder(strict=False, parse_float=_finite, parse_constant=lambda _: None)


MAX_BREAKS = 1000
"""Broken beginnings of an object after which the search ends: each costs the decoder's error a look at the whole text
before it, and no answer that means something has so many."""


def extract_json_object(text: str, *, keys: Collection[str] = ()) -> dict[str, Any] | None:
    """Find the JSON object that a text is about.

    The last object wins, for models think first and answer last; an object within another is never taken for
    itself, not even where the outer one is broken off: half a plan must not pass for a whole one.

    Where an object breaks, the search goes on behind the break, up to :data:`MAX_BREAKS` times.

    Args:
        text: a model's answer, with prose, code fences, and whatever else it holds.
        keys: names of which the wanted object has at least one. Where an object has one, those without are
            passed over; where none has, the last that is not empty is taken.

    Returns:
        The object; None where the text holds none.
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
            break  # nested a thousand deep, or a number of thousands of digits: no model means that
        rank = 2 if any(key in found for key in keys) else 1 if found else 0
        if rank >= best_rank:
            best, best_rank = found, rank
        start = text.find("{", end)
    return best if best is None or not _SURROGATE.search(text) else _as_text(best)


_SURROGATE = re.compile(r"(?i)\\ud[89a-f]")


def _as_text(found: dict[str, Any]) -> dict[str, Any]:
    """``found`` without lone surrogates, as half an escaped emoji leaves them: they can't be stored or sent."""
    clean: dict[str, Any] = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
    return clean
