"""The default backend: aiohttp, which a worker has anyway. Imported on first use, for the sake of its memory."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from pibot import __version__
from pibot.contracts import JsonObject
from pibot.llm_client.backend import (
    CONNECT_SECONDS,
    KEEPALIVE_SECONDS,
    MAX_CONNECTIONS,
    HttpAnswer,
    NoAnswer,
    certificate_problem,
    not_connected,
    read_bounded,
    timed_out,
)
from pibot.llm_client.configuration import Endpoint
from pibot.llm_client.per_loop import PerLoop

if TYPE_CHECKING:
    import ssl

    import aiohttp


class AiohttpBackend:
    """One session for the running loop, with keep-alive.

    Args:
        endpoint: where the model is.
        ssl_context: what to trust; the system's authorities by default.
    """

    def __init__(self, endpoint: Endpoint, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._endpoint = endpoint
        self._session: PerLoop[aiohttp.ClientSession] = PerLoop(partial(_make, ssl_context), _close)

    async def post(self, body: JsonObject, *, timeout: float) -> HttpAnswer:
        import asyncio

        import aiohttp

        try:
            return await self._post(body, timeout)
        except aiohttp.ConnectionTimeoutError:
            failure = not_connected(timeout)
        except asyncio.TimeoutError:
            failure = timed_out(timeout)
        except (aiohttp.ClientError, OSError) as exc:
            failure = certificate_problem(exc) or NoAnswer(_reason(exc))
        # Raised out here so that no context hangs on it: aiohttp's errors hold the request's headers, with the key.
        raise failure

    async def close(self) -> None:
        await self._session.close()

    async def _post(self, body: JsonObject, timeout: float) -> HttpAnswer:
        import aiohttp

        session = self._session.get()
        async with session.post(
            self._endpoint.completions_url,
            params=self._endpoint.query,
            data=json.dumps(body, ensure_ascii=False).encode(),
            headers={
                "Authorization": f"Bearer {self._endpoint.key.reveal()}",
                "Content-Type": "application/json",
                "Accept": "application/json",
            },
            allow_redirects=False,
            # aiohttp rounds longer timeouts up to whole seconds, unless the threshold for that is higher.
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS, ceil_threshold=timeout + 1),
        ) as response:
            headers = response.headers
            return HttpAnswer(
                status=response.status,
                body=await read_bounded(response.content.iter_any(), response.status),
                content_type=headers.get("Content-Type", ""),
                retry_after=headers.get("Retry-After"),
                date=headers.get("Date"),
                location=headers.get("Location"),
                should_retry=headers.get("x-should-retry"),
            )


def _make(ssl_context: ssl.SSLContext | None) -> aiohttp.ClientSession:
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=MAX_CONNECTIONS,
            keepalive_timeout=KEEPALIVE_SECONDS,
            ssl=True if ssl_context is None else ssl_context,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"pibot/{__version__}"},
    )


async def _close(session: aiohttp.ClientSession) -> None:
    await session.close()


def _reason(exc: Exception) -> str:
    """What happened, as the end of a sentence. Never the error's own text, which may hold the address."""
    import aiohttp

    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "can't be found: its name has no address here"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return f"can't be reached: {exc.strerror or 'no connection'}"
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return "closed the connection without an answer"
    if isinstance(exc, aiohttp.ClientPayloadError):
        return "broke off in the middle of its answer"
    if isinstance(exc, OSError):
        return f"lost the connection: {exc.strerror or type(exc).__name__}"
    return f"sent something that is no HTTP answer ({type(exc).__name__})"
