"""Extract the title, the readable text and the links of a page.

The tokenizer implements a part of the HTML standard (https://html.spec.whatwg.org/#tokenization) and builds no tree.
The standard library's ``html.parser``, which Beautiful Soup builds upon, takes quadratic time on broken tags:
80 kB of ``<a `` held a processor for 70 s, so that 2 MB from a hostile server would stop a worker for hours. Here each
character is read a bounded number of times: an element without an end extends to the end of the page.
"""

from __future__ import annotations

import codecs
import html
import re
from typing import Optional
from urllib.parse import urldefrag, urljoin

MAX_TITLE = 300
MAX_LINKS = 100
MAX_LINK_TEXT = 80
MAX_LINK_URL = 1_000

# --- characters -------------------------------------------------------------

_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([a-zA-Z0-9_:.-]{1,40})", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"\s*<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([a-zA-Z0-9_:.-]{1,40})[\"']")
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

# Python also has codecs that are not character sets of the web, such as punycode, which takes quadratic time.
_WEB_CODEC = re.compile(
    r"utf-(8|16|16-le|16-be)|iso8859-\d+|iso2022_jp|cp(125\d|866|874|932|949|950|936)|koi8-[ru]|gb2312|gbk|gb18030"
    r"|big5(hkscs)?|euc_(jp|kr)|shift_jis|mac-(roman|cyrillic)|tis-620"
)
_EIGHT_BITS = re.compile(r"iso8859-\d+|cp125\d|mac-roman")
# The meaning that the standard gives these labels (https://encoding.spec.whatwg.org/#names-and-labels).
_MEANT = {"ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "gb2312": "gb18030", "gbk": "gb18030"}


def decode(data: bytes, charset: Optional[str], *, cut: bool) -> str:
    """Decode a body.

    The character set comes from the byte order mark, the header's ``charset``, or the page, in this order; the last
    resorts are UTF-8 and windows-1252. Servers are often configured wrong, so valid UTF-8 wins over a stated charset
    that does not match the bytes, and over one of 8 bits, which matches any: other text is hardly ever UTF-8 by chance.

    Args:
        data: the body.
        charset: the charset in the Content-Type header.
        cut: whether the end of the body is missing, so that its last character may be broken.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace")
    stated = [charset or ""]
    stated += [m.group(1).decode() for m in (_XML_ENCODING.match(data[:1024]), _META_CHARSET.search(data[:4096])) if m]
    known = [name for name in map(_codec, stated) if name is not None]
    if known and known[0].startswith("utf-16") and charset is None:
        known[0] = "utf-8"  # as the standard says: the declaration itself is readable as ASCII
    order = [*known[:1], "utf-8"]
    if _EIGHT_BITS.fullmatch(order[0]):
        order.reverse()
    for name in order:
        try:
            return codecs.getincrementaldecoder(name)("strict").decode(data, final=not cut)
        except UnicodeDecodeError:
            continue
    return data.decode(known[0] if known else "cp1252", "replace")


def _codec(label: str) -> Optional[str]:
    """Return Python's name of a character set of the web; None if it is not one."""
    try:
        name = codecs.lookup(label.strip().strip("\"'")).name
    except (LookupError, ValueError):
        return None
    name = _MEANT.get(name, name)
    return name if _WEB_CODEC.fullmatch(name) else None


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
_RAW = frozenset(("iframe", "noembed", "noframes", "script", "style", "textarea", "title", "xmp"))
_UNSEEN = frozenset(("audio", "canvas", "noscript", "object", "svg", "template", "video"))

_TAG_NAME = re.compile(r"[a-zA-Z][^\s/>]*")
_BETWEEN = re.compile(r"[\s/]*")
_ATTRIBUTE_NAME = re.compile(r"=?[^\s/>=]*")
_EQUALS = re.compile(r"\s*=\s*")
_UNQUOTED = re.compile(r"[^\s>]*")
_SPACES = re.compile(r"\s+")
# int() refuses very long numbers in some versions of Python, and takes quadratic time in the others.
_ABSURD_REFERENCE = re.compile(r"&#[xX]?[0-9a-fA-F]{8,};?")


class Page:
    """The visible content of an HTML page.

    Args:
        source: the page.
        url: the page's address, to which its links are relative.

    Attributes:
        title: the title on one line; empty if there is none.
        text: a line for each block, without scripts, styles and hidden elements.
        links: text and absolute address of the first :data:`MAX_LINKS` links, each address once.
    """

    def __init__(self, source: str, url: str) -> None:
        self.title = ""
        self.links: list[tuple[str, str]] = []
        self._base = url
        self._has_base = False
        self._pieces: list[str] = []
        self._seen: set[str] = set()
        self._last = "\n"
        self._preformatted = 0
        self._unseen = ""  # the hidden element that is open
        self._unseen_depth = 0
        self._href: Optional[str] = None
        self._link_from = 0
        self._read(source)
        self._end_link()
        lines = (line.rstrip() for line in "".join(self._pieces).split("\n"))
        self.text = "\n".join(line for line in lines if line)

    def _read(self, source: str) -> None:
        at, end = 0, len(source)
        while at < end:
            start = source.find("<", at)
            if start < 0:
                start = end
            if start > at:
                self._data(source[at:start])
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
            tag = name.group().lower()
            if closing:
                self._close(tag)
                return at
            self._open(tag, attributes)
            return self._raw(source, tag, at) if tag in _RAW else at
        if following in ("!", "?", "/"):
            return _behind(source, ">", start + 1)
        self._data("<")
        return start + 1

    def _raw(self, source: str, tag: str, at: int) -> int:
        """Process an element in which only its own end tag is markup."""
        found = re.compile(rf"</{tag}(?=[\s/>])", re.IGNORECASE).search(source, at)
        end = found.start() if found else len(source)
        if tag == "title" and not self.title and not self._unseen:
            self.title = _SPACES.sub(" ", _unescape(source[at:end])).strip()[:MAX_TITLE]
        return end

    def _open(self, tag: str, attributes: dict[str, str]) -> None:
        if self._unseen:
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
            self._href, self._link_from = attributes.get("href"), len(self._pieces)
        elif tag == "base" and "href" in attributes and not self._has_base:
            self._has_base = True
            self._base = _absolute(self._base, attributes["href"]) or self._base

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

    def _data(self, text: str) -> None:
        if self._unseen:
            return
        text = _unescape(text)
        if not self._preformatted:
            text = _SPACES.sub(" ", text)
            if self._last.isspace():
                text = text.lstrip(" ")
        self._piece(text)

    def _piece(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self._last = text[-1]

    def _new_line(self) -> None:
        if self._last != "\n":
            self._piece("\n")

    def _end_link(self) -> None:
        """Add the open link, if there is one. A new link ends the one before it, so this takes linear time."""
        href, self._href = self._href, None
        if href is None or len(self.links) >= MAX_LINKS:
            return
        url = _absolute(self._base, href)
        if url and url not in self._seen:
            self._seen.add(url)
            text = _SPACES.sub(" ", "".join(self._pieces[self._link_from :])).strip(" -")
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
        name, at = source[at:name_end].lower(), name_end
        equals = _EQUALS.match(source, at)
        value = ""
        if equals is not None:
            at = equals.end()
            quote = source[at : at + 1]
            if quote in ("'", '"'):
                start, at = at + 1, _behind(source, quote, at + 1)
                value = source[start : at - 1]
            else:
                start, at = at, _match_end(_UNQUOTED, source, at)
                value = source[start:at]
        if name == "href":
            found.setdefault(name, _unescape(value[: 2 * MAX_LINK_URL]))


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
