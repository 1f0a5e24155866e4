"""Fetch pages from the public web only.

It follows redirects one by one, and :mod:`.addresses` checks each connection.
"""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple, Optional

from pibot.contracts import ToolContext
from pibot.errors import ToolError

from .addresses import AddressGuard
from .page import Page, decode

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import AbstractResolver
    from yarl import URL

HEADERS = {"User-Agent": "PiBot/3", "Accept": "text/html, */*;q=0.8", "Accept-Encoding": "gzip, deflate"}
REDIRECTS = (301, 302, 303, 307, 308)
MAX_CHARS = 18_000
"""The most characters of text."""

MEMORY_MB = {"web_fetch": 8}
"""Memory that a call takes while it waits for its page: the body, twice for a moment."""

_READING = threading.Lock()
"""Held while a page is read, which can take 30 MB and a processor: reading two at once gains nothing."""

MAX_ANSWER = 19_500
"""The most characters of text and links together, below the 20,000 that a tool's result may have."""


class FetchLimits(NamedTuple):
    """The limits of one fetch.

    Args:
        seconds: time for all of it, redirects included.
        size: bytes of a body, both as sent and as unpacked.
        redirects: redirects to follow.
    """

    seconds: float = 30.0
    size: int = 2 * 1024 * 1024
    redirects: int = 5


async def web_fetch(
    context: ToolContext, url: str, include: Literal["text", "links", "all"] = "text", max_chars: int = 8_000
) -> str:
    """Fetch a page from the public web by GET and give its final address, status, type, title, and text or links.

    Args:
        url: the address, beginning with http:// or https://.
        include: what to give besides the title: the readable text, the links, or both.
        max_chars: how many characters of text to give, from 1 to 18000; the rest is cut.
    """
    guard = AddressGuard(context.options.get("web_allow", ()))
    return await _fetch(url, include, max_chars, guard, FetchLimits())


async def _fetch(
    url: str,
    include: str,
    max_chars: int,
    guard: AddressGuard,
    limits: FetchLimits,
    resolver: Optional[AbstractResolver] = None,
) -> str:
    """Do the work of :func:`web_fetch`, with everything handed in that a test may replace."""
    if not 1 <= max_chars <= MAX_CHARS:
        raise ToolError(f"max_chars must be from 1 to {MAX_CHARS}, not {max_chars}")
    try:
        answer = await asyncio.wait_for(_answer(url, guard, limits, resolver), limits.seconds)
    except asyncio.TimeoutError:
        raise ToolError(f"{url} did not answer in full within {limits.seconds:g} seconds") from None
    shown = await _shown(answer, include, max_chars, limits.size)
    if answer.status >= 400:
        raise ToolError(f"{answer.url} answered with {answer.status} {answer.reason}:\n{shown[:1000]}")
    return shown


# --- the request ------------------------------------------------------------


class FetchedAnswer(NamedTuple):
    """A server's answer after all redirects."""

    url: str
    status: int
    reason: str
    content_type: str
    charset: Optional[str]
    size: Optional[int]
    body: Optional[bytes]
    cut: bool


async def _answer(
    text: str, guard: AddressGuard, limits: FetchLimits, resolver: Optional[AbstractResolver]
) -> FetchedAnswer:
    """Request the address ``text`` and follow its redirects."""
    url = _url(text)
    async with _session(guard, resolver) as session:
        for _ in range(limits.redirects + 1):
            guard.expect(url.host or "")
            async with _get(session, url, guard) as response:
                target = response.headers.get("Location") if response.status in REDIRECTS else None
                if target is None:
                    return await _read(response, limits)
            url = _url(target, url)
    raise ToolError(f"{text} redirects more than {limits.redirects} times, last to {url}")


