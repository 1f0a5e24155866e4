"""Leave out what a model thought aloud before its answer."""

from __future__ import annotations

import re

_MARK = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)


def without_thoughts(text: str) -> str:
    """Return a model's text without the ``<think>`` block at its beginning.

    A block that is not closed holds the rest of the text. Marks further on are the text's own: a job may be about them.
    """
    rest = text.lstrip()
    while True:
        mark = _MARK.match(rest)
        if mark is None or mark[1]:
            break
        end = next((found for found in _MARK.finditer(rest, mark.end()) if found[1]), None)
        if end is None:
            return ""
        rest = rest[end.end() :].lstrip()
    return rest if rest != text.lstrip() else text
