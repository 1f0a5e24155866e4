"""Make an answer into what the model reads."""

from __future__ import annotations

from typing import NamedTuple, Optional

from .body import packings, unpack
from .characters import decode, is_binary
from .lines import MAX_TEXT
from .onward import NEARLY_EMPTY, Onward, onward
from .page import Page

MAX_ANSWER = 19_500
"""The most characters of text and links together, below the 20,000 that a tool's result may have."""

_NO_TEXT = ("audio/", "font/", "image/", "video/")
_HTML_BEGINS = ("<!doctype html", "<html", "<head", "<body", "<title", "<meta", "<script")


class FetchedAnswer(NamedTuple):
    """A server's answer.

    Args:
        url: its address.
        status: its status code.
        reason: the words beside that.
        headers: the values of its headers, by their names in lower case.
        charset: the charset of its Content-Type.
        size: the length of the body as the server says; None if it does not.
        body: the body as it was sent; None if it can't be text.
        ended: why the body is not whole; empty if it is.
    """

    url: str
    status: int
    reason: str
    headers: dict[str, list[str]]
    charset: Optional[str]
    size: Optional[int]
    body: Optional[bytes]
    ended: str

    @property
    def kind(self) -> str:
        return self.header("content-type").partition(";")[0].strip().lower()

    def header(self, name: str) -> str:
        return ", ".join(self.headers.get(name, ()))


class Reading(NamedTuple):
    """An answer, read.

    It is small, as it may be kept while another page is fetched.

    Args:
        answer: that answer, without its body.
        head: the lines about it.
        page: the page; None if it is no HTML.
        text: the beginning of the text; None if it has none.
        length: characters of the whole text.
        onward: where it leads.
    """

    answer: FetchedAnswer
    head: list[str]
    page: Optional[Page]
    text: Optional[str]
    length: int
    onward: Onward


def may_be_text(kind: str) -> bool:
    """Return whether a type may stand for text. Only the body tells, since many servers call any file octet-stream."""
    return not kind.startswith(_NO_TEXT) or kind.endswith(("+xml", "+json"))


def read(answer: FetchedAnswer, limit: int) -> Reading:
    """Read an answer. A large page takes a slow computer some seconds.

    Args:
        limit: bytes that the body may have when it is unpacked.

    Raises:
        ToolError: it can't be unpacked.
    """
    kind = answer.header("content-type")
    head = [f"url: {answer.url}", f"status: {answer.status} {answer.reason}".rstrip(), f"type: {kind or 'not stated'}"]
    nowhere = Onward(None, answer.url)
    body, ended = answer.body, ""
    if body is not None:
        body, ended = unpack(body, packings(answer.headers.get("content-encoding", [])), limit)
        if is_binary(body) and not (answer.charset or "").lower().startswith("utf-16"):
            body = None
    if body is None:
        known = "of unknown size" if answer.size is None else f"of {answer.size} bytes"
        head.append(f"note: this is no text, but a file {known}; its content is not shown")
        return Reading(answer._replace(body=None), head, None, None, 0, nowhere)
    ended = answer.ended or ended
    text = decode(body, answer.charset, cut=bool(ended))
    page, length = None, len(text)
    if _is_html(answer.kind, text):
        page = Page(text, answer.url)
        nowhere = onward(page, answer.header("refresh"))
        text, length = page.text, page.length
        if len(text) < NEARLY_EMPTY and page.spare:
            text = f"{text}\n{page.spare}".lstrip("\n")
            length = len(text)
        head.append(f"title: {page.title or '(none)'}")
        if not text and page.description:
            head.append(f"description: {page.description}")
        if not text and page.data.strip():
            head.append("note: the page shows no text; this is the data that it holds for its scripts")
            text = page.data.strip()
            length = len(text)
    if ended:
        head.append(f"note: the answer is not whole; {ended}")
    return Reading(answer._replace(body=None), head, page, text[:MAX_TEXT], length, nowhere)


def show(reading: Reading, include: str, max_chars: int, notes: list[str]) -> str:
    """Return what the model reads.

    Args:
        include: ``text``, ``links`` or ``all``.
        max_chars: characters of text.
        notes: what to say beside it.
    """
    head = [*reading.head, *(f"note: {note}" for note in (*reading.onward.hints, *notes))]
    text, page = reading.text, reading.page
    if text is None:
        return "\n".join(head)
    shown = []
    if include in ("text", "all"):
        if reading.length > max_chars:
            note = f"note: the text was cut, it has {reading.length} characters"
            if page is not None and reading.length == page.length:
                first = page.main_part_first
                note += "; the main part of the page comes first" if first != text else ""
                text = first
            head.append(note)
        shown += ["", text[:max_chars] or "(no text)"]
    if include in ("links", "all"):
        room = MAX_ANSWER - sum(map(len, (*head, *shown)))
        links = page.links if page is not None else []
        shown += ["", "Links:", *_fitting([f"- {name or '(no text)'}: {url}" for name, url in links], room)]
    return "\n".join([*head, *shown])


def _is_html(kind: str, text: str) -> bool:
    if "html" in kind:
        return True
    begin = text[:200].lstrip("\ufeff \t\r\n").lower()
    if not kind:
        return begin.startswith("<")
    return kind.endswith("octet-stream") and begin.startswith(_HTML_BEGINS)


def _fitting(lines: list[str], room: int) -> list[str]:
    """Return the first lines, as many as fit, and a note on the rest."""
    for count, line in enumerate(lines):
        room -= len(line) + 1
        if room < 0:
            return [*lines[:count], f"({len(lines) - count} more were left out)"]
    return lines or ["(none)"]
