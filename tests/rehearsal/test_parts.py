"""The rehearsal model splits a text into parts that its rules know."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pibot.rehearsal.answers import arithmetic
from pibot.rehearsal.parts import split
from pibot.rehearsal.rules import MAX_PART_CHARS, RULES, find_rule


def names(text: str) -> list[tuple[str, tuple[int, ...]]]:
    return [(part.match.rule.name if part.match else "?", part.needs) for part in split(text)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rules_example_fits_that_rule_and_no_earlier_one(rule: object) -> None:
    match = find_rule(rule.example)  # type: ignore[attr-defined]
    assert match is not None
    assert match.rule is rule


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hello!", "greeting"),
        ("Who are you?", "greeting"),
        ("remember that my cat is Tom", "remember"),
        ("What did I tell you before?", "recall"),
        ("What is 2+2?", "calculate"),
        ("How much is 2^10 =", "calculate"),
        ("Sleep for 1 seconds", "sleep"),
        ("sleep 0.25s.", "sleep"),
        ("Wait for 2 minutes", "sleep"),
        ("List files in /home/pi", "list"),
        ("show me all the files in the current directory", "list"),
        ("ls ~/notes", "list"),
        ("Fetch http://127.0.0.1:8000/a?b=c", "fetch"),
        ("What is the title of https://example.com?", "fetch"),
        ("get https://example.com and give me its links", "fetch"),
        ("Create test file", "write"),
        ("create a file called a.txt with 'some text'", "write"),
        ("Save all results in report.md", "write results"),
        ("Show the contents of notes.txt", "read"),
        ("How many words are there in notes.txt?", "count"),
        ("execute the command `ls | wc -l`", "run"),
        ("Show the current time", "date"),
        ("Report temperature", "system"),
        ("How hot is the Pi?", "system"),
        ("What is the free memory of this machine?", "system"),
        ("check the disk space", "system"),
        ("Summarize everything", "sum up"),
        ("Give a summary of all the results", "sum up"),
    ],
)
def test_other_wordings_are_understood(text: str, name: str) -> None:
    match = find_rule(text)
    assert match is not None
    assert match.rule.name == name


@pytest.mark.parametrize(
    "text",
    ["Dance a jig", "Write a poem", "What is the weather?", "memory", "List files in /tmp sorted by size", "", "read"],
)
def test_a_text_that_a_rule_fits_only_in_part_fits_no_rule(text: str) -> None:
    assert find_rule(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("List files in /home/pi", [("list", ())]),
        ("Sleep for 1 seconds, Sleep for 2 seconds", [("sleep", ()), ("sleep", ())]),
        ("Report temperature, memory and load", [("system", ())]),
        ("Report temperature, memory and load and list files", [("system", ()), ("list", ())]),
        ("Download https://x.y/a,b and return the title and list files", [("fetch", ()), ("list", ())]),
        ("Create test file and then read test.txt", [("write", ()), ("read", (0,))]),
        ("Sleep for 1 s, report memory and then what is the date?", [("sleep", ()), ("system", ()), ("date", (0, 1))]),
        ("sleep 1 s. Then list files. Finally, summarize all.", [("sleep", ()), ("list", (0,)), ("sum up", (0, 1))]),
        ("1. sleep 1 s\n2) dance\n- Then sum up the results", [("sleep", ()), ("?", ()), ("sum up", (0, 1))]),
        ("Do this:\n* sleep 1 s then sleep 2 s\n* what is the date", [("sleep", ()), ("sleep", (0,)), ("date", ())]),
        ("Report the memory\nWhat is the date?", [("system", ()), ("date", ())]),
        ("sleep 1 s; dance", [("sleep", ()), ("?", ())]),
        ("Sleep for 1 second and dance", [("?", ())]),
        ("Write 'a; b, then c and d' to x.txt; read x.txt", [("write", ()), ("read", ())]),
        ("Run `sleep 1; ls` and list files", [("run", ()), ("list", ())]),
        ("Can you please sleep for 1 second and then list files?", [("sleep", ()), ("list", (0,))]),
        ("Calculate 2+3 and sleep 1 s, then sum up", [("calculate", ()), ("sleep", ()), ("sum up", (0, 1))]),
        ("List files in . and list files in ./a.", [("list", ()), ("list", ())]),
    ],
)
def test_a_job_is_split_into_parts_with_their_dependencies(text: str, expected: list[object]) -> None:
    assert names(text) == expected


def test_spaces_are_reduced_but_not_in_a_quoted_text() -> None:
    parts = split("Write 'a  b\n c' to x.txt\n\n\n   and   read   x.txt")
    assert [part.text for part in parts] == ["Write 'a  b\n c' to x.txt", "read x.txt"]


@pytest.mark.parametrize(
    "text",
    [
        *("system " * 700, "report " + "system " * 700 + "x", "write " + "the " * 1_000, "read " + "a/" * 2_400 + " "),
        *(
            "“" * 19_000,
            "'a" * 9_000,
            "\n" * 19_000 + "x",
            "a and " * 190,
            "https://" * 2_000,
            "x" * 100_000,
            "1. " * 6_000,
        ),
    ],
)
@pytest.mark.timeout(30)
def test_no_text_takes_long_to_split(text: str) -> None:
    split(text)


@given(st.text(max_size=300), st.sampled_from([", ", " and ", "; ", "\n", " then ", ". "]), st.text(max_size=300))
def test_parts_of_any_text_depend_on_earlier_ones_only(one: str, joint: str, two: str) -> None:
    for place, part in enumerate(split(one + joint + two)):
        assert all(0 <= need < place for need in part.needs)


def test_an_empty_text_has_one_part_without_a_rule() -> None:
    for text in ("", "   ", "\n", ";"):
        assert [part.match for part in split(text)] == [None]


def test_a_very_long_text_is_one_part() -> None:
    assert names("sleep 1 s; dance " + "x" * 30_000) == [("?", ())]


def test_a_very_long_part_fits_no_rule() -> None:
    assert find_rule("Remember this: " + "x" * MAX_PART_CHARS) is None


# --- arithmetic ---

VALUES = {
    "2+3*4": 14,
    "(2+3)*4": 20,
    "-2 - -3": 1,
    "7/2": 3.5,
    "7//2": 3,
    "7%4": 3,
    "2^10": 1024,
    "2**3": 8,
    "6×7": 42,
    "84÷2": 42.0,
    "+1": 1,
    "1.5+1.5": 3.0,
}
NO_ARITHMETIC = (
    *("", "1/0", "2+", "(1", "__import__('os')", "a", "'a'*3", "True+1", "1j", "9**9**9", "2**10000", "1<<99"),
    *("9999999999**60", "(-1)**0.5", "1" * 5_000, "(" * 500, "1e308*1e308", "~1", "1 if 1 else 2", "[1][0]"),
)


@pytest.mark.parametrize("text", VALUES)
def test_arithmetic_has_its_usual_value(text: str) -> None:
    assert arithmetic(text) == VALUES[text]


@pytest.mark.parametrize("text", NO_ARITHMETIC)
@pytest.mark.timeout(10)
def test_an_expression_that_is_not_arithmetic_or_too_large_is_refused(text: str) -> None:
    with pytest.raises((ValueError, ZeroDivisionError, OverflowError)):
        arithmetic(text)
