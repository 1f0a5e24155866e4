"""HTTP to one worker: which key to send, one request, and what its answer means."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from pibot.contracts import Budget, JsonObject, Refusal, WorkerAddress
from pibot.contracts.proofs import JOIN_HEADER, NONCE_HEADER, PROOF_HEADER, new_random_id, proof_of
from pibot.contracts.reading import read_object
from pibot.errors import (
    ContractError,
    ImpossibleAnswer,
    TaskNotFound,
    WorkerBusy,
    WorkerNotReached,
    WorkerRejected,
    WorkerUnreachable,
)
from pibot.settings import Secret, Settings
from pibot.tls import problem_of

if TYPE_CHECKING:
    import ssl

    import aiohttp

ANSWER_MARGIN = 10.0
"""Seconds beyond its waiting time that a worker gets to answer: a Zero on bad Wi-Fi, swapping."""

ANSWER_TIMEOUT = 15.0
"""Seconds for a whole request that does not wait at the worker."""

CONNECT_TIMEOUT = 5.0
"""Seconds after which a worker that accepts no connection counts as unreachable."""

PROOF_TIMEOUT = 3.0
"""Seconds that an address gets to show that it knows a worker's token; the worker waits 5 for its registration."""

KEEPALIVE = 8.0
"""Seconds that an idle connection is kept; a worker closes it after 10 (:data:`pibot.web.REQUEST_TIMEOUT`)."""

MAX_SHORT_ANSWER = 64 * 1024
"""Bytes of an answer that holds no result and no calls for the owner."""


def max_answer(output_chars: int) -> int:
    """Return the bytes of an answer that may hold a result: its output comes twice, and a character takes up to six.

    Args:
        output_chars: ``PIBOT_MAX_OUTPUT_CHARS``, the limit of a result's output, and of its data.
    """
    return 1024 * 1024 + 12 * output_chars


class WorkerKeys:
    """The key to send to each worker: its own or the fleet's. Keeps the previous one while keys are rotated.

    Args:
        fleet: the key of each worker that has none of its own.
        own: keys by worker id.
        previous: the keys that some of these workers may still expect, by worker id.
    """

    def __init__(
        self,
        fleet: Secret | None = None,
        own: Mapping[str, Secret] | None = None,
        previous: Mapping[str, Secret] | None = None,
    ) -> None:
        self._fleet = fleet
        self._current = dict(own or {})
        self._others = dict(previous or {})

    @classmethod
    def of(cls, settings: Settings) -> WorkerKeys:
        """Take the keys from the settings."""
        return cls(settings.api_key, settings.worker_tokens, settings.previous_worker_tokens)

    def of_worker(self, worker_id: str) -> Secret | None:
        """Return the key to send to this worker."""
        return self._current.get(worker_id, self._fleet)

    def all_of_worker(self, worker_id: str) -> tuple[Secret, ...]:
        """Return every key that this worker may have."""
        keys = (self.of_worker(worker_id), self._others.get(worker_id))
        return tuple(key for key in keys if key is not None)

    def switch(self, worker_id: str, refused: Secret | None) -> bool:
        """Use the worker's other key from now on, because it refused this one.

        Returns:
            False if the worker has no other key.
        """
        if worker_id not in self._others:
            return False
        if self._current[worker_id] == refused:  # else another request has switched already
            self._current[worker_id], self._others[worker_id] = self._others[worker_id], self._current[worker_id]
        return True


class WorkerHttp(Protocol):
    """What the pool needs of its HTTP client; :class:`WorkerClient` is the real one."""

    async def request(
        self,
        address: WorkerAddress,
        method: str,
        path: str,
        body: JsonObject | None = None,
        *,
        wait: float = 0,
        timeout: float = ANSWER_TIMEOUT,
    ) -> tuple[int, JsonObject]:
        """Send one request; see :meth:`WorkerClient.request`."""
        ...

    async def prove(self, address: WorkerAddress, join: str) -> bool:
        """Ask an address for a worker's proof; see :meth:`WorkerClient.prove`."""
        ...

    async def close(self) -> None:
        """Close the connections. Calling it twice is fine."""
        ...


