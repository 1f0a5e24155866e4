"""The backend protocol: carry one request to the model's server and return the answer, whatever it is."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from pibot.contracts import JsonObject
from pibot.errors import LLMUnavailable
from pibot.llm_client import wire
from pibot.llm_client.configuration import Endpoint
from pibot.llm_client.event_streams import BadStream, StreamedCompletion, begins_like_stream
from pibot.llm_client.profiles import ProviderProfile

if TYPE_CHECKING:
    import ssl

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""Largest answer in bytes, decompressed. Today's longest stay below 1 MiB; a Zero 2W has 512 MB for everything."""

MAX_ERROR_BYTES = 64 * 1024
"""Bytes read of an error's body; the rest is left unread."""

MAX_LIMITS = 32
"""Headers about rate limits that are looked at."""

PASSED_ON = "llm_provider-"
"""What LiteLLM's proxy writes before the names of the provider's own headers."""

CONNECT_SECONDS = 10.0
"""Time limit for connecting. Linux alone would try for two minutes, and a Pi's Wi-Fi reports a dead host late."""

KEEPALIVE_SECONDS = 30.0
"""How long an idle connection is kept: longer than a tool runs, shorter than most servers wait (60 s or more)."""

MAX_HEADER_BYTES = 64 * 1024
"""Longest line of an answer's head. Proxies add cookies and reports of several kB; aiohttp alone stops at 8,190."""

WINDOW_HEADER = "X-PiBot-Window"
"""With it, the fleet's gateway tells its callers the window of the model that it asked, in tokens."""

MAX_CONNECTIONS = 16
"""Connections to the model's server at once; further calls wait for one. A worker needs one."""


