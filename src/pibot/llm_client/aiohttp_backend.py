"""The default backend: aiohttp, which a worker needs anyway. Imported on first use, to save memory."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from pibot import __version__
from pibot.contracts import JsonObject
from pibot.llm_client.backend import (
    CONNECT_SECONDS,
    KEEPALIVE_SECONDS,
    MAX_CONNECTIONS,
    MAX_HEADER_BYTES,
    Cause,
    HttpAnswer,
    NoAnswer,
    certificate_problem,
    not_connected,
    proxy_refused,
    proxy_unreachable,
    read_bounded,
    timed_out,
    trusted,
)
from pibot.llm_client.configuration import COMPLETIONS, Endpoint
from pibot.llm_client.per_loop import PerLoop
from pibot.llm_client.profiles import ProviderProfile

if TYPE_CHECKING:
    import ssl

    import aiohttp


class AiohttpBackend:
    """A backend with one aiohttp session per event loop.

    Args:
        endpoint: where the model is.
        ssl_context: what to trust; the system's authorities by default.
    """

    def __init__(self, endpoint: Endpoint, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._endpoint = endpoint
        self._session: PerLoop[aiohttp.ClientSession] = PerLoop(partial(_make, trusted(endpoint, ssl_context)), _close)

    async def post(self, body: JsonObject, profile: ProviderProfile, *, timeout: float) -> HttpAnswer:
        import asyncio

        import aiohttp

        try:
            return await self._post(body, profile, timeout)
        except (asyncio.TimeoutError, aiohttp.ClientError, OSError) as exc:
            failure = as_no_answer(exc, timeout)
        # Raised outside the except block, so that it has no context: aiohttp's errors hold the headers, with the key.
        raise failure

    async def close(self) -> None:
        await self._session.close()

    async def _post(self, body: JsonObject, profile: ProviderProfile, timeout: float) -> HttpAnswer:
        import aiohttp

        session = self._session.get()
        async with session.post(
            f"{self._endpoint.base_url}{profile.prefix}{COMPLETIONS}",
            params=self._endpoint.query,
            data=json.dumps(body, ensure_ascii=False).encode(),
            headers={
                **self._endpoint.key_headers(profile),
                "Content-Type": "application/json",
                "Accept": "text/event-stream" if body.get("stream") is True else "application/json",
            },
            allow_redirects=False,
            **through_proxy(self._endpoint),
            # aiohttp rounds longer timeouts up to whole seconds, unless the threshold for that is higher.
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS, ceil_threshold=timeout + 1),
        ) as response:
            content = await read_bounded(response.content.iter_any(), response.status)
            return HttpAnswer.of(response.status, content, response.headers)


def open_session(
    *, connections: int, timeout: aiohttp.ClientTimeout | None = None, ssl_context: ssl.SSLContext | None = None
) -> aiohttp.ClientSession:
    """Open a session for the running loop. It keeps idle connections, and no cookies.

    Args:
        connections: limit of connections at once; 0 for none.
        timeout: default for requests without a timeout of their own.
        ssl_context: what to trust; the system's authorities by default.
    """
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=connections,
            keepalive_timeout=KEEPALIVE_SECONDS,
            ssl=True if ssl_context is None else ssl_context,
        ),
        timeout=timeout or aiohttp.ClientTimeout(),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"pibot/{__version__}"},
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )


def through_proxy(endpoint: Endpoint) -> dict[str, Any]:
    """Return the arguments with which aiohttp asks an endpoint through its proxy, if it has one."""
    import base64

    if endpoint.proxy is None:
        return {}
    if endpoint.proxy_login is None:
        return {"proxy": endpoint.proxy}
    login = base64.b64encode(":".join(endpoint.proxy_login).encode()).decode()
    return {"proxy": endpoint.proxy, "proxy_headers": {"Proxy-Authorization": f"Basic {login}"}}


def as_no_answer(exc: Exception, seconds: float) -> NoAnswer:
    """Translate an exception of aiohttp.

    The message never repeats the exception's own text, which may hold the address.

    Args:
        exc: an ``asyncio.TimeoutError``, ``aiohttp.ClientError`` or ``OSError``.
        seconds: the time limit that applied.
    """
    import asyncio

    import aiohttp

    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        return not_connected(seconds)
    if isinstance(exc, asyncio.TimeoutError):
        return timed_out(seconds)
    problem = certificate_problem(exc)
    if problem is not None:
        return problem
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return proxy_refused(exc.status)
    if isinstance(exc, aiohttp.ClientProxyConnectionError):
        return proxy_unreachable(_system_error(exc))
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return NoAnswer("can't be found: its name has no address here", Cause.UNREACHABLE)
    if isinstance(exc, aiohttp.ClientConnectorError):
        return NoAnswer(f"can't be reached: {_system_error(exc) or 'no connection'}", Cause.UNREACHABLE)
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return NoAnswer("closed the connection without an answer")
    if isinstance(exc, aiohttp.ClientPayloadError):
        return NoAnswer("broke off in the middle of its answer")
    if isinstance(exc, OSError):
        return NoAnswer(f"lost the connection: {_system_error(exc) or type(exc).__name__}")
    return NoAnswer(f"sent something that is no HTTP answer ({type(exc).__name__})")


def _make(ssl_context: ssl.SSLContext | None) -> aiohttp.ClientSession:
    return open_session(connections=MAX_CONNECTIONS, ssl_context=ssl_context)


async def _close(session: aiohttp.ClientSession) -> None:
    await session.close()


def _system_error(exc: OSError) -> str:
    """Return the operating system's own words: asyncio puts the address into ``strerror``."""
    return os.strerror(exc.errno) if exc.errno is not None and exc.errno > 0 else exc.strerror or ""
