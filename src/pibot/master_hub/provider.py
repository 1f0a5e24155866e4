"""Calls passed on to the model's provider with the master's key. What counts tokens or holds budgets later goes into
:meth:`Gateway.forward`, which every call passes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from pibot.contracts import JsonObject
from pibot.errors import PibotError
from pibot.llm_client.backend import MAX_ANSWER_BYTES, MAX_ERROR_BYTES, certificate_problem
from pibot.logs import event

if TYPE_CHECKING:
    import aiohttp

    from pibot.background import BackgroundLoop
    from pibot.llm_client.configuration import Endpoint

log = logging.getLogger("pibot.gateway")

T = TypeVar("T")

CONNECT_TIMEOUT = 10.0
"""Seconds to reach the provider."""

_PASSED_ON = ("Retry-After", "X-Request-Id")


class GatewayError(PibotError):
    """A call could not be passed on; it is answered in the form that OpenAI's clients read."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def to_json(self) -> JsonObject:
        kind = "invalid_request_error" if self.status < 429 else "api_error"
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


@dataclass(frozen=True)
class Reply:
    """A provider's answer on its way to the caller.

    Args:
        status: the provider's.
        headers: a few of the provider's.
        body: the parts, as they come.
        close: to be called when the body was sent, or nobody wants it any more.
    """

    status: int
    headers: Mapping[str, str]
    body: Iterator[bytes]
    close: Callable[[], None] = field(default=lambda: None)