@dataclass(frozen=True)
class HttpAnswer:
    """An HTTP answer of the model's server.

    Args:
        status: the HTTP status.
        body: decompressed; an error's body may be cut.
        content_type: the header.
        retry_after, date, location, should_retry: the headers of these names; the last one is ``x-should-retry``.
        limits: the headers about rate limits, with their names in lower case.
        window: tokens of the model's window, as the fleet's gateway says.
    """

    status: int
    body: bytes
    content_type: str = ""
    retry_after: str | None = None
    date: str | None = None
    location: str | None = None
    should_retry: str | None = None
    limits: Mapping[str, str] = field(default_factory=dict)
    window: int | None = None

    @classmethod
    def of(cls, status: int, body: bytes, headers: Mapping[str, str]) -> HttpAnswer:
        """Pick the headers that matter here."""
        return cls(
            status,
            body,
            headers.get("Content-Type", ""),
            headers.get("Retry-After", headers.get(f"{PASSED_ON}retry-after")),
            headers.get("Date"),
            headers.get("Location"),
            headers.get("x-should-retry"),
            {} if 200 <= status < 300 else _limits(headers),
            _window(headers.get(WINDOW_HEADER, "")),
        )

    @property
    def success(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status < 300

    @cached_property
    def data(self) -> Any:
        """The body's JSON, parsed once.

        Raises:
            LLMProtocolError: as for :func:`pibot.llm_client.wire.parse`.
        """
        return wire.parse(self.body)


def _window(text: str) -> int | None:
    """Read the gateway's header; None where it is missing or impossible."""
    return int(text) if re.fullmatch(r"[1-9]\d{2,8}", text) else None


def _limits(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers about rate limits, such as ``x-ratelimit-reset-tokens``, as many as a server may have."""
    named = ((name.lower().removeprefix(PASSED_ON), value) for name, value in headers.items())
    limits = (
        (name, value)
        for name, value in named
        if "ratelimit" in name.replace("-", "") or name.endswith("retry-after-ms")
    )
    return dict(islice(limits, MAX_LIMITS))


class Cause(enum.Enum):
    """Why no whole answer came."""

    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed out"
    BROKE_OFF = "broke off"
    TOO_LARGE = "too large"
    REDIRECTED = "redirected"


class NoAnswer(LLMUnavailable):
    """No whole answer came. The message says what happened, as the end of a sentence.

    Args:
        reason: what happened.
        cause: its kind, for code.
        may_pass: whether another attempt may succeed.
    """

    def __init__(self, reason: str, cause: Cause = Cause.BROKE_OFF, *, may_pass: bool = True) -> None:
        super().__init__(reason)
        self.cause = cause
        self.may_pass = may_pass


class Backend(Protocol):
    """Reaches the model's server over one HTTP library."""

    async def post(self, body: JsonObject, profile: ProviderProfile, *, timeout: float) -> HttpAnswer:
        """Send one request for a completion. Retries nothing and follows no redirect.

        Args:
            body: the request.
            profile: where below the address it goes, and which header carries the key.
            timeout: seconds until the answer must be complete.

        Raises:
            NoAnswer: no whole answer came.
        """
        ...

    async def close(self) -> None:
        """Close the connections. Calling it twice is fine."""
        ...


async def read_bounded(chunks: AsyncIterator[bytes], status: int, *, join: bool = True) -> bytes:
    """Read a body up to the limit for its status; the body of an error is cut there.

    Args:
        join: whether a completion that comes as a stream is put together, so that its body is JSON.

    Raises:
        NoAnswer: a successful answer is larger than :data:`MAX_ANSWER_BYTES`, or its stream broke off.
    """
    success = 200 <= status < 300
    limit = MAX_ANSWER_BYTES if success else MAX_ERROR_BYTES
    body = bytearray()
    stream: StreamedCompletion | None = None
    async for chunk in chunks:
        if stream is None:
            body += chunk
            if success and join and begins_like_stream(bytes(body[:64])):
                stream, chunk = StreamedCompletion(), bytes(body)
        if stream is not None:
            stream.feed(chunk)
            if stream.ended:
                break
        if (len(body) if stream is None else stream.size) > limit:
            if success:
                raise NoAnswer(
                    f"sent an answer larger than {limit // (1024 * 1024)} MiB", Cause.TOO_LARGE, may_pass=False
                )
            break
    return bytes(body[:limit]) if stream is None else _joined(stream)


def _joined(stream: StreamedCompletion) -> bytes:
    try:
        return json.dumps(stream.result(), ensure_ascii=False).encode("utf-8", "replace")
    except BadStream as exc:
        failure = NoAnswer(str(exc))
    raise failure


def trusted(endpoint: Endpoint, ssl_context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """Return what to trust: the given context, or the system's authorities with the owner's own; None for the system's.

    Args:
        endpoint: knows the owner's authorities.
        ssl_context: used as it is.
    """
    if ssl_context is not None or endpoint.ca is None:
        return ssl_context
    import ssl

    context = ssl.create_default_context()
    context.load_verify_locations(str(endpoint.ca))
    return context


def timed_out(seconds: float) -> NoAnswer:
    """Return the failure of a server that did not send its whole answer in time."""
    return NoAnswer(f"gave no whole answer within {seconds:.3g} seconds", Cause.TIMED_OUT)


def not_connected(seconds: float) -> NoAnswer:
    """Return the failure of a server that did not accept a connection in time."""
    return NoAnswer(f"took no connection within {min(seconds, CONNECT_SECONDS):.3g} seconds", Cause.UNREACHABLE)


def proxy_refused(status: int) -> NoAnswer:
    """Return the failure of a proxy that does not pass a connection on."""
    if status == 407:
        return NoAnswer(
            "can't be reached: the proxy wants a user and a password (407); put them into PIBOT_LLM_PROXY, like "
            "http://user:password@host:3128",
            Cause.UNREACHABLE,
            may_pass=False,
        )
    passing = status >= 500 or status in (408, 429)
    return NoAnswer(
        f"can't be reached: the proxy of PIBOT_LLM_PROXY refused ({status})", Cause.UNREACHABLE, may_pass=passing
    )


def proxy_unreachable(reason: str) -> NoAnswer:
    """Return the failure of a proxy that takes no connection.

    Args:
        reason: the operating system's words; may be empty.
    """
    reason = f": {reason}" if reason else ""
    return NoAnswer(f"can't be reached: the proxy of PIBOT_LLM_PROXY takes no connection{reason}", Cause.UNREACHABLE)


def certificate_problem(exc: BaseException | None) -> NoAnswer | None:
    """Return the failure if ``exc`` comes from a certificate that was not accepted, else None."""
    import ssl

    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        # aiohttp's own error is of this class too, but its attributes are only on its cause.
        why = getattr(exc, "verify_message", None)
        if isinstance(exc, ssl.SSLCertVerificationError) and why:
            return NoAnswer(
                f"showed a certificate that is not accepted ({why}); check the address and this machine's clock, and "
                "name the provider's own authority in PIBOT_LLM_CA if it has one",
                Cause.UNREACHABLE,
                may_pass=False,
            )
        exc = exc.__cause__ or exc.__context__
    return None
