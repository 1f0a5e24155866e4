"""Fetch pages from the public web only.

It follows redirects one by one, and :mod:`.addresses` checks each connection.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple, Optional

from pibot.contracts import ToolContext
from pibot.errors import ToolError

from .addresses import AddressGuard
from .body import Body
from .cookies import Cookies
from .reading import FetchedAnswer, Reading, may_be_text, read, show
from .urls import as_requested, parse

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import AbstractResolver
    from yarl import URL

HEADERS = {"User-Agent": "PiBot/3", "Accept": "text/html, */*;q=0.8", "Accept-Encoding": "gzip, deflate"}
REDIRECTS = (300, 301, 302, 303, 307, 308)
MAX_CHARS = 18_000
"""The most characters of text."""

MAX_HEADER = 64 * 1024
"""The longest line of an answer's head. Sites with long policies or many cookies send more than aiohttp's 8 kB."""

MAX_HEADERS = 1_000
MAX_HEAD = 512 * 1024
"""The most bytes that a connection brings beside the body."""

MEMORY_MB = {"web_fetch": 8}
"""Memory that a call takes while it waits for its page: the body, twice for a moment."""

_READING = threading.Lock()
"""Held while a page is read, which can take 20 MB and a processor: reading two at once gains nothing."""


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
    guard.limit_bytes(limits.size + MAX_HEAD)
    async with _session(guard, resolver) as session:
        visit = _Visit(session, guard, limits, url)
        reading = await visit.read()
    answer = reading.answer
    shown = show(reading, include, max_chars, visit.notes)
    if answer.status >= 400:
        raise ToolError(f"{answer.url} answered with {answer.status} {answer.reason}:\n{shown[:1000]}")
    return shown


class _Visit:
    """One fetch: follows an address to its page.

    Args:
        text: the address as it was given.

    Attributes:
        notes: what to say beside the page.
    """

    def __init__(self, session: aiohttp.ClientSession, guard: AddressGuard, limits: FetchLimits, text: str) -> None:
        self.notes: list[str] = []
        self._session = session
        self._guard = guard
        self._limits = limits
        self._text = text
        self._cookies = Cookies()
        self._redirects = 0
        self._asked: set[tuple[str, str]] = set()
        self._until = asyncio.get_running_loop().time() + limits.seconds

    async def read(self) -> Reading:
        """Return the page at the end of all redirects."""
        reading = await self._page(parse(self._text))
        while True:
            try:
                url = self._onward(reading)
                if url is None:
                    return reading
                self._count(url)
                reading = await self._page(url)
            except ToolError as exc:
                if not reading.text:
                    raise
                self.notes.append(f"that page could not be fetched, so this is the one before it: {exc}")
                return reading

    def _onward(self, reading: Reading) -> Optional[URL]:
        """Return where a page itself sends its reader; None to stay."""
        target, base, _ = reading.onward
        if target is None or reading.answer.status >= 400:
            return None
        here = parse(reading.answer.url)
        url = parse(target, parse(base)) if target else here
        again = as_requested(url) == as_requested(here)
        # A page that leads to itself, and has set no cookie that could change its answer, is there to be read.
        return None if again and self._request(url) in self._asked else url

    def _request(self, url: URL) -> tuple[str, str]:
        """Return what two requests share that get the same answer."""
        return as_requested(url), self._cookies.for_request(url)

    async def _page(self, url: URL) -> Reading:
        """Request an address, follow the redirects of HTTP, and read the page."""
        while True:
            answer = await self._answer(url)
            target = answer.headers.get("location") if answer.status in REDIRECTS else None
            if target is None:
                return await _read(answer, self._limits.size)
            url = parse(target[0], url)
            self._count(url)

    def _count(self, url: URL) -> None:
        self._redirects += 1
        if self._redirects > self._limits.redirects:
            raise ToolError(f"{self._text} redirects more than {self._limits.redirects} times, last to {url}")

    async def _answer(self, url: URL) -> FetchedAnswer:
        """Send one request, and read its answer as far as it comes."""
        asked = self._request(url)
        if asked in self._asked:
            raise ToolError(f"{self._text} redirects in a circle: {url} leads back to itself")
        self._asked.add(asked)
        self._guard.expect(url.host or "")
        body = Body(self._limits.size)
        left = self._until - asyncio.get_running_loop().time()
        try:
            await asyncio.wait_for(self._exchange(url, asked[1], body), left)
        except asyncio.TimeoutError:
            if not body.data:
                raise ToolError(
                    f"{self._text} did not answer in full within {self._limits.seconds:g} seconds"
                ) from None
            body.stop(f"the {self._limits.seconds:g} seconds were up")
        response = body.response
        assert response is not None
        self._cookies.take(response.headers.getall("Set-Cookie", []), url)
        headers: dict[str, list[str]] = {}
        for name, value in response.headers.items():
            headers.setdefault(name.lower(), []).append(value)
        data = bytes(body.data) if body.wanted else None
        return FetchedAnswer(
            str(url), response.status, response.reason or "", headers, response.charset, response.content_length,
            data, body.ended,
        )  # fmt: skip

    async def _exchange(self, url: URL, cookie: str, body: Body) -> None:
        """Send one request, and read its answer into ``body``. A network error becomes a :class:`ToolError`."""
        import aiohttp

        headers = {"Cookie": cookie} if cookie else {}
        try:
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                body.response = response
                redirects = response.status in REDIRECTS and "Location" in response.headers
                body.wanted = not redirects and may_be_text(response.headers.get("Content-Type", ""))
                if body.wanted:
                    await body.read(response)
        except (
            aiohttp.ClientError,
            OSError,
            UnicodeError,
        ) as exc:  # UnicodeError: from encoding the host name
            raise ToolError(f"{url} could not be fetched: {_explain(exc, self._guard)}") from exc


async def _read(answer: FetchedAnswer, size: int) -> Reading:
    """Read the page in a thread: it takes a slow Pi some seconds, and the worker must answer requests meanwhile."""
    withdrawn = threading.Event()

    def work() -> Optional[Reading]:
        with _READING:
            return None if withdrawn.is_set() else read(answer, size)

    try:
        reading = await asyncio.get_running_loop().run_in_executor(None, work)
    except asyncio.CancelledError:
        withdrawn.set()
        raise
    assert reading is not None  # only a fetch that was withdrawn has none
    return reading


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
        max_line_size=MAX_HEADER,
        max_field_size=MAX_HEADER,
        max_headers=MAX_HEADERS,
    ) as session:
        yield session


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
