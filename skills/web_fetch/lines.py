"""Collect the lines of a text, of which only the beginning is kept: a page of 2 MB would take 90 MB otherwise."""

from __future__ import annotations

MAX_TEXT = 20_000
"""Characters to keep, more than web_fetch ever shows."""

_MANY = 200
"""Lines, or pieces of one, to keep apart."""


class Lines:
    """Takes a text piece by piece. Its lines lose the spaces at their ends, and empty ones are left out.

    Attributes:
        length: characters of all ended lines, those included that are not kept.
    """

    def __init__(self) -> None:
        self.length = 0
        self._kept: list[str] = []
        self._room = MAX_TEXT
        self._line: list[str] = []  # the beginning of the line that has not ended
        self._line_length = 0
        self._spaces = 0  # at its end

    def add(self, text: str) -> None:
        """Add a piece, which may hold any number of lines."""
        first, *others = text.split("\n")
        self._add(first)
        for other in others:
            self.end_line()
            self._add(other)

    def end_line(self) -> None:
        """Begin another line."""
        length = self._line_length - self._spaces
        if length:
            if self.length:
                length += 1
                self._line.insert(0, "\n")
            if self._room > 0:
                self._kept.append("".join(self._line)[: min(length, self._room)])
                self._room -= len(self._kept[-1])
                if len(self._kept) > _MANY:
                    self._kept = ["".join(self._kept)]
            self.length += length
        self._line = []
        self._line_length = self._spaces = 0

    def text(self) -> str:
        """Return the beginning of the text, with its last line ended."""
        self.end_line()
        return "".join(self._kept)

    def _add(self, part: str) -> None:
        if not part:
            return
        if self._line_length < self._room:
            self._line.append(part)
            if len(self._line) > _MANY:
                self._line = ["".join(self._line)]
        stripped = len(part.rstrip())
        self._spaces = len(part) - stripped + (0 if stripped else self._spaces)
        self._line_length += len(part)