class Gateway:
    """Passes calls on to the provider. :meth:`forward` is for any thread but the loop's.

    Args:
        endpoint: where the provider is; None where that is not known.
        problem: why it is not, as a sentence.
        loop: where the one HTTP session lives.
        timeout: seconds that the provider may be silent.
        places: how many calls run at once; each holds one of the server's threads.
    """

    def __init__(
        self, endpoint: Endpoint | None, problem: str | None, loop: BackgroundLoop, *, timeout: float, places: int
    ) -> None:
        self._endpoint = endpoint
        self._problem = problem
        self._loop = loop
        self._timeout = timeout
        self._places = threading.BoundedSemaphore(places)
        self._session: aiohttp.ClientSession | None = None
        self._lock = threading.Lock()
        self._calls: Counter[int] = Counter()

    def calls(self) -> dict[int, int]:
        """How many calls were answered since the start, by the status that the caller got."""
        with self._lock:
            return dict(self._calls)

    def forward(self, method: str, path: str, body: bytes | None = None, *, stream: bool = False) -> Reply:
        """Pass one call on.

        Args:
            method: ``GET`` or ``POST``.
            path: below the provider's base address.
            body: JSON, passed on as it is.
            stream: the caller wants the answer as it is made.

        Raises:
            GatewayError: there is no provider, no free place, or no answer.
        """
        try:
            reply = self._forward(method, path, body, stream)
        except GatewayError as exc:
            self._count(path, exc.status, str(exc))
            raise
        self._count(path, reply.status, None)
        return reply

    async def close(self) -> None:
        """Give back the connections; in the loop."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _forward(self, method: str, path: str, body: bytes | None, stream: bool) -> Reply:
        endpoint = self._endpoint
        if endpoint is None:
            raise GatewayError(503, "no_provider", f"on the master {self._problem}")
        if not self._places.acquire(blocking=False):
            raise GatewayError(
                429, "gateway_busy", "the master passes on as many calls as it can at once; try again shortly"
            )
        try:
            response, content = self._wait_for(endpoint, self._ask(endpoint, method, path, body, stream))
        except BaseException:
            self._places.release()
            raise
        headers = {name: response.headers[name] for name in _PASSED_ON if name in response.headers}
        headers["Content-Type"] = response.headers.get("Content-Type", "application/json")
        if content is None:
            parts = _Stream(response, lambda: self._wait_for(endpoint, response.content.readany()), self._end)
            return Reply(response.status, headers, parts, parts.close)
        self._places.release()
        return Reply(response.status, headers, iter([_without_key(endpoint, response.status, content)]))

    async def _ask(
        self, endpoint: Endpoint, method: str, path: str, body: bytes | None, stream: bool
    ) -> tuple[aiohttp.ClientResponse, bytes | None]:
        """Send the call. The answer's body comes with it, unless it is a stream of events."""
        headers = {"Authorization": f"Bearer {endpoint.key.reveal()}", "Content-Type": "application/json"}
        if stream:
            headers["Accept-Encoding"] = "identity"  # a compressed event would wait for the next ones
        # A redirect is not followed: the key would go where nobody chose to send it.
        response = await self._open_session().request(
            method, endpoint.base_url + path, params=endpoint.query, data=body, headers=headers, allow_redirects=False
        )
        try:
            if 300 <= response.status < 400:
                raise GatewayError(
                    502,
                    "provider_redirects",
                    f"the model's server at {endpoint.shown} answers with a redirect; "
                    "set VOLC_BASE_URL on the master to the address that it names",
                )
            if response.status < 300 and response.content_type == "text/event-stream":
                return response, None
            content = await _read(response)
        except BaseException:
            response.close()
            raise
        response.release()
        return response, content

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=self._timeout),
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _wait_for(self, endpoint: Endpoint, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run in the loop and wait; what can go wrong on the way to the provider becomes a :class:`GatewayError`."""
        import aiohttp

        try:
            return self._loop.run(coroutine).result()
        except aiohttp.ConnectionTimeoutError:
            failure = _unreachable(endpoint, f"took no connection within {CONNECT_TIMEOUT:g} s")
        except asyncio.TimeoutError:
            failure = GatewayError(
                504,
                "provider_timeout",
                f"the model's server at {endpoint.shown} sent nothing for {self._timeout:g} s; "
                "try again, or raise PIBOT_LLM_TIMEOUT on the master",
            )
        except (aiohttp.ClientError, OSError) as exc:
            problem = certificate_problem(exc)
            if problem is not None:
                failure = _unreachable(endpoint, str(problem))
            elif isinstance(exc, aiohttp.ClientConnectorError):
                failure = _unreachable(endpoint, f"can't be reached ({_reason(exc)})")
            else:
                failure = GatewayError(
                    502,
                    "provider_connection_broke",
                    f"the model's server at {endpoint.shown} broke off before its answer was whole; try again",
                )
        except (CancelledError, RuntimeError):
            failure = GatewayError(503, "stopping", "the master is stopping; try again when it is back")
        # Raised out here so that no context hangs on it: aiohttp's errors hold the request's headers, with the key.
        raise failure

    def _end(self, response: aiohttp.ClientResponse) -> None:
        """A streamed answer is over."""
        self._places.release()
        with contextlib.suppress(RuntimeError):  # the loop was stopped, and the connection closed with it
            self._loop.call_soon(response.close)

    def _count(self, path: str, status: int, error: str | None) -> None:
        with self._lock:
            self._calls[status] += 1
        event(log, "gateway_call", path=path, status=status, error=error)


class _Stream:
    """The parts of a streamed answer as they come. A break in it is told by the event that OpenAI's clients read.

    Not a generator: one that was never started runs nothing when it is closed.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        read: Callable[[], bytes],
        end: Callable[[aiohttp.ClientResponse], None],
    ) -> None:
        self._response: aiohttp.ClientResponse | None = response
        self._read = read
        self._end = end
        self._broken = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._broken or self._response is None:
            raise StopIteration
        try:
            part = self._read()
        except GatewayError as exc:
            self._broken = True
            event(log, "gateway_stream_broke", level=logging.WARNING, error=str(exc))
            # The line break ends an event that was broken off in its middle.
            return b"\n\ndata: " + json.dumps(exc.to_json()).encode() + b"\n\n"
        if not part:
            raise StopIteration
        return part

    def close(self) -> None:
        """Give back the connection and the place. Calling it twice is fine."""
        response, self._response = self._response, None
        if response is not None:
            self._end(response)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """A whole body; that of an error is cut to what one needs of it."""
    success = response.status < 300
    limit = MAX_ANSWER_BYTES if success else MAX_ERROR_BYTES
    content = bytearray()
    async for part in response.content.iter_any():
        content += part
        if len(content) > limit:
            if success:
                raise GatewayError(
                    502, "answer_too_large", f"the model's answer has more than {limit // 1024 // 1024} MiB"
                )
            break
    return bytes(content[:limit])


def _without_key(endpoint: Endpoint, status: int, content: bytes) -> bytes:
    """The body without the provider's key; some providers repeat it, or a part of it, when they refuse it."""
    if status >= 400:
        return endpoint.redactor.hide(content.decode("utf-8", "replace")).encode()
    return content.replace(endpoint.key.reveal().encode(), b"***")


def _reason(exc: OSError) -> str:
    """The operating system's words, where it has some: asyncio puts the address in their place."""
    return os.strerror(exc.errno) if exc.errno is not None and exc.errno > 0 else exc.strerror or "no connection"


def _unreachable(endpoint: Endpoint, what: str) -> GatewayError:
    return GatewayError(
        502,
        "provider_unreachable",
        f"the model's server at {endpoint.shown} {what}; check VOLC_BASE_URL on the master and its network",
    )
