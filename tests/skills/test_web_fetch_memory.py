"""Reading a hostile page takes little more memory than the page has characters."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from skills.web_fetch.lines import MAX_TEXT, Lines
from skills.web_fetch.page import Page
from skills.web_fetch.reading import FetchedAnswer, read

SIZE = 120_000


def filled(start: str, unit: str) -> str:
    return (start + unit * (SIZE // len(unit)))[:SIZE]


HOSTILE = {
    "a line for each letter": filled("", "é <br>"),
    "a space behind each letter": filled("", "x "),
    "a part for each letter": filled("", "<main>a</main>"),
    "a reference for each letter": filled("", "&amp; "),
    "preformatted lines": filled("<pre>", "a\n"),
    "a title without an end": filled("<title>", "a &lt; "),
    "a link of many pieces": filled("<a href=/>", "ab<b>"),
    "one long tag": filled("<a", "A"),
    "one long attribute": filled("<a ", "A"),
    "one long value": filled("<a href='", "&amp;"),
    "less-than signs": filled("", "<"),
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_a_page_is_read_in_bounded_memory(source: str) -> None:
    Page("<p>warm", "http://host/")
    tracemalloc.start()
    try:
        page = Page(source, "http://host/")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 3 * SIZE
    assert len(page.text) <= MAX_TEXT


def test_what_is_kept_of_a_page_while_another_is_fetched_is_small() -> None:
    body = filled("<pre>", "a\n").encode()
    answer = FetchedAnswer("http://host/", 200, "OK", {"content-type": ["text/html"]}, None, None, body, "")
    reading = read(answer, 2 * SIZE)
    assert reading.answer.body is None
    assert reading.length > MAX_TEXT >= len(reading.text or "")
    plain = read(answer._replace(headers={"content-type": ["text/plain"]}), 2 * SIZE)
    assert (plain.length, len(plain.text or "")) == (SIZE, MAX_TEXT)


pieces = st.lists(st.sampled_from(["a", "bc", " ", "\n", "\t", "\n\n", "d e\nf ", "\xa0", "x" * (MAX_TEXT // 3)]))


@given(pieces)
def test_lines_are_the_same_as_those_of_the_whole_text_and_its_beginning_is_kept(added: list[str]) -> None:
    lines = Lines()
    for piece in added:
        lines.add(piece)
    whole = "\n".join(line.rstrip() for line in "".join(added).split("\n") if line.rstrip())
    assert lines.text() == whole[:MAX_TEXT]
    assert lines.length == len(whole)
