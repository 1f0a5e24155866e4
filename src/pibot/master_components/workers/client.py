"""HTTP to one worker: a request, and what its answer means."""

from __future__ import annotations

import asyncio
import json
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pibot.contracts import JsonObject, WorkerAddress
from pibot.errors import TaskNotFound, WorkerBusy, WorkerNotReached, WorkerRejected, WorkerUnreachable
from pibot.master_components.workers.keys import WorkerKeys
from pibot.settings import Secret
from pibot.tls import problem_of

if TYPE_CHECKING:
    import ssl

    import aiohttp

ANSWER_MARGIN = 10.0
"""Seconds beyond its waiting time that a worker gets to answer: a Zero on bad Wi-Fi, swapping."""

CONNECT_TIMEOUT = 5.0
"""Seconds in which a worker takes a connection, or counts as not there."""

KEEPALIVE = 8.0
"""Seconds that an idle connection is kept; a worker closes it after 10 (:data:`pibot.web.REQUEST_TIMEOUT`)."""


class WorkerClient:
    """Talks to workers over kept connections. Made anywhere; used within one event loop.

    Args:
        keys: what they ask for.
        ssl_context: for HTTPS, what they are shown and which are believed; by default the system's authorities are.
    """

    def __init__(self, keys: WorkerKeys, ssl_context: ssl.SSLContext | None = None) -> None:
        import aiohttp  # noqa: F401  # a tenth of a second that would else be the first task's

        self._keys = keys
        self._ssl = ssl_context
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self,
        address: WorkerAddress,
        method: str,
        path: str,
        body: JsonObject | None = None,
        *,
        wait: float = 0,
        timeout: float = 15.0,
    ) -> tuple[int, JsonObject]:
        """One request.

        Args:
            wait: seconds, whole ones, that the worker may wait before it answers.
            timeout: seconds for the whole request where it does not wait.

        Returns:
            200 or 202, and the JSON.

        Raises:
            WorkerBusy, TaskNotFound, WorkerRejected: as it answered.
            WorkerNotReached: it took no connection.
            WorkerUnreachable: there was no whole answer, or none of a worker's.
        """
        # Not escaped: as \uXXXX a long text in another script would be more than a worker reads.
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        key = self._keys.of_worker(address.worker_id)
        status, answer = await self._exchange(address, method, path, data, key, wait, timeout)
        if status == 401 and self._keys.other(address.worker_id, key):
            key = self._keys.of_worker(address.worker_id)
            status, answer = await self._exchange(address, method, path, data, key, wait, timeout)
        if not isinstance(answer, dict):
            problem = f"{address.url} answered {status} with no JSON object: no PiBot worker?"
            raise WorkerUnreachable(address.worker_id, problem)
        if status in (200, 202):
            return status, answer
        raise _refusal(address, status, answer)

    async def _exchange(
        self,
        address: WorkerAddress,
        method: str,
        path: str,
        data: bytes | None,
        key: Secret | None,
        wait: float,
        timeout: float,
    ) -> tuple[int, Any]:
        """One request and its answer, whatever that is."""
        import aiohttp

        session = self._session or self._open()
        headers = {} if key is None else {"Authorization": f"Bearer {key.reveal()}"}
        if wait:
            headers["Prefer"] = f"wait={wait:.0f}"
        status: int | None = None
        try:
            async with session.request(
                method,
                address.url + path,
                data=data,
                headers=headers,
                timeout=_limits(wait + ANSWER_MARGIN if wait else timeout),
                allow_redirects=False,
            ) as response:
                status = response.status
                return status, json.loads(await response.read())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            problem = "no connection in time" if isinstance(exc, asyncio.TimeoutError) else _reason(exc)
            raise WorkerNotReached(address.worker_id, f"no answer from {address.url}: {problem}") from exc
        except asyncio.TimeoutError as exc:
            raise WorkerUnreachable(address.worker_id, f"no answer from {address.url} in time") from exc
        except (aiohttp.ClientError, OSError) as exc:
            problem = f"no answer from {address.url}: {_reason(exc)}"
            raise WorkerUnreachable(address.worker_id, problem) from exc
        except ValueError as exc:
            if status is None:  # a host's name that can't be one, such as a..b
                raise WorkerNotReached(address.worker_id, f"{address.url} is no address: {exc}") from exc
            problem = f"{address.url} answered {status} without JSON: no PiBot worker?"
            raise WorkerUnreachable(address.worker_id, problem) from exc

    async def close(self) -> None:
        """Close the connections. Calling it twice is fine."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        """The one session, made inside the loop that uses it."""
        import aiohttp

        self._session = aiohttp.ClientSession(
            headers={"Content-Type": "application/json"},
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=KEEPALIVE, ssl=True if self._ssl is None else self._ssl
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self._session


def _reason(exc: Exception) -> str:
    """The operating system's words, where it has some: asyncio puts the address in their place, aiohttp more."""
    if certificate := problem_of(exc):
        return certificate
    number = exc.errno if isinstance(exc, OSError) else None
    return os.strerror(number) if number is not None and number > 0 else str(exc) or type(exc).__name__


@lru_cache(maxsize=64)
def _limits(seconds: float) -> aiohttp.ClientTimeout:
    import aiohttp

    return aiohttp.ClientTimeout(total=seconds, connect=CONNECT_TIMEOUT)


def _refusal(address: WorkerAddress, status: int, answer: JsonObject) -> Exception:
    message = str(answer.get("error") or f"it answered {status}")
    if status == 404:
        return TaskNotFound(f"{address.worker_id}: {message}")
    if answer.get("status") == "busy" or status == 503:
        return WorkerBusy(answer.get("current_task"))
    if status in (401, 429):
        message += " (PIBOT_API_KEY must be the same on the master and the worker)"
    return WorkerRejected(address.worker_id, message, status=status)