def _url(text: str, base: Optional[URL] = None) -> URL:
    """Parse an address.

    Raises:
        ToolError: it is malformed, or not one to fetch.
    """
    from yarl import URL

    where = "" if base is None else f"{base} redirects to an address that can't be followed: "
    try:
        url = URL(text.strip()) if base is None else base.join(URL(text.strip()))
        _ = url.port  # parsed only when read
        host = url.host
    except ValueError as exc:
        raise ToolError(f"{where}{text[:200]!r} is no address: {exc}") from None
    if url.scheme not in ("http", "https") or not host:
        raise ToolError(f"{where}{text[:200]!r} must begin with http:// or https:// and a host")
    if url.user is not None or url.password is not None:
        raise ToolError(f"{where}the address holds a user's name or password, which are not sent; leave them out")
    return url.with_fragment(None)


@asynccontextmanager
async def _session(guard: AddressGuard, resolver: Optional[AbstractResolver]) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session for one call, so that the next call shares no cookie and no connection with it."""
    import aiohttp

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=guard, resolver=resolver, use_dns_cache=False, force_close=True),
        headers=HEADERS,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=False,
        auto_decompress=False,
    ) as session:
        yield session


@asynccontextmanager
async def _get(session: aiohttp.ClientSession, url: URL, guard: AddressGuard) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send one request. A network error becomes a :class:`ToolError`."""
    import aiohttp

    try:
        async with session.get(url, allow_redirects=False) as response:
            yield response
    except (
        aiohttp.ClientError,
        OSError,
        UnicodeError,
    ) as exc:  # UnicodeError: from encoding the host name
        raise ToolError(f"{url} could not be fetched: {_explain(exc, guard)}") from exc


def _explain(exc: Exception, guard: AddressGuard) -> str:
    """Describe a network error in one sentence."""
    import aiohttp

    if guard.refused:
        found = ", ".join(dict.fromkeys(guard.refused))
        return f"it leads to {found}, which is not on the public web; only the owner can allow that (PIBOT_WEB_ALLOW)"
    if isinstance(exc, aiohttp.InvalidURL):
        return f"it is no address: {exc.description or exc.url}"
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return f"the certificate of {exc.host} is not valid: {exc.certificate_error}"
    if isinstance(exc, aiohttp.ClientSSLError):
        return f"no secure connection to {exc.host} could be made: {exc.os_error}"
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return f"the name {exc.host} can't be resolved: {exc.os_error.strerror or exc.os_error}"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return f"no connection to {exc.host} port {exc.port}: {exc.os_error.strerror or exc.os_error}"
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return "the server closed the connection without an answer"
    if isinstance(exc, aiohttp.ClientPayloadError):
        return "the connection broke before the answer was whole"
    if isinstance(exc, aiohttp.ClientResponseError):
        return f"the server's answer is no HTTP: {exc.message}"
    return f"{type(exc).__name__}: {exc}"


# --- the body ---------------------------------------------------------------


async def _read(response: aiohttp.ClientResponse, limits: FetchLimits) -> FetchedAnswer:
    """Read the body up to the limits; skip one that is not text."""
    header = response.headers.get("Content-Type", "")
    kind = header.partition(";")[0].strip().lower()
    body, cut = None, False
    if _is_text(kind):
        body, cut = await _body(response, limits)
        if not kind and b"\0" in body[:1024]:
            body = None
    return FetchedAnswer(
        str(response.url), response.status, response.reason or "", header, response.charset, response.content_length,
        body, cut,
    )  # fmt: skip


def _is_text(kind: str) -> bool:
    family, _, name = kind.partition("/")
    return not kind or family == "text" or name in _TEXTS or name.endswith(("+xml", "+json"))


_TEXTS = frozenset(
    ("json", "xml", "javascript", "x-javascript", "ecmascript", "x-ndjson", "yaml", "x-yaml", "toml", "x-sh", "sql")
)


