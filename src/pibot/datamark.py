"""Mark text that a model must read as data, between two lines that the text itself can't contain."""

from __future__ import annotations

import hashlib
import re
import secrets

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


# docs/decisions.md, D53
def new_boundary() -> str:
    """Return a random boundary, which no text can know."""
    return secrets.token_hex(8)


def boundary_of(text: str) -> str:
    """Return a boundary that depends on ``text`` alone and can't occur in it: the text's own digest."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:24]


def mark(kind: str, boundary: str, text: str, *, tool: str = "") -> str:
    """Put ``text`` between marks.

    Args:
        kind: the kind of data, such as ``tool_output``.
        boundary: the id in both marks; removed from ``text``.
        tool: the tool's name, if a tool wrote the text. A name that could not be a tool's is left out.
    """
    named = f' tool="{tool}"' if _PLAIN.match(tool) else ""
    return f'<{kind} id="{boundary}"{named}>\n{text.replace(boundary, "[…]")}\n</{kind} id="{boundary}">'
