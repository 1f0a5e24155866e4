"""One model's server, asked once at a time of asking, with its key: what came back, or why nothing did."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pibot.contracts import JsonObject
from pibot.errors import PibotError
from pibot.llm_client.backend import MAX_ANSWER_BYTES, MAX_ERROR_BYTES, certificate_problem
from pibot.llm_client.failures import GATEWAY
from pibot.settings import SHORTEST_KEY

if TYPE_CHECKING:
    import aiohttp

    from pibot.llm_client.configuration import Endpoint

T = TypeVar("T")

CONNECT_TIMEOUT = 10.0
"""Seconds to reach the provider."""

_PASSED_ON = ("Retry-After", "X-Request-Id")


class GatewayError(PibotError):
    """A call could not be passed on; it is answered in the form that OpenAI's clients read.

    Args:
        status: the HTTP status.
        code: a name for programs.
        message: a sentence for the owner.
        may_pass: whether asking the provider again may help.
        tell_again: whether the caller may ask again by itself.
    """

    def __init__(self, status: int, code: str, message: str, *, may_pass: bool = False, tell_again: bool = False):
        super().__init__(message)
        self.status = status
        self.code = code
        self.may_pass = may_pass
        self.tell_again = tell_again

    def to_json(self) -> JsonObject:
        kind = "invalid_request_error" if self.status < 429 else GATEWAY
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


@dataclass(frozen=True)
class Answer:
    """What a provider answered.

    Args:
        status: the HTTP status.
        headers: a few of the provider's.
        content: the body; empty where it comes as a stream.
        stream: the connection that it comes over then.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes = b""
    stream: aiohttp.ClientResponse | None = None


class Provider:
    """Within one event loop.

    Args:
        endpoint: where it is.
        silence: seconds that it may be silent in the middle of an answer.
        setting: the variable that holds its address, for who has to mend it.
    """

    def __init__(self, endpoint: Endpoint, *, silence: float, setting: str = "VOLC_BASE_URL") -> None:
        self._endpoint = endpoint
        self._silence = silence
        self._setting = setting
        self._session: aiohttp.ClientSession | None = None

    @property
    def model(self) -> str:
        """The model that it is asked for."""
        return self._endpoint.model

    async def ask(self, method: str, path: str, body: bytes | None, *, stream: bool, timeout: float) -> Answer:
        """Send one call.

        Args:
            path: below the provider's base address.
            body: JSON.
            stream: the caller wants the answer as it is made.
            timeout: seconds until the answer must be whole, or its stream begin.

        Raises:
            GatewayError: no answer, or one that can't be passed on.
        """
        return await self._told(asyncio.wait_for(self._ask(method, path, body, stream), timeout), timeout)

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """The next part of a stream; empty at its end.

        Raises:
            GatewayError: it broke off.
        """
        return await self._told(response.content.readany(), self._silence)

    async def close(self) -> None:
        """Give back the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _ask(self, method: str, path: str, body: bytes | None, stream: bool) -> Answer:
        endpoint = self._endpoint
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
                    f"set {self._setting} on the master to the address that it names",
                )
            told = {name: response.headers[name] for name in _PASSED_ON if name in response.headers}
            told["Content-Type"] = response.headers.get("Content-Type", "application/json")
            if response.status < 300 and response.content_type == "text/event-stream":
                return Answer(response.status, told, stream=response)
            content = await _read(response)
        except BaseException:
            response.close()
            raise
        response.release()
        return Answer(response.status, told, without_key(endpoint, response.status, content))

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=self._silence),
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def _told(self, asked: Awaitable[T], seconds: float) -> T:
        """What comes; what can go wrong on the way to the provider becomes a :class:`GatewayError`."""
        import aiohttp

        try:
            return await asked
        except aiohttp.ConnectionTimeoutError:
            failure = self._unreachable(f"took no connection within {CONNECT_TIMEOUT:g} s")
        except asyncio.TimeoutError:
            failure = GatewayError(
                504,
                "provider_timeout",
                f"the model's server at {self._endpoint.shown} gave no answer within {seconds:.3g} s; "
                "try again, or raise PIBOT_LLM_TIMEOUT on the master",
                may_pass=True,
            )
        except (aiohttp.ClientError, OSError) as exc:
            problem = certificate_problem(exc)
            if problem is not None:
                failure = self._unreachable(str(problem))
            elif isinstance(exc, aiohttp.ClientConnectorError):
                failure = self._unreachable(f"can't be reached ({_reason(exc)})")
            else:
                failure = GatewayError(
                    502,
                    "provider_connection_broke",
                    f"the model's server at {self._endpoint.shown} broke off before its answer was whole; try again",
                    may_pass=True,
                )
        # Raised out here so that no context hangs on it: aiohttp's errors hold the request's headers, with the key.
        raise failure

    def _unreachable(self, what: str) -> GatewayError:
        return GatewayError(
            502,
            "provider_unreachable",
            f"the model's server at {self._endpoint.shown} {what}; check {self._setting} on the master and its network",
            may_pass=True,
        )


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


def without_key(endpoint: Endpoint, status: int, content: bytes) -> bytes:
    """The body without the provider's key; some providers repeat it, or a part of it, when they refuse it."""
    if status >= 400:
        return endpoint.redactor.hide(content.decode("utf-8", "replace")).encode()
    key = endpoint.key.reveal()
    # A short one, as of the offline model, may be a word of the answer's own.
    return content.replace(key.encode(), b"***") if len(key) >= SHORTEST_KEY else content


def _reason(exc: OSError) -> str:
    """The operating system's words, where it has some: asyncio puts the address in their place."""
    return os.strerror(exc.errno) if exc.errno is not None and exc.errno > 0 else exc.strerror or "no connection"