async def _body(response: aiohttp.ClientResponse, limits: FetchLimits) -> tuple[bytes, bool]:
    """Return the unpacked body, and whether it was cut."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise ToolError(f"{response.url} sends its answer packed as {encoding!r}, which was not asked for")
    unpack = _Unpacker(encoding) if encoding not in ("identity", "") else None
    body = bytearray()
    taken = 0
    async for chunk in response.content.iter_chunked(64 * 1024):
        taken += len(chunk)
        # One byte more than allowed shows that the body is longer.
        body += chunk if unpack is None else unpack(chunk, limits.size + 1 - len(body))
        if len(body) > limits.size or taken > limits.size:
            return bytes(body[: limits.size]), True
    return bytes(body), unpack is not None and not unpack.whole


class _Unpacker:
    """Unpacks no more bytes than requested, since 2 MB can unpack to 2 GB."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by their headers
        self._begun = False

    @property
    def whole(self) -> bool:
        return self._stream.eof or not self._begun

    def __call__(self, data: bytes, room: int) -> bytes:
        found = bytearray()
        while data and len(found) < room:
            try:
                found += self._stream.decompress(data, room - len(found))
            except zlib.error as exc:
                if self._encoding != "deflate" or self._begun:
                    raise ToolError(f"the answer is packed as {self._encoding}, but broken: {exc}") from exc
                self._stream = zlib.decompressobj(-zlib.MAX_WBITS)  # some servers omit deflate's header
                self._begun = True
                continue
            self._begun = True
            data = self._stream.unconsumed_tail
            if self._stream.eof:
                data = self._stream.unused_data
                if not data.startswith(b"\x1f\x8b"):
                    break  # what follows the end does not belong to it
                self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip may have several members
        return bytes(found)


# --- the result -------------------------------------------------------------


async def _shown(answer: FetchedAnswer, include: str, max_chars: int, size: int) -> str:
    """Read the page in a thread: it takes a slow Pi some seconds, and the worker must answer requests meanwhile."""
    withdrawn = threading.Event()

    def read() -> str:
        with _READING:
            return "" if withdrawn.is_set() else _show(answer, include, max_chars, size)

    try:
        return await asyncio.get_running_loop().run_in_executor(None, read)
    except asyncio.CancelledError:
        withdrawn.set()
        raise


def _show(answer: FetchedAnswer, include: str, max_chars: int, size: int) -> str:
    head = [f"url: {answer.url}", f"status: {answer.status} {answer.reason}".rstrip()]
    head.append(f"type: {answer.content_type or 'not stated'}")
    if answer.body is None:
        known = "of unknown size" if answer.size is None else f"of {answer.size} bytes"
        return "\n".join([*head, f"note: this is no text, but a file {known}; its content is not shown"])
    text = decode(answer.body, answer.charset, cut=answer.cut)
    links: list[tuple[str, str]] = []
    if "html" in answer.content_type.lower() or (not answer.content_type and text.lstrip()[:1] == "<"):
        page = Page(text, answer.url)
        head.append(f"title: {page.title or '(none)'}")
        text, links = page.text, page.links
    if answer.cut:
        head.append(f"note: the answer is not whole; it was read up to {size} bytes, or ended too early")
    shown = []
    if include in ("text", "all"):
        if len(text) > max_chars:
            head.append(f"note: the text was cut, it has {len(text)} characters")
        shown += ["", text[:max_chars] or "(no text)"]
    if include in ("links", "all"):
        room = MAX_ANSWER - sum(map(len, (*head, *shown)))
        shown += ["", "Links:", *_fitting([f"- {name or '(no text)'}: {url}" for name, url in links], room)]
    return "\n".join([*head, *shown])


def _fitting(lines: list[str], room: int) -> list[str]:
    """Return the first lines, as many as fit, and a note on the rest."""
    for count, line in enumerate(lines):
        room -= len(line) + 1
        if room < 0:
            return [*lines[:count], f"({len(lines) - count} more were left out)"]
    return lines or ["(none)"]
