"""What a backend is: it carries one request to the model's server and brings back what came, whatever it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from pibot.contracts import JsonObject
from pibot.errors import LLMUnavailable

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""Bytes, decompressed. The longest answers of today's models stay below 1 MiB; a Zero 2W has 512 MB for everything."""

MAX_ERROR_BYTES = 64 * 1024
"""Bytes of an error's body; the rest is not read."""

CONNECT_SECONDS = 10.0
"""Seconds to connect in. Linux alone would try for two minutes, and a Pi's Wi-Fi is slow to tell of a dead host."""

KEEPALIVE_SECONDS = 30.0
"""Seconds that an idle connection is kept: longer than a tool takes, shorter than most servers wait (60 or more)."""

MAX_CONNECTIONS = 16
"""To the model's server at once; further calls wait for one. A worker needs one, a master some for its planning."""


@dataclass(frozen=True)
class HttpAnswer:
    """An answer as it came.

    Args:
        status: the HTTP status.
        body: decompressed; that of an error may be cut.
        content_type: the header.
        retry_after, date, location, should_retry: the headers of these names, the last one's with ``x-`` before it.
    """

    status: int
    body: bytes
    content_type: str = ""
    retry_after: str | None = None
    date: str | None = None
    location: str | None = None
    should_retry: str | None = None


class NoAnswer(LLMUnavailable):
    """No whole answer came. The message says what happened, as the end of a sentence.

    Args:
        reason: what happened.
        may_pass: whether asking again may help.
    """

    def __init__(self, reason: str, *, may_pass: bool = True) -> None:
        super().__init__(reason)
        self.may_pass = may_pass


class Backend(Protocol):
    """One of the two ways to reach the server."""

    async def post(self, body: JsonObject, *, timeout: float) -> HttpAnswer:
        """Send one request for a completion. No retries, no redirects followed.

        Args:
            body: the request.
            timeout: seconds until the answer must be whole.

        Raises:
            NoAnswer: it can't be had.
        """
        ...

    async def close(self) -> None:
        """Give back the connections. Calling it twice is fine."""
        ...


async def read_bounded(chunks: AsyncIterator[bytes], status: int) -> bytes:
    """Read a body up to the limit for its status.

    Raises:
        NoAnswer: a successful answer is larger than :data:`MAX_ANSWER_BYTES`.
    """
    success = 200 <= status < 300
    limit = MAX_ANSWER_BYTES if success else MAX_ERROR_BYTES
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            if success:
                raise NoAnswer(f"sent an answer larger than {limit // (1024 * 1024)} MiB", may_pass=False)
            break
    return bytes(body[:limit])


def timed_out(seconds: float) -> NoAnswer:
    return NoAnswer(f"gave no whole answer within {seconds:.3g} seconds")


def not_connected(seconds: float) -> NoAnswer:
    return NoAnswer(f"took no connection within {min(seconds, CONNECT_SECONDS):.3g} seconds")


def certificate_problem(exc: BaseException | None) -> NoAnswer | None:
    """The failure for a certificate that was not accepted, if that is what ``exc`` comes from."""
    import ssl

    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        # aiohttp's own error is of this class, too, but without its attributes: those are on its cause.
        why = getattr(exc, "verify_message", None)
        if isinstance(exc, ssl.SSLCertVerificationError) and why:
            return NoAnswer(
                f"showed a certificate that is not accepted ({why}); check the address and this machine's clock",
                may_pass=False,
            )
        exc = exc.__cause__ or exc.__context__
    return None
