"""Extract the title, the readable text and the links of a page.

The tokenizer implements a part of the HTML standard (https://html.spec.whatwg.org/#tokenization) and builds no tree.
The standard library's ``html.parser``, which Beautiful Soup builds upon, takes quadratic time on broken tags:
80 kB of ``<a `` held a processor for 70 s, so that 2 MB from a hostile server would stop a worker for hours. Here each
character is read a bounded number of times: an element without an end extends to the end of the page.
"""

from __future__ import annotations

import html
import re
from typing import Optional
from urllib.parse import urldefrag, urljoin

from .lines import Lines

MAX_TITLE = 300
MAX_LINKS = 100
MAX_LINK_TEXT = 80
MAX_LINK_URL = 1_000
MAX_FRAMES = 20
MAX_MARKED_LINK = 4_000
"""Characters of a link's text to keep before its spaces become one."""

MAX_SPARE = 20_000
"""Characters to keep of what a page shows without scripts or frames, of its scripts, and of their data."""

_BLOCK = 8 * 1024
"""Characters of text to process at once: to replace spaces or references can take 30 times their size."""

_LONGEST_REFERENCE = 40
"""Characters of a named character reference, and a few more."""

_LONGEST_NAME = 20
_PIECES = 200
"""Pieces of text to hold, each of up to so many characters: each takes 50 bytes and more beside these."""

_MAIN, _OTHER, _AROUND = range(3)
"""A part of a page: its main part; what is in no marked part; menus, headers and footers."""

# --- HTML -------------------------------------------------------------------

_BLOCKS = frozenset(
    re.split(
        r"\s+",
        "address article aside blockquote body br caption center dd details dialog dir div dl dt fieldset figcaption "
        "figure footer form h1 h2 h3 h4 h5 h6 head header hr html legend li main menu nav ol option p pre section "
        "select summary table tbody tfoot thead title tr ul",
    )
)
_CELLS = frozenset(("td", "th"))
_RAW = frozenset(("iframe", "noembed", "script", "style", "textarea", "title", "xmp"))
_SPARE = frozenset(("noframes", "noscript"))
_UNSEEN = frozenset(("audio", "canvas", "object", "svg", "template", "video")) | _SPARE
_LANDMARKS = frozenset(("article", "aside", "footer", "header", "main", "nav"))
_MAIN_IDS = frozenset(("article", "bodycontent", "content", "main", "main-content", "maincontent", "mw-content-text"))
_WANTED = frozenset(("content", "href", "http-equiv", "id", "name", "property", "role", "src", "type"))

_TAG_NAME = re.compile(r"[a-zA-Z][^\s/>]*")
_BETWEEN = re.compile(r"[\s/]*")
_ATTRIBUTE_NAME = re.compile(r"=?[^\s/>=]*")
_EQUALS = re.compile(r"\s*=\s*")
_UNQUOTED = re.compile(r"[^\s>]*")
_SPACES = re.compile(r"\s+")
_DESCRIBING = frozenset(("description", "og:description"))
# int() refuses very long numbers in some versions of Python, and takes quadratic time in the others.
_ABSURD_REFERENCE = re.compile(r"&#[xX]?[0-9a-fA-F]{8,};?")


