"""The model client of workers and scripts: one call, with bounded retries, over one of the backends."""

from __future__ import annotations

import logging
import random as random_module
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Callable

from pibot.contracts import Clock, Completion, JsonObject, LLMClient, Message, ToolSpec
from pibot.errors import LLMUnavailable
from pibot.llm_client import failures, wire
from pibot.llm_client.adapting import Adapter
from pibot.llm_client.backend import Backend, HttpAnswer, NoAnswer
from pibot.llm_client.configuration import Endpoint, check
from pibot.llm_client.profiles import ProviderProfile
from pibot.llm_client.resting import RestingModels
from pibot.llm_client.retry import Failure, RetryLoop, RetryPolicy
from pibot.settings import LLMSettings, Settings

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)


def create_llm_client(
    settings: LLMSettings,
    *,
    sleep: Callable[[float], Awaitable[None]] | None = None,
    random: Callable[[], float] = random_module.random,
    clock: Clock = time.monotonic,
    wall_clock: Clock = time.time,
    ssl_context: ssl.SSLContext | None = None,
) -> ChatClient:
    """Create a client. It needs no event loop yet, and connects on its first call.

    Args:
        settings: where the model is, and the limits.
        sleep: waits between attempts; ``asyncio.sleep`` by default.
        random: returns a number from 0 to 1, for the jitter.
        clock: seconds, for durations.
        wall_clock: seconds since the epoch, for dates that a server sends.
        ssl_context: what to trust; the system's authorities by default.

    Raises:
        LLMConfigurationError: the key, the address or the name is missing or cannot be right, or the backend is not
            installed; the message says which variable to set, and where.
    """
    endpoint = check(settings)
    policy = RetryPolicy(retries=settings.retries)
    loop = RetryLoop(policy, random=random, clock=clock, wall_clock=wall_clock)
    return ChatClient(
        endpoint,
        _backend(settings.backend, endpoint, ssl_context),
        loop if sleep is None else replace(loop, sleep=sleep),
        attempt_timeout=settings.timeout,
    )


def create_llm_client_from_env(environ: Mapping[str, str] | None = None) -> LLMClient:
    """Create a client from the environment and ``.env`` in the working directory.

    Args:
        environ: used instead of the process's environment.

    Raises:
        SettingsError: a variable has an invalid value.
        LLMConfigurationError: as for :func:`create_llm_client`.
    """
    return create_llm_client(Settings.load(environ).llm)


class ChatClient(LLMClient):
    """An :class:`~pibot.contracts.LLMClient` for servers of the OpenAI protocol. Also an async context manager.

    Args:
        endpoint: where the model is.
        backend: carries the requests.
        retry_loop: repeats attempts.
        attempt_timeout: seconds for each attempt.
    """

    def __init__(self, endpoint: Endpoint, backend: Backend, retry_loop: RetryLoop, *, attempt_timeout: float) -> None:
        self._endpoint = endpoint
        self._backend = backend
        self._adapter = Adapter(endpoint)
        self._retry_loop = retry_loop
        self._attempt_timeout = attempt_timeout
        self._resting: RestingModels[str] = RestingModels(retry_loop.clock)
        self._closed = False

    def __repr__(self) -> str:
        return f"ChatClient(model={self.model!r}, at={self._endpoint.shown!r}, over={type(self._backend).__name__})"

    @property
    def model(self) -> str:
        return self._endpoint.model

    @property
    def profile(self) -> ProviderProfile:
        """What is known of the model by now."""
        return self._adapter.profile()

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, timeout: float | None = None
    ) -> Completion:
        """Ask for one completion; see :meth:`pibot.contracts.LLMClient.complete`.

        Without a ``timeout``, only each attempt, their number and each wait are bounded.

        Raises:
            LLMRejected: the server refused for good: a wrong key, an unknown model, an unacceptable request.
            LLMAway: the server is away or overloaded. If it named a time to be left alone that is no retry's, it is
                not asked again until then, by any call.
            LLMUnavailable: the server cannot be reached or keeps failing, or the time is up.
            LLMProtocolError: the server sent something else than a chat completion.
        """
        body = wire.request(self.model, messages, tools)

        async def attempt(seconds: float) -> Completion | Failure:
            return await self._attempt(body, min(self._attempt_timeout, seconds))

        resting = self._resting.failure(self.model)
        if resting is not None:
            raise resting.error
        deadline = float("inf") if timeout is None else self._retry_loop.clock() + timeout
        outcome = await self._retry_loop.run(attempt, deadline, log=log, retry_event="llm_retry")
        if isinstance(outcome, Failure):
            error = outcome.final_error()
            if outcome.rests and not outcome.by_gateway:  # the gateway may have another model by then
                self._resting.begin(self.model, outcome)
            raise error
        return outcome

    async def close(self) -> None:
        """Close the connections. Calling it twice is fine; calls after it fail."""
        self._closed = True
        await self._backend.close()

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _attempt(self, body: JsonObject, timeout: float) -> Completion | Failure:
        if self._closed:
            return Failure(LLMUnavailable("this model client was closed; create a new one"))
        if timeout <= 0:
            return Failure(LLMUnavailable("there was no time left to ask the model"))
        clock = self._retry_loop.clock
        deadline = clock() + timeout

        async def send(sent: JsonObject, profile: ProviderProfile) -> HttpAnswer:
            return await self._backend.post(sent, profile, timeout=max(0.001, deadline - clock()))

        try:
            answer = await self._adapter.ask(body, send, lambda answer: answer)
        except NoAnswer as problem:
            return failures.no_answer(self._endpoint, problem)
        read = failures.read_completion(self._endpoint, answer, self._retry_loop.wall_clock)
        return replace(read, window=answer.window) if isinstance(read, Completion) and answer.window else read


def _backend(name: str, endpoint: Endpoint, ssl_context: ssl.SSLContext | None) -> Backend:
    if name == "openai":
        from pibot.llm_client.openai_backend import OpenAIBackend

        return OpenAIBackend(endpoint, ssl_context=ssl_context)
    from pibot.llm_client.aiohttp_backend import AiohttpBackend

    return AiohttpBackend(endpoint, ssl_context=ssl_context)