class WorkerClient:
    """Sends requests to workers over kept connections. Create it anywhere; use it within one event loop.

    Args:
        keys: the key of each worker; none by default.
        ssl_context: for HTTPS, our certificate and the authorities to trust; the system's authorities by default.
        most_bytes: of an answer that may hold a result; see :func:`max_answer`.
    """

    def __init__(
        self,
        keys: WorkerKeys | None = None,
        ssl_context: ssl.SSLContext | None = None,
        *,
        most_bytes: int = max_answer(Budget.max_output_chars),
    ) -> None:
        import aiohttp  # noqa: F401  # takes 0.1 s, which the first task would wait for otherwise

        self._keys = keys or WorkerKeys()
        self._ssl = ssl_context
        self._most_bytes = most_bytes
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self,
        address: WorkerAddress,
        method: str,
        path: str,
        body: JsonObject | None = None,
        *,
        wait: float = 0,
        timeout: float = ANSWER_TIMEOUT,
    ) -> tuple[int, JsonObject]:
        """Send one request and return the status, 200 or 202, and the JSON.

        Args:
            wait: whole seconds that the worker may wait before it answers.
            timeout: seconds for the whole request if it does not wait.

        Raises:
            WorkerBusy, TaskNotFound, WorkerRejected: the worker answered so.
            WorkerNotReached: the worker accepted no connection, so it got nothing.
            ImpossibleAnswer: the answer was too large, or not a worker's.
            WorkerUnreachable: the answer was missing or incomplete.
        """
        # Not escaped: with \uXXXX a long text in another script would exceed the worker's limit for a body.
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        key = self._keys.of_worker(address.worker_id)
        seconds = wait + ANSWER_MARGIN if wait else timeout
        status, answer, _ = await self._send(address, method, path, data, _headers(key, wait), seconds)
        if status == 401 and self._keys.switch(address.worker_id, key):
            key = self._keys.of_worker(address.worker_id)
            status, answer, _ = await self._send(address, method, path, data, _headers(key, wait), seconds)
        if status in (200, 202):
            return status, answer
        raise _refusal(address, status, answer)

    async def prove(self, address: WorkerAddress, join: str) -> bool:
        """Return whether the address shows that it knows its worker's key. It is sent no key.

        Args:
            join: the id that the worker sent with its registration.
        """
        nonce = new_random_id()
        asked = {JOIN_HEADER: join, NONCE_HEADER: nonce}
        try:
            status, _, headers = await self._send(address, "GET", "/health", None, asked, PROOF_TIMEOUT)
        except WorkerUnreachable:
            return False
        proof, called = headers.get(PROOF_HEADER, ""), address.url.partition("://")[2]
        if status != 200 or not proof.isascii():
            return False
        return any(
            hmac.compare_digest(
                proof,
                proof_of(key.reveal(), join=join, nonce=nonce, worker_id=address.worker_id, address=called),
            )
            for key in self._keys.all_of_worker(address.worker_id)
        )

    async def _send(
        self,
        address: WorkerAddress,
        method: str,
        path: str,
        data: bytes | None,
        headers: Mapping[str, str],
        seconds: float,
    ) -> tuple[int, JsonObject, Mapping[str, str]]:
        """Send one request and return the answer's status, JSON object and headers, whatever they are."""
        import aiohttp

        from pibot.master_components.workers.bounded import TooMuchSent

        session = self._session or self._open()
        status: int | None = None
        try:
            async with session.request(
                method,
                address.url + path,
                data=data,
                headers=headers,
                timeout=_client_timeout(seconds),
                allow_redirects=False,
            ) as response:
                status = response.status
                may_be_long = status in (200, 202) and path.startswith("/task")
                most = self._most_bytes if may_be_long else MAX_SHORT_ANSWER
                return status, read_object(await _body(response, most), most_bytes=most), response.headers
        except ContractError as exc:
            problem = f"{address.url} answered {status}, but {exc}; is it a PiBot worker?"
            raise ImpossibleAnswer(address.worker_id, problem) from exc
        except TooMuchSent as exc:
            raise ImpossibleAnswer(address.worker_id, f"{address.url}: {exc}; is it a PiBot worker?") from exc
        except aiohttp.ClientResponseError as exc:  # it sent something that is no HTTP
            what = exc.message.partition("\n")[0][:200]
            problem = f"no answer from {address.url}, but what is no HTTP ({what}); is it a PiBot worker?"
            raise ImpossibleAnswer(address.worker_id, problem) from exc
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            problem = "no connection in time" if isinstance(exc, asyncio.TimeoutError) else _reason(exc)
            raise WorkerNotReached(address.worker_id, f"no answer from {address.url}: {problem}") from exc
        except asyncio.TimeoutError as exc:
            raise WorkerUnreachable(address.worker_id, f"no answer from {address.url} in time") from exc
        except (aiohttp.ClientError, OSError) as exc:
            problem = f"no answer from {address.url}: {_reason(exc)}"
            raise WorkerUnreachable(address.worker_id, problem) from exc
        except ValueError as exc:
            # An impossible host name, such as a..b.
            raise WorkerNotReached(address.worker_id, f"{address.url} is no address: {exc}") from exc

    async def close(self) -> None:
        """Close the connections. Calling it twice is fine."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        """Create the session, within the loop that uses it."""
        import aiohttp

        from pibot.master_components.workers.bounded import bounded_connector

        self._session = aiohttp.ClientSession(
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
            connector=bounded_connector(
                self._most_bytes, keepalive_timeout=KEEPALIVE, ssl=True if self._ssl is None else self._ssl
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # a kilobyte may unpack to a gigabyte
        )
        return self._session


def _headers(key: Secret | None, wait: float) -> dict[str, str]:
    headers = {} if key is None else {"Authorization": f"Bearer {key.reveal()}"}
    if wait:
        headers["Prefer"] = f"wait={wait:.0f}"
    return headers


async def _body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read an answer's body, of up to ``most`` bytes.

    Raises:
        ContractError: it is longer, encoded, or of a length that its head does not tell; nothing of it was read.
    """
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise ContractError(f"its body is encoded ({encoding[:20]!r}), which it was not asked for")
    if response.content_length is None:
        raise ContractError("its head has no Content-Length")
    if response.content_length > most:
        raise ContractError(
            f"its body has {response.content_length} bytes, {most} are allowed here (a result's length follows "
            "PIBOT_MAX_OUTPUT_CHARS of the master)"
        )
    return await response.read()


def _reason(exc: Exception) -> str:
    """Return the operating system's words where it has some: asyncio and aiohttp bury them in an address."""
    if certificate := problem_of(exc):
        return certificate
    number = exc.errno if isinstance(exc, OSError) else None
    return os.strerror(number) if number is not None and number > 0 else str(exc) or type(exc).__name__


@lru_cache(maxsize=64)
def _client_timeout(seconds: float) -> aiohttp.ClientTimeout:
    import aiohttp

    return aiohttp.ClientTimeout(total=seconds, connect=CONNECT_TIMEOUT)


def _refusal(address: WorkerAddress, status: int, answer: JsonObject) -> Exception:
    refusal = Refusal.from_json(answer)
    message = refusal.error or f"it answered {status}"
    if status == 404:
        return TaskNotFound(f"{address.worker_id}: {message}")
    if refusal.busy or status == 503:
        return WorkerBusy(refusal.current_task)
    if status in (401, 429):
        message += " (PIBOT_API_KEY must be the same on the master and the worker)"
    return WorkerRejected(address.worker_id, message, status=status)
