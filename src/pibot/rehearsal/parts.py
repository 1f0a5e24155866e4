"""Split a text into the parts that the rules know, and find out which part needs which."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pibot.rehearsal.rule import Match
from pibot.rehearsal.rules import find_rule

MAX_CHARS = 20_000
"""A longer text counts as one part."""

MAX_PIECES = 200
"""A text with more pieces between separators counts as one part too."""

MAX_JOINED = 8
"""Pieces that one part may span, for example a list with commas."""

# Separators inside a quoted text or an address do not count.
_KEPT = r"`[^`]*`|\"[^\"]*\"|“[^”]*”|‘[^’]*’|(?<!\w)'(?:[^']|(?<=\w)'(?=\w))*'(?!\w)|https?://\S*[^\s.,;:!?]"
_KEPT_TEXT = re.compile(_KEPT, re.IGNORECASE)
_KEPT_TEXT_OR_SPACES = re.compile(rf"{_KEPT}|(\s{{2,}}|\t)", re.IGNORECASE)

_BULLET = r"(?:\d{1,3}[.)]|[-*•]|step \d{1,3}:?) "
_THEN = r"(?:and )?(?:then|afterwards|after that|finally|lastly|at last)\b,? ?"
_SEPARATOR = re.compile(
    rf"(?P<item>\n{_BULLET})|(?P<line>\n)|(?P<then>(?: ?[,;] ?|(?<=[\w)'\"`])\. | ){_THEN})|(?P<semicolon> ?; ?)"
    r"|(?P<weak> ?, and | and |, |(?<=[\w)'\"`])\. (?=(?-i:[A-Z])))",
    re.IGNORECASE,
)
_LEAD = re.compile(
    rf"(?:{_BULLET})?(?:(?P<then>{_THEN})|first,? |next,? |now |also |please,? |and |(?:can|could|would) you )*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Part:
    """One part of a text.

    Args:
        text: the part's own text.
        match: the rule that it fits, if any.
        needs: the indexes of the parts that must come before it.
    """

    text: str
    match: Match | None
    needs: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Piece:
    """A text between two separators: where it starts and ends, and the kind of separator before it."""

    start: int
    end: int
    sep: str


def split(text: str) -> tuple[Part, ...]:
    """Split ``text`` into its parts, in order; at least one.

    List items, semicolons and "then" always start a part. Lines, sentences, "and" and commas start one only if a rule
    knows every resulting part.
    """
    if len(text) <= MAX_CHARS:
        text = _single_spaced(text)
    found: list[tuple[str, Match | None, str]] = []
    for block in _blocks(_pieces(text)):
        for first, last in _known_runs(text, block) or [(0, len(block) - 1)]:
            words = text[block[first].start : block[last].end]
            lead = _LEAD.match(words)
            assert lead is not None  # it may be empty
            words = words[lead.end() :].strip()
            sep = "late" if lead["then"] and block[first].sep in ("start", "line", "item") else block[first].sep
            if words:
                found.append((words, find_rule(words), sep))
    found = _without_heading(found) or [(text, None, "start")]
    return tuple(
        Part(words, match, needs) for (words, match, _), needs in zip(found, _needs([(m, s) for _, m, s in found]))
    )


def _single_spaced(text: str) -> str:
    """Replace repeated spaces and line ends by single ones, but not within quotes."""

    def single(match: re.Match[str]) -> str:
        spaces: str | None = match[1]
        return match[0] if spaces is None else "\n" if "\n" in spaces else " "

    return _KEPT_TEXT_OR_SPACES.sub(single, text).strip()


def _pieces(text: str) -> list[_Piece]:
    if len(text) > MAX_CHARS:
        return [_Piece(0, len(text), "start")]
    masked = _KEPT_TEXT.sub(lambda m: "x" * len(m.group()), text)
    pieces, start, sep = [], 0, "start"
    for match in _SEPARATOR.finditer(masked):
        pieces.append(_Piece(start, match.start(), sep))
        start, sep = match.end(), str(match.lastgroup)
    pieces.append(_Piece(start, len(text), sep))
    if len(pieces) > MAX_PIECES:
        return [_Piece(0, len(text), "start")]
    return pieces


def _blocks(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Group pieces that only weak separators divide."""
    blocks: list[list[_Piece]] = []
    for piece in pieces:
        if blocks and piece.sep in ("weak", "line"):
            blocks[-1].append(piece)
        else:
            blocks.append([piece])
    return blocks


def _known_runs(text: str, block: Sequence[_Piece]) -> list[tuple[int, int]] | None:
    """Divide a block into as many runs of pieces as possible, so that a rule knows each; None if that is impossible."""
    best: dict[int, list[tuple[int, int]] | None] = {len(block): []}
    for first in range(len(block) - 1, -1, -1):
        best[first] = None
        for last in range(first, min(first + MAX_JOINED, len(block))):
            rest = best[last + 1]
            current = best[first]
            if rest is None or (current is not None and len(current) > len(rest)):
                continue
            words = text[block[first].start : block[last].end]
            lead = _LEAD.match(words)
            if find_rule(words[lead.end() if lead else 0 :]) is not None:
                best[first] = [(first, last), *rest]
    return best[0]


def _without_heading(found: list[tuple[str, Match | None, str]]) -> list[tuple[str, Match | None, str]]:
    """Drop a first part such as "Please do the following:"."""
    if len(found) > 1 and found[0][1] is None and found[0][0].endswith(":"):
        return found[1:]
    return found


def _needs(found: Sequence[tuple[Match | None, str]]) -> list[tuple[int, ...]]:
    """Return for each part the indexes of the parts that it waits for.

    After "then", a part waits for all parts since the previous "then" of its line. "Then" at the beginning of a line,
    and a rule that sums up, wait for all parts before.
    """
    needs: list[tuple[int, ...]] = []
    stage: list[int] = []  # the parts that run in parallel
    waits: tuple[int, ...] = ()  # the parts that they wait for
    for place, (match, sep) in enumerate(found):
        if sep == "late":
            stage, waits = [], tuple(range(place))
        elif sep == "then":
            stage, waits = [], tuple(stage)
        elif sep in ("line", "item"):
            stage, waits = [], ()
        needs.append(tuple(range(place)) if match is not None and match.rule.needs_earlier else waits)
        stage.append(place)
    return needs
