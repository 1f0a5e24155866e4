"""The HTTP connection to one provider: sends one model call with the provider's key, without retries."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pibot.llm_client.adapting import Adapter
from pibot.llm_client.backend import (
    CONNECT_SECONDS,
    PASSED_ON,
    WINDOW_HEADER,
    Cause,
    HttpAnswer,
    NoAnswer,
    read_bounded,
    trusted,
)
from pibot.master_hub.gateway.redaction import AnswerRedactor

if TYPE_CHECKING:
    import aiohttp

    from pibot.llm_client.configuration import Endpoint
    from pibot.llm_client.profiles import ProviderProfile

_PASSED_ON = ("Retry-After", "X-Request-Id")


@dataclass(frozen=True)
class ProviderAnswer:
    """A provider's answer, without the provider's key in it except in a stream.

    Args:
        http: the answer; its body is empty if it comes as a stream.
        headers: those that are passed on to the caller.
        stream: the connection that a stream comes over.
    """

    http: HttpAnswer
    headers: Mapping[str, str]
    stream: aiohttp.ClientResponse | None = None


class Provider:
    """Sends model calls to one provider. Use it within one event loop.

    Args:
        endpoint: where the provider is.
        silence: seconds that it may be silent in the middle of an answer.
        setting: the variable that holds its address, for error messages.

    Attributes:
        redactor: removes the provider's key from its answers; a stream's receiver applies it.
        adapter: writes requests as the provider wants them.
    """

    def __init__(self, endpoint: Endpoint, *, silence: float, setting: str = "VOLC_BASE_URL") -> None:
        self.endpoint = endpoint
        self.setting = setting
        self.redactor = AnswerRedactor(endpoint)
        self.adapter = Adapter(endpoint)
        self._silence = silence
        self._session: aiohttp.ClientSession | None = None

    @property
    def model(self) -> str:
        """The name of the model that the provider is set up for."""
        return self.endpoint.model

    async def ask(
        self, path: str, body: bytes | None, profile: ProviderProfile, *, stream: bool, timeout: float
    ) -> ProviderAnswer:
        """Send one request.

        Args:
            path: below the provider's base address.
            body: JSON; None for a GET.
            profile: where below that address the path begins, and which header carries the key.
            stream: whether the caller wants the answer while it is generated.
            timeout: seconds until the answer must be complete, or its stream must begin.

        Raises:
            NoAnswer: no answer came, or one that cannot be passed on.
        """
        import aiohttp

        from pibot.llm_client.aiohttp_backend import as_no_answer

        try:
            return await asyncio.wait_for(self._ask(path, body, profile, stream), timeout)
        except (asyncio.TimeoutError, aiohttp.ClientError, OSError) as exc:
            failure = as_no_answer(exc, timeout)
        # Raised outside the except block, so that it has no context: aiohttp's errors hold the headers, with the key.
        raise failure

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the next part of a stream; empty at its end.

        Raises:
            NoAnswer: the stream broke off.
        """
        import aiohttp

        from pibot.llm_client.aiohttp_backend import as_no_answer

        try:
            return await response.content.readany()
        except asyncio.TimeoutError:
            failure = NoAnswer(f"sent nothing for {self._silence:.3g} seconds in its answer", Cause.TIMED_OUT)
        except (aiohttp.ClientError, OSError) as exc:
            failure = as_no_answer(exc, self._silence)
        raise failure

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _ask(self, path: str, body: bytes | None, profile: ProviderProfile, stream: bool) -> ProviderAnswer:
        from pibot.llm_client.aiohttp_backend import through_proxy

        endpoint = self.endpoint
        headers = {**endpoint.key_headers(profile), "Content-Type": "application/json"}
        if stream:
            headers["Accept-Encoding"] = "identity"  # a compressor would hold an event back until more events follow
        # Redirects are not followed: the key must not go to an address that nobody chose.
        response = await self._open_session().request(
            "GET" if body is None else "POST",
            endpoint.base_url + profile.prefix + path,
            params=endpoint.query,
            data=body,
            headers=headers,
            allow_redirects=False,
            **through_proxy(endpoint),
        )
        try:
            status = response.status
            if 300 <= status < 400:
                raise NoAnswer("answers with a redirect", Cause.REDIRECTED, may_pass=False)
            hide = self.redactor.header
            passed_on = {name: hide(response.headers[name]) for name in _PASSED_ON if name in response.headers}
            if response.headers.get(f"{PASSED_ON}retry-after"):
                passed_on.setdefault("Retry-After", hide(response.headers[f"{PASSED_ON}retry-after"]))
            passed_on["Content-Type"] = hide(response.headers.get("Content-Type", "application/json"))
            if profile.window is not None:
                passed_on[WINDOW_HEADER] = str(profile.window)
            if stream and status < 300 and response.content_type == "text/event-stream":
                return ProviderAnswer(HttpAnswer.of(status, b"", passed_on), passed_on, response)
            content = await read_bounded(response.content.iter_any(), status, join=not stream)
            if status < 300 and response.content_type == "text/event-stream":
                passed_on["Content-Type"] = "application/json"  # the caller asked for no stream, and gets it joined
        except BaseException:
            response.close()
            raise
        response.release()
        return ProviderAnswer(HttpAnswer.of(status, self.redactor.body(status, content), response.headers), passed_on)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            from pibot.llm_client.aiohttp_backend import open_session

            limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=self._silence)
            self._session = open_session(connections=0, timeout=limits, ssl_context=trusted(self.endpoint, None))
        return self._session
