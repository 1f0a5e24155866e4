"""Marks text that a model is to read as data: between two lines that the text itself can't hold."""

from __future__ import annotations

import hashlib
import re
import secrets

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


def new_boundary() -> str:
    """A boundary that no text of others can know."""
    return secrets.token_hex(8)


def boundary_of(text: str) -> str:
    """A boundary that is always the same for ``text``, and can't stand in it: it is the text's own digest."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:24]


def mark(kind: str, boundary: str, text: str, *, tool: str = "") -> str:
    """``text`` as data.

    Args:
        kind: what it is, such as ``tool_output``.
        boundary: what closes it; wherever it stands in ``text`` it is taken out.
        tool: the tool's name, where it is one's; a name that a model made up is not repeated.
    """
    named = f' tool="{tool}"' if _PLAIN.match(tool) else ""
    return f'<{kind} id="{boundary}"{named}>\n{text.replace(boundary, "[…]")}\n</{kind} id="{boundary}">'
