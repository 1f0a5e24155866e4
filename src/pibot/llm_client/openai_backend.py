"""The optional backend: OpenAI's own library. Imported only if PIBOT_LLM_BACKEND chooses it.

The library's retries are off and its decoding is bypassed, because both backends share PiBot's own.
"""

from __future__ import annotations

import importlib
import logging
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from pibot import __version__
from pibot.contracts import JsonObject
from pibot.errors import LLMConfigurationError
from pibot.llm_client.backend import (
    CONNECT_SECONDS,
    KEEPALIVE_SECONDS,
    MAX_CONNECTIONS,
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
from pibot.llm_client.configuration import Endpoint
from pibot.llm_client.per_loop import PerLoop
from pibot.llm_client.profiles import ProviderProfile

if TYPE_CHECKING:
    import ssl

    import openai


class _Refused(Exception):
    """Carries an error answer out of the library, which would otherwise read its body without a limit."""

    def __init__(self, answer: HttpAnswer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class OpenAIBackend:
    """A backend with one client of the openai library per event loop.

    Args:
        endpoint: where the model is.
        ssl_context: what to trust; the system's authorities by default.

    Raises:
        LLMConfigurationError: the library is not installed.
    """

    def __init__(self, endpoint: Endpoint, *, ssl_context: ssl.SSLContext | None = None) -> None:
        try:
            self._openai: Any = importlib.import_module("openai")
        except ImportError as exc:
            raise LLMConfigurationError(
                "PIBOT_LLM_BACKEND=openai needs the openai library, which can't be imported: install it with "
                '"pip install openai" into the environment that runs pibot, or set PIBOT_LLM_BACKEND=aiohttp'
            ) from exc
        self._endpoint = endpoint
        self._http: Any = _http_library(self._openai)
        self._client: PerLoop[openai.AsyncOpenAI] = PerLoop(
            partial(_make, self._openai, self._http, endpoint, ssl_context), _close
        )

    async def post(self, body: JsonObject, profile: ProviderProfile, *, timeout: float) -> HttpAnswer:
        import anyio  # a dependency of the library

        # The first call may import for seconds, so it comes before the time limit.
        client = self._client.get()
        if profile.prefix:
            client = client.with_options(base_url=self._endpoint.base_url + profile.prefix)
        create: Any = client.chat.completions.with_streaming_response.create
        headers: dict[str, Any] = dict(self._endpoint.key_headers(profile))
        if profile.key_header != "Authorization":
            headers["Authorization"] = self._openai.Omit()
        # The library takes no fields but its own, and would leave out what it does not know of a stream.
        rest = {name: value for name, value in body.items() if name not in ("model", "messages")}
        limits = self._openai.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS))
        try:
            with anyio.fail_after(timeout):
                async with create(
                    model=body["model"],
                    messages=body["messages"],
                    extra_body=rest,
                    extra_headers=headers,
                    timeout=limits,
                ) as response:
                    content = await read_bounded(response.iter_bytes(), response.status_code)
                    return HttpAnswer.of(response.status_code, content, response.headers)
        except _Refused as refused:
            return refused.answer
        except self._openai.APITimeoutError as exc:
            connecting = type(exc.__cause__).__name__ == "ConnectTimeout"
            failure = not_connected(timeout) if connecting else timed_out(timeout)
        except TimeoutError:
            failure = timed_out(timeout)
        except self._openai.APIConnectionError as exc:
            if isinstance(exc.__cause__, _Refused):  # version 2 wraps what a hook raises; version 3 does not
                return exc.__cause__.answer
            failure = (
                certificate_problem(exc) or self._proxy_problem(exc.__cause__) or NoAnswer(self._reason(exc.__cause__))
            )
        except self._http.HTTPError as exc:  # the library does not wrap it while a body is read
            failure = NoAnswer(self._reason(exc))
        raise failure  # outside the except block, so that it has no context: the library's errors hold the key

    async def close(self) -> None:
        await self._client.close()

    def _proxy_problem(self, exc: BaseException | None) -> NoAnswer | None:
        """Return the failure of the proxy, if ``exc`` comes from there."""
        if isinstance(exc, self._http.ConnectError) and self._endpoint.proxy is not None:
            return proxy_unreachable("")  # only the proxy is connected to
        if not isinstance(exc, self._http.ProxyError):
            return None
        status = re.match(r"(\d{3})\b", str(exc))
        return proxy_refused(int(status[1])) if status else proxy_unreachable("")

    def _reason(self, exc: BaseException | None) -> str:
        """Say what happened, as the end of a sentence."""
        detail = self._endpoint.redactor.quote(str(exc or ""))
        return f"lost the connection or can't be reached: {type(exc).__name__} {detail}".rstrip()


def _quieten() -> None:
    """Keep the library and the libraries under it from logging below ``WARNING``.

    They log whole addresses (httpx, at ``INFO``), conversations and answer headers (at ``DEBUG``), all of which may
    hold a key.
    """
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))


def _make(library: Any, http: Any, endpoint: Endpoint, ssl_context: ssl.SSLContext | None) -> openai.AsyncOpenAI:
    _quieten()
    client: openai.AsyncOpenAI = library.AsyncOpenAI(
        api_key=endpoint.key.reveal(),
        base_url=endpoint.base_url,
        default_query=dict(endpoint.query),
        default_headers={"User-Agent": f"pibot/{__version__}"},
        max_retries=0,
        http_client=library.DefaultAsyncHttpxClient(
            follow_redirects=False,
            trust_env=False,  # as with aiohttp, only the settings decide where requests go
            verify=_trust(endpoint, ssl_context),
            proxy=_proxy(http, endpoint, ssl_context),
            limits=http.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_SECONDS),
            event_hooks={"response": [_keep_refusal]},
        ),
    )
    return client


def _trust(endpoint: Endpoint, ssl_context: ssl.SSLContext | None) -> ssl.SSLContext | bool:
    """Return what to trust: the system's authorities, not the list bundled with the library; nothing without TLS."""
    context = trusted(endpoint, ssl_context)
    if context is not None:
        return context
    if not endpoint.base_url.startswith("https:"):
        return False
    import ssl

    return ssl.create_default_context()


def _proxy(http: Any, endpoint: Endpoint, ssl_context: ssl.SSLContext | None) -> Any:
    if endpoint.proxy is None:
        return None
    context = trusted(endpoint, ssl_context) if endpoint.proxy.startswith("https:") else None
    return http.Proxy(endpoint.proxy, auth=endpoint.proxy_login, ssl_context=context)


async def _close(client: openai.AsyncOpenAI) -> None:
    await client.close()


async def _keep_refusal(response: Any) -> None:
    """A response hook of httpx, called before the body is read."""
    if not 200 <= response.status_code < 300:
        body = await read_bounded(response.aiter_bytes(), response.status_code)
        raise _Refused(HttpAnswer.of(response.status_code, body, response.headers))


def _http_library(library: Any) -> Any:
    """Return the HTTP library under the openai library: httpx2 since its version 3, httpx before."""
    client = next(base for base in library.DefaultAsyncHttpxClient.__mro__ if base.__name__ == "AsyncClient")
    return importlib.import_module(client.__module__.partition(".")[0])
