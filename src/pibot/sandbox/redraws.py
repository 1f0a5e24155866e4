"""Show the last state of lines that a program draws again, such as a progress bar, as a terminal would.

Two thousand frames of a bar say no more than the last one, and would drive the rest out of a limited output.
"""

from __future__ import annotations

import codecs
import re

ROWS = 64
"""Lines that can still be drawn again: a cursor moves no higher."""

MAX_ROW = 4096
"""Characters of a line that can still be drawn again."""

MAX_STEPS = 100_000
"""Steps (a control character, or text between two) to follow exactly, 5 μs each on a PC: some 30,000 frames. After
that only the text behind a line's last carriage return counts."""

_HELD = 512
"""The longest control sequence; a longer one that has no end yet is text."""

_CONTROLS = "\r\b\x1b"
_SEQUENCE = (
    r"\x1b\[([0-?]*)[ -/]*([@-~])"  # ECMA-48's control sequences: colours, movements, erasures
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # a string, such as a window's title
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
)
_STEP = re.compile(rf"[^\n\r\x08\x1b]+|\n|\r+|\x08|{_SEQUENCE}|\x1b")
_ANY_SEQUENCE = re.compile(rf"{_SEQUENCE}|\x08")
_OVERWRITTEN = re.compile(r"^[^\n]*\r(?=[^\n\r])", re.MULTILINE)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)\Z")


class Screen:
    """Takes a command's output piece by piece, and gives what can no longer change.

    It holds :data:`ROWS` lines and about 64 kB at most.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rows = [""]
        self._row = 0
        self._column = 0
        self._held = ""  # the beginning of a control sequence
        self._saved = 0, 0
        self._steps = 0

    def add(self, data: bytes) -> bytes:
        """Take a piece of output; return what is now final."""
        text = self._held + self._decoder.decode(data)
        self._held = ""
        if "\x1b" in text[-_HELD:]:
            unfinished = _UNFINISHED.search(text, len(text) - _HELD if len(text) > _HELD else 0)
            if unfinished is not None:
                self._held, text = text[unfinished.start() :], text[: unfinished.start()]
        final: list[str] = []
        if self._steps < MAX_STEPS and (not self._at_the_end() or any(c in text for c in _CONTROLS)):
            for step in _STEP.finditer(text):
                self._follow(step, final)
        else:
            self._append(text, final)
        self._settle(final)
        return "".join(final).encode("utf-8", "replace")

    def end(self) -> bytes:
        """Return the lines that were not final yet."""
        text = "\n".join(self._rows) + self._held + self._decoder.decode(b"", final=True)
        self._rows, self._row, self._column, self._held = [""], 0, 0, ""
        return text.encode("utf-8", "replace")

    def _at_the_end(self) -> bool:
        return self._row == len(self._rows) - 1 and self._column == len(self._rows[-1])

    def _append(self, text: str, final: list[str]) -> None:
        """Add text without following its controls: it has none, or too many have come."""
        if "\x1b" in text or "\b" in text:
            text = _ANY_SEQUENCE.sub("", text)
        text = self._rows.pop() + text
        if "\r" in text:
            text = _OVERWRITTEN.sub("", text.replace("\r\n", "\n"))
        before, *rows = text.rsplit("\n", ROWS)
        if len(rows) == ROWS:
            final.extend(f"{row}\n" for row in self._rows)
            final.append(f"{before}\n")
            self._rows = rows
        else:
            self._rows += [before, *rows]
        self._row, self._column = len(self._rows) - 1, len(self._rows[-1])

    def _follow(self, step: re.Match[str], final: list[str]) -> None:
        self._steps += 1
        text, first = step.group(), step.group()[0]
        if first == "\n":
            self._row, self._column = self._row + 1, 0
            if self._row == len(self._rows):
                self._rows.append("")
                if len(self._rows) > ROWS:
                    self._release(final)
        elif first == "\r":
            self._column = 0
        elif first == "\b":
            self._column = max(self._column - 1, 0)
        elif first == "\x1b":
            self._control(step[2] or text[1:], step[1] or "")
        else:
            row = self._rows[self._row].ljust(self._column)
            self._rows[self._row] = row[: self._column] + text + row[self._column + len(text) :]
            self._column += len(text)
            if self._column > MAX_ROW:
                self._settle(final)

    def _control(self, command: str, parameters: str) -> None:
        """Follow a control sequence that moves the cursor or erases. Others change no text."""
        numbers = [int(n[:4]) for n in re.findall(r"\d+", parameters)]
        count = max(numbers[0], 1) if numbers else 1
        row = self._rows[self._row]
        if command in ("A", "F", "M"):
            self._row = max(self._row - count, 0)
        elif command in ("B", "E"):
            self._row = min(self._row + count, len(self._rows) - 1)
        elif command == "C":
            self._column = min(self._column + count, MAX_ROW)
        elif command == "D":
            self._column = max(self._column - count, 0)
        elif command == "G":
            self._column = min(count - 1, MAX_ROW)
        elif command in ("s", "7"):
            self._saved = self._row, self._column
        elif command in ("u", "8"):
            self._row, self._column = min(self._saved[0], len(self._rows) - 1), self._saved[1]
        elif command in ("H", "f"):
            self._row = min(count, len(self._rows)) - 1
            self._column = min(max(numbers[1], 1) - 1, MAX_ROW) if len(numbers) > 1 else 0
        elif command == "K":
            self._rows[self._row] = _erased(row, self._column, numbers)
        elif command == "J" and numbers[:1] in ([2], [3]):
            self._rows, self._row = [""], 0
        elif command == "J" and numbers[:1] != [1]:
            self._rows[self._row :] = [row[: self._column]]
        elif command == "P":
            self._rows[self._row] = row[: self._column] + row[self._column + count :]
        if command in ("E", "F"):
            self._column = 0

    def _release(self, final: list[str]) -> None:
        """Make the first line final."""
        final.append(f"{self._rows.pop(0)}\n")
        self._row -= 1

    def _settle(self, final: list[str]) -> None:
        """Make lines final, the first of them first, until the rest is small."""
        while len(self._rows) > 1 and self._row > 0 and sum(map(len, self._rows)) > 16 * MAX_ROW:
            self._release(final)
        if len(self._rows[self._row]) > MAX_ROW and self._at_the_end():
            while len(self._rows) > 1:
                self._release(final)
            final.append(self._rows[0])
            self._rows, self._column = [""], 0


def _erased(row: str, column: int, numbers: list[int]) -> str:
    how = numbers[0] if numbers else 0
    if how == 2:
        return ""
    return " " * column + row[column:] if how == 1 else row[:column]
