"""Makes foreign text fit for errors and logs: without keys, on one line, short."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MAX_QUOTE_CHARS = 300
_MAX_SCANNED_CHARS = 20_000

_SHORTEST_PIECE = 8
"""Characters. A shorter piece of a key reveals too little, and hiding it would hide ordinary words."""

_KEY_LIKE = re.compile(r"(?i)\bsk-[a-z0-9_*.-]{6,}|\bbearer\s+[^\s\"'<>,;]+")
_MARKUP = re.compile(r"(?is)<(script|style)\b.*?</\1\s*>|<[^>]*>")
_UNPRINTABLE = re.compile(r"[^\S ]+|[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


class Redactor:
    """Hides known secrets, whole or in pieces of at least eight characters, and text that looks like a key.

    Args:
        secrets: the known secrets.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in (secret, quote(secret, safe=""), quote_plus(secret))}
        self._secrets = tuple(sorted((form for form in forms if form), key=len, reverse=True))

    def __repr__(self) -> str:
        return f"Redactor(<{len(self._secrets)} hidden>)"

    def hide(self, text: str) -> str:
        """Return ``text`` with every secret replaced by ``***``."""
        for secret in self._secrets:
            text = self._hide_pieces(text, secret)
        return _KEY_LIKE.sub("***", text)

    def quote(self, text: str) -> str:
        """Return :meth:`line` of ``text``, at most :data:`MAX_QUOTE_CHARS` long, in quotation marks.

        Empty if nothing is left of the text.
        """
        line = self.line(text, MAX_QUOTE_CHARS)
        return f'"{line}"' if line else ""

    def line(self, text: str, limit: int) -> str:
        """Return ``text`` redacted, without markup, on one line, cut to ``limit`` characters."""
        text = text[:_MAX_SCANNED_CHARS]
        if text.lstrip()[:1] == "<":
            text = _MARKUP.sub(" ", text)
        text = " ".join(self.hide(_UNPRINTABLE.sub(" ", text)).split())
        return text if len(text) <= limit else text[:limit].rstrip() + "…"

    @staticmethod
    def _hide_pieces(text: str, secret: str) -> str:
        """Replace each longest piece of ``text`` that occurs in ``secret``, if it is long enough to reveal it."""
        shortest = min(_SHORTEST_PIECE, len(secret))
        kept, start, at = [], 0, 0
        while at + shortest <= len(text):
            end = at + shortest
            if text[at:end] not in secret:
                at += 1
                continue
            while end < len(text) and text[at : end + 1] in secret:
                end += 1
            kept += [text[start:at], "***"]
            start = at = end
        kept.append(text[start:])
        return "".join(kept)
