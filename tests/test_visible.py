"""Text of others, on its way to a terminal, a log or an owner's decision."""

from __future__ import annotations

import ast
import json
import sys
import unicodedata
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pibot import visible
from pibot.visible import exact, one_line, printable, printable_json

CATEGORIES: dict[str, set[str]] = defaultdict(set)
"""All characters of each of Unicode's categories."""
for code in range(sys.maxunicode + 1):
    CATEGORIES[unicodedata.category(chr(code))].add(chr(code))

INVISIBLE = {
    "a combining grapheme joiner": "\u034f",
    "a soft hyphen": "\u00ad",
    "an Arabic letter mark": "\u061c",
    "Hangul fillers": "\u115f\u1160\u3164\uffa0",
    "Khmer inherent vowels": "\u17b4\u17b5",
    "Mongolian selectors": "\u180b\u180c\u180d\u180e",
    "zero width spaces and joiners": "\u200b\u200c\u200d\u2060\ufeff",
    "direction marks": "\u200e\u200f",
    "overrides and isolates of direction": "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    "invisible operators": "\u2061\u2062\u2063\u2064",
    "an empty Braille cell": "\u2800",
    "variation selectors": "".join(map(chr, range(0xFE00, 0xFE10))),
    "further variation selectors": "".join(map(chr, range(0xE0100, 0xE01F0))),
    "tags": "".join(map(chr, range(0xE0000, 0xE0080))),
    "a Khitan filler and an empty note": "\U00016fe4\U0001d159",
    "odd spaces": "\u00a0\u1680\u2000\u2007\u200a\u2028\u2029\u202f\u205f\u3000",
    "controls": "".join(map(chr, [*range(9), *range(11, 32), *range(127, 160)])),
    "halves of a surrogate pair": "\ud800\udfff",
    "private and unassigned ones": "\ue000\U000f0000\u0378\uffff\U0010ffff",
}


def number(character: str) -> str:
    return f"\\u{{{ord(character):x}}}"


@pytest.mark.parametrize("characters", INVISIBLE.values(), ids=list(INVISIBLE))
def test_an_owner_sees_each_invisible_character_by_its_number(characters: str) -> None:
    for character in characters:
        assert exact(f"rm{character} -r") == f"rm{number(character)} -r"
        assert exact(f"é{character}é") == f"é{number(character)}é"


@pytest.mark.parametrize("category", CATEGORIES)
def test_no_character_of_a_category_controls_a_terminal_or_is_lost(category: str) -> None:
    characters = sorted(CATEGORIES[category] - set("\n\t |"))
    text = "|".join(characters)
    numbers = "|".join(map(number, characters))
    if category[0] == "C":
        assert exact(text) == printable(text) == numbers
        return
    if category[0] == "Z":
        assert exact(text) == numbers
    for show in (exact, printable):
        for character, shown in zip(characters, show(text).split("|")):
            assert shown in (character, number(character))


def test_ordinary_text_stays_as_it_is() -> None:
    for text in (
        "你好\u3000привет — „Grüße“ 10\u00a0€\n\tnaïve",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with a non-joiner
        "\u0915\u094d\u200d\u0937 \u0915\u094d\u200c\u0937",  # Hindi, with a joiner and a non-joiner
        "\u05d0\u05d1\u200f!",  # Hebrew, with a direction mark
        "❤\ufe0f 👩\u200d👩\u200d👧 🏳\ufe0f\u200d🌈 1\ufe0f\u20e3",
        "⣿\u2800\u2800⣿",
    ):
        assert printable(text) == text


def test_a_run_of_joiners_or_selectors_hides_no_message() -> None:
    for hidden in ("\u200c\u200d" * 20, "\ufe0e\ufe0f" * 20, "\ufe0f\u200d" * 20):
        shown = printable(f"😀{hidden}x")
        assert len([c for c in shown if c in hidden]) <= 2
        assert shown.count("\\u{") >= 38
    assert printable("a\u200db\ufe0f") == "a\\u{200d}b\\u{fe0f}"


@given(st.text(st.characters(), max_size=60))  # with surrogates
def test_whatever_the_text_is_it_can_be_written_and_shown_twice(text: str) -> None:
    for show in (exact, printable, one_line):
        shown = show(text)
        shown.encode("utf-8")
        assert show(shown) == shown
        assert not any(unicodedata.category(c)[0] == "C" for c in shown.replace("\n", "").replace("\t", ""))
    assert not any(unicodedata.category(c) in ("Zl", "Zp") for c in printable(text))


@given(st.recursive(st.text(st.characters()), lambda inner: st.dictionaries(st.text(), inner), max_leaves=5))
def test_json_for_a_terminal_holds_the_same_data(data: object) -> None:
    written = printable_json(data)
    assert json.loads(written) == data
    assert exact(written) == written


def test_line_ends_become_one_space() -> None:
    assert one_line("a\r\nb\n\n  c\td\r") == "a b c d\\u{d}"
    assert printable("a\r\nb\rc") == "a\nb\\u{d}c"


def test_the_command_writes_to_the_terminal_in_one_place() -> None:
    """Everything else goes through it, so nothing can forget to make a text printable."""
    folder = Path(visible.__file__).parent / "cli"
    writers = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "click.echo", "click.secho"):
                writers.add(path.name)
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr"):
                writers.add(path.name)
    assert writers == {"terminal.py"}