class Page:
    """The visible content of an HTML page.

    Args:
        source: the page.
        url: the page's address, to which its links are relative.

    Attributes:
        title: the title on one line; empty if there is none.
        text: the beginning of its text, with a line for each block, without scripts, styles and hidden elements.
        length: characters of the whole text.
        main_part_first: the beginning of the text with the main part before the rest, and menus, headers and footers
            last.
        links: text and absolute address of the first :data:`MAX_LINKS` links, each address once.
        base: the address to which its addresses are relative.
        description: the description in its head; empty if there is none.
        frames: absolute addresses of the first frames.
        refresh: what it says about going on to another page; None if it says nothing.
        refresh_without_scripts: whether that holds for browsers without scripts only.
        spare: what it shows to browsers without scripts or frames.
        scripts: the scripts within it.
        script_files: whether it loads scripts from elsewhere.
        data: JSON that it holds for its scripts.
    """

    def __init__(self, source: str, url: str) -> None:
        self.title = ""
        self.links: list[tuple[str, str]] = []
        self.base = url
        self.description = ""
        self.frames: list[str] = []
        self.refresh: Optional[str] = None
        self.refresh_without_scripts = False
        self.spare = ""
        self.scripts = ""
        self.script_files = False
        self.data = ""
        self._has_base = False
        self._part_now = _OTHER
        self._landmarks = dict.fromkeys(_LANDMARKS, 0)
        self._main, self._main_depth = "", 0  # an element that is marked as the main part
        self._pieces: list[str] = []  # the last ones
        self._lines = Lines()
        self._parts = (Lines(), Lines(), Lines())
        self._seen: set[str] = set()
        self._last = "\n"
        self._preformatted = 0
        self._unseen = ""  # the hidden element that is open
        self._unseen_depth = 0
        self._href: Optional[str] = None
        self._link: list[str] = []  # its text
        self._link_room = 0
        self._read(source)
        self._end_link()
        self.spare = _lines(self.spare)
        self._take_pieces()
        self.text = self._lines.text()
        self.length = self._lines.length
        self.main_part_first = "\n".join(filter(None, (part.text() for part in self._parts)))

    def _read(self, source: str) -> None:
        at, end = 0, len(source)
        while at < end:
            start = source.find("<", at)
            if start < 0:
                start = end
            while at < start:
                stop = _block_end(source, at, start)
                self._data(source[at:stop])
                at = stop
            at = self._markup(source, start) if start < end else end

    def _markup(self, source: str, start: int) -> int:
        """Process the markup that a ``<`` begins, and return the position behind it."""
        following = source[start + 1 : start + 2]
        if source.startswith("<!--", start):
            return _behind(source, "-->", start + 2)
        closing = following == "/"
        name = _TAG_NAME.match(source, start + 1 + closing)
        if name is not None:
            attributes, at = _attributes(source, name.end())
            tag = _name(source, name.start(), name.end())
            if closing:
                self._close(tag)
                return at
            self._open(tag, attributes)
            return self._raw(source, tag, attributes, at) if tag in _RAW else at
        if following in ("!", "?", "/"):
            return _behind(source, ">", start + 1)
        self._data("<")
        return start + 1

    def _raw(self, source: str, tag: str, attributes: dict[str, str], at: int) -> int:
        """Process an element in which only its own end tag is markup."""
        found = re.compile(rf"</{tag}(?=[\s/>])", re.IGNORECASE).search(source, at)
        end = found.start() if found else len(source)
        if tag == "title" and not self.title and not self._unseen:
            self.title = _SPACES.sub(" ", _unescape(source[at : min(end, at + _BLOCK)])).strip()[:MAX_TITLE]
        elif tag == "script" and not self._unseen:
            self.script_files = self.script_files or "src" in attributes
            kept = "data" if "json" in attributes.get("type", "").lower() else "scripts"
            before = getattr(self, kept)
            if len(before) < MAX_SPARE:
                setattr(self, kept, before + source[at : min(end, at + MAX_SPARE - len(before))].strip() + "\n")
        return end

    def _open(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "meta":
            self._meta(attributes)
        elif self._unseen:
            self._unseen_depth += tag == self._unseen
        elif tag in _UNSEEN:
            self._unseen, self._unseen_depth = tag, 1
        elif tag in _BLOCKS:
            self._new_line()
            self._preformatted += tag == "pre"
            if tag == "li":
                self._piece("- ")
        elif tag in _CELLS and self._last not in "\n\t":
            self._piece("\t")
        elif tag == "a":
            self._end_link()
            self._href, self._link, self._link_room = attributes.get("href"), [], MAX_MARKED_LINK
        elif tag == "base" and "href" in attributes and not self._has_base:
            self._has_base = True
            self.base = _absolute(self.base, attributes["href"]) or self.base
        elif tag in ("frame", "iframe") and len(self.frames) < MAX_FRAMES:
            url = _absolute(self.base, attributes.get("src", ""))
            if url and attributes.get("src", "").strip() and url not in self.frames:
                self.frames.append(url)
        if not self._unseen:
            self._part(tag, attributes, 1)

    def _meta(self, attributes: dict[str, str]) -> None:
        content = attributes.get("content", "")
        if self._unseen not in ("", "noscript"):
            return
        if attributes.get("http-equiv", "").strip().lower() == "refresh" and self.refresh is None:
            self.refresh, self.refresh_without_scripts = content, bool(self._unseen)
        elif not self.description and (attributes.get("name") or attributes.get("property", "")).lower() in _DESCRIBING:
            self.description = _SPACES.sub(" ", content).strip()[: 2 * MAX_TITLE]

    def _part(self, tag: str, attributes: dict[str, str], step: int) -> None:
        """Note that an element begins (1) or ends (-1), with which another part of the page may begin."""
        if tag == self._main:
            self._main_depth += step
            if self._main_depth == 0:
                self._main = ""
        elif not self._main and (attributes.get("role") == "main" or attributes.get("id", "").lower() in _MAIN_IDS):
            self._main, self._main_depth = tag, 1
        elif tag not in _LANDMARKS:
            return
        inside = self._landmarks
        if tag in inside:
            inside[tag] = max(inside[tag] + step, 0)
        if inside["nav"] or inside["aside"]:
            part = _AROUND
        elif inside["main"] or inside["article"] or self._main:
            part = _MAIN
        else:
            part = _AROUND if inside["header"] or inside["footer"] else _OTHER
        if part != self._part_now:
            self._take_pieces()
            self._parts[self._part_now].end_line()
            self._part_now = part

    def _close(self, tag: str) -> None:
        if self._unseen:
            self._unseen_depth -= tag == self._unseen
            if self._unseen_depth == 0:
                self._unseen = ""
        elif tag in _BLOCKS:
            self._new_line()
            self._preformatted -= tag == "pre" and self._preformatted > 0
        elif tag == "a":
            self._end_link()
        if not self._unseen:
            self._part(tag, {}, -1)

    def _data(self, text: str) -> None:
        if self._unseen:
            if self._unseen in _SPARE and len(self.spare) < MAX_SPARE:
                self.spare += _SPACES.sub(" ", _unescape(text[: MAX_SPARE - len(self.spare)])) + "\n"
            return
        text = _unescape(text)
        if not self._preformatted:
            text = _SPACES.sub(" ", text)
            if self._last.isspace():
                text = text.lstrip(" ")
        self._piece(text)

    def _piece(self, text: str) -> None:
        if not text:
            return
        self._pieces.append(text)
        if len(self._pieces) > _PIECES or len(text) > _PIECES:
            self._take_pieces()
        self._last = text[-1]
        if self._href is not None and self._link_room > 0:
            self._link.append(text)
            self._link_room -= len(text)

    def _take_pieces(self) -> None:
        text = "".join(self._pieces)
        self._pieces.clear()
        self._lines.add(text)
        self._parts[self._part_now].add(text)

    def _new_line(self) -> None:
        if self._last != "\n":
            self._piece("\n")

    def _end_link(self) -> None:
        """Add the open link, if there is one. A new link ends the one before it, so this takes linear time."""
        href, self._href = self._href, None
        if href is None or len(self.links) >= MAX_LINKS:
            return
        url = _absolute(self.base, href)
        if url and url not in self._seen:
            self._seen.add(url)
            text = _SPACES.sub(" ", "".join(self._link)).strip(" -")
            self.links.append((text[:MAX_LINK_TEXT], url))


def _attributes(source: str, at: int) -> tuple[dict[str, str], int]:
    """Return the attributes of a tag whose name ends at ``at``, and the position behind the tag."""
    found: dict[str, str] = {}
    while True:
        at = _match_end(_BETWEEN, source, at)
        if at >= len(source):
            return found, at
        if source[at] == ">":
            return found, at + 1
        name_end = _match_end(_ATTRIBUTE_NAME, source, at)
        name, at = _name(source, at, name_end), name_end
        equals = _EQUALS.match(source, at)
        value = ""
        if equals is not None:
            at = equals.end()
            quote = source[at : at + 1]
            if quote in ("'", '"'):
                start, at = at + 1, _behind(source, quote, at + 1)
                value = source[start : min(at - 1, start + 2 * MAX_LINK_URL)]
            else:
                start, at = at, _match_end(_UNQUOTED, source, at)
                value = source[start : min(at, start + 2 * MAX_LINK_URL)]
        if name in _WANTED:
            found.setdefault(name, _unescape(value))


def _name(source: str, start: int, end: int) -> str:
    """Return the name of a tag or an attribute; an empty one if it is too long for any that matters."""
    return source[start:end].lower() if end - start <= _LONGEST_NAME else ""


def _lines(text: str) -> str:
    """Return the lines that are not empty."""
    lines = (line.rstrip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _block_end(source: str, at: int, end: int) -> int:
    """Return where to end a block of text, which is not within a character reference."""
    if end - at <= _BLOCK:
        return end
    stop = at + _BLOCK
    reference = source.rfind("&", stop - _LONGEST_REFERENCE, stop)
    return stop if reference < 0 else reference


def _match_end(pattern: re.Pattern[str], source: str, at: int) -> int:
    match = pattern.match(source, at)
    return match.end() if match else at


def _behind(source: str, end: str, at: int) -> int:
    """Return the position behind the next ``end``; the end of the page if there is none."""
    found = source.find(end, at)
    return len(source) if found < 0 else found + len(end)


def _unescape(text: str) -> str:
    return html.unescape(_ABSURD_REFERENCE.sub("\ufffd", text)) if "&" in text else text


def _absolute(base: str, href: str) -> Optional[str]:
    """Return an absolute http or https address without its fragment; None for any other."""
    try:
        url = urldefrag(urljoin(base, href.strip())).url
    except ValueError:
        return None
    return url if url.lower().startswith(("http://", "https://")) and len(url) <= MAX_LINK_URL else None
