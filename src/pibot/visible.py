"""Show text that others wrote (a model, a page, a worker, a caller) without letting it control or hide anything.

:func:`printable` is for every text that goes to a terminal or into a log, :func:`exact` for what an owner decides
about. Both write a character as its number, like ``\\u{1b}``, where showing it could do harm. See docs/decisions.md,
D109.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BLANK = {
    # Invisible although str.isprintable() says otherwise: what is left of Unicode's Default_Ignorable_Code_Point
    # (DerivedCoreProperties.txt), and letters and symbols without a shape.
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2800, 0x3164, 0xFFA0, 0x16FE4, 0x1D159),
    *(0x13441, 0x13442),
    *range(0xFE00, 0xFE10),
    *range(0xE0100, 0xE01F0),
}

_SPACES = frozenset("\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000")
"""Every space of Unicode but the ordinary one."""

_DRAWN_AS_SPACE = _SPACES | {"\u2800"}
"""Harmless to a terminal: they take the room of a space. Chinese uses U+3000, drawings in Braille U+2800."""

_KEPT = frozenset("\n\t") | _DRAWN_AS_SPACE

_HELPERS = "[\u200c-\u200f\u061c\ufe0e\ufe0f]"
_NEEDED = re.compile(f"(?<=[^\x00-\x7f])(?:\ufe0f\u200d|{_HELPERS})|(?<=[0-9#*])\ufe0f(?=\u20e3)")
"""One joiner, direction mark or emoji selector right behind a character that is not ASCII, or an emoji's selector with
its joiner, or that of a keycap: as Persian, Hindi, Hebrew and emoji need them."""

_JSON_ESCAPE = re.compile("[^\n -~]")


def exact(text: str) -> str:
    """Return the text with every character visible: all but the ordinary space, tab and line feed has a shape.

    What has none is shown by its number: controls, formats, odd spaces, surrogates, unassigned and blank characters.
    """
    return _shown(text, frozenset("\n\t"))


def printable(text: object) -> str:
    """Return the text without anything that controls a terminal, fakes the order of its characters, or hides others.

    Like :func:`exact`, but odd spaces stay, and so do the joiners, direction marks and selectors that scripts and
    emoji need. Line feeds and tabs stay too.
    """
    text = str(text).replace("\r\n", "\n")
    if text.isascii() and text.isprintable():
        return text  # nearly every line of a log
    shown, end = [], 0
    for match in _NEEDED.finditer(text):
        if match.start() == end or not _has_shape(text[match.start() - 1]):
            continue  # one of a run: those can hide a message
        shown += [_shown(text[end : match.start()], _KEPT), match.group()]
        end = match.end()
    return "".join([*shown, _shown(text[end:], _KEPT)])


def one_line(text: object) -> str:
    """Return :func:`printable` text on one line: each run of white space becomes one space."""
    return " ".join(printable(text).split())


def printable_json(data: object) -> str:
    """Return indented JSON, in which every character without a shape is escaped: programs read the same data."""
    text = json.dumps(data, ensure_ascii=False, indent=2)
    return _JSON_ESCAPE.sub(lambda match: match[0] if _has_shape(match[0]) else json.dumps(match[0])[1:-1], text)


def shown_call(arguments: Mapping[str, Any]) -> str:
    """Return a call's arguments as :func:`exact` text for people, one below the other."""
    lines = []
    for name, value in arguments.items():
        shown = exact(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        label = exact(name).replace("\n", "\\n")
        lines.append(f"{label}: {shown}" if "\n" not in shown else _block(label, shown))
    return "\n".join(lines) or "(no arguments)"


def _shown(text: str, kept: frozenset[str]) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in kept or _has_shape(c) else f"\\u{{{ord(c):x}}}" for c in text)


def _has_shape(character: str) -> bool:
    """Whether the character is drawn as something. An ordinary space counts.

    ``isprintable`` is false for the categories C and Z of Unicode. Unlike :mod:`unicodedata`, which costs an idle
    worker a megabyte, it is built in.
    """
    return character.isprintable() and ord(character) not in _BLANK


def _block(name: str, text: str) -> str:
    return "\n".join([f"{name}:", *(f"    {line}" for line in text.split("\n"))])
