"""One call for a completion: attempts, bounded in number and in time, over one of the backends."""

from __future__ import annotations

import logging
import random as random_module
import time
from collections.abc import Awaitable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Callable

from pibot.contracts import Clock, Completion, JsonObject, LLMClient, Message, ToolSpec
from pibot.errors import LLMProtocolError, LLMUnavailable
from pibot.llm_client import failures, wire
from pibot.llm_client.backend import Backend, NoAnswer
from pibot.llm_client.configuration import Endpoint, check
from pibot.llm_client.failures import Failure
from pibot.llm_client.retry import RetryPolicy
from pibot.logs import event
from pibot.settings import LLMSettings, Settings

if TYPE_CHECKING:
    import ssl

logger = logging.getLogger(__name__)


def create_llm_client(
    settings: LLMSettings,
    *,
    sleep: Callable[[float], Awaitable[None]] | None = None,
    random: Callable[[], float] = random_module.random,
    clock: Clock = time.monotonic,
    wall_clock: Clock = time.time,
    ssl_context: ssl.SSLContext | None = None,
) -> ChatClient:
    """Make a client. It needs no event loop yet, and connects on its first call.

    Args:
        settings: where the model is, and the limits.
        sleep: waits between attempts; ``asyncio.sleep`` by default.
        random: a number from 0 to 1, for the jitter.
        clock: seconds, for durations.
        wall_clock: seconds since the epoch, for dates that a server sends.
        ssl_context: what to trust; the system's authorities by default.

    Raises:
        LLMConfigurationError: the key, the address or the name is missing or can't be right, or the backend is not
            installed; the message says which variable to set, and where.
    """
    endpoint = check(settings)
    return ChatClient(
        endpoint,
        _backend(settings.backend, endpoint, ssl_context),
        RetryPolicy(retries=settings.retries),
        attempt_timeout=settings.timeout,
        sleep=sleep or _sleep,
        random=random,
        clock=clock,
        wall_clock=wall_clock,
    )


def create_llm_client_from_env(environ: Mapping[str, str] | None = None) -> LLMClient:
    """Make a client from the environment and ``.env`` in the working directory.

    Args:
        environ: instead of the process's environment.

    Raises:
        SettingsError: a variable doesn't fit.
        LLMConfigurationError: as for :func:`create_llm_client`.
    """
    return create_llm_client(Settings.load(environ).llm)


class ChatClient(LLMClient):
    """The :class:`~pibot.contracts.LLMClient` for servers of the OpenAI protocol. Also an async context manager."""

    def __init__(
        self,
        endpoint: Endpoint,
        backend: Backend,
        policy: RetryPolicy,
        *,
        attempt_timeout: float,
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
        clock: Clock,
        wall_clock: Clock,
    ) -> None:
        self._endpoint = endpoint
        self._backend = backend
        self._policy = policy
        self._attempt_timeout = attempt_timeout
        self._sleep = sleep
        self._random = random
        self._clock = clock
        self._wall_clock = wall_clock
        self._closed = False

    def __repr__(self) -> str:
        return f"ChatClient(model={self.model!r}, at={self._endpoint.shown!r}, over={type(self._backend).__name__})"

    @property
    def model(self) -> str:
        return self._endpoint.model

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, timeout: float | None = None
    ) -> Completion:
        """Ask for one completion; see :meth:`pibot.contracts.LLMClient.complete`.

        Without a ``timeout`` the limit is that of one attempt, times the attempts, and the waits between them.

        Raises:
            LLMRejected: the server refused for good: a wrong key, an unknown model, a request that it doesn't take.
            LLMUnavailable: it can't be reached, or kept failing, or the time is up.
            LLMProtocolError: what it sent is no chat completion.
        """
        body = wire.request(self.model, messages, tools)
        deadline = self._clock() + (float("inf") if timeout is None else timeout)
        attempt = 0
        while True:
            attempt += 1
            outcome = await self._attempt(body, min(self._attempt_timeout, deadline - self._clock()))
            if isinstance(outcome, Completion):
                return outcome
            error, left = outcome.error, deadline - self._clock()
            wait = self._policy.wait(attempt, outcome.retry_after, self._random)
            if not outcome.may_pass or attempt > self._policy.retries or wait >= left:
                _tell_attempts(error, attempt, outcome, cut_short=attempt <= self._policy.retries)
                raise error
            event(logger, "llm_retry", level=logging.WARNING, attempt=attempt, wait=round(wait, 2), error=error)
            await self._sleep(wait)

    async def close(self) -> None:
        """Give back connections. Calling it twice is fine; calls after it fail."""
        self._closed = True
        await self._backend.close()

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _attempt(self, body: JsonObject, timeout: float) -> Completion | Failure:
        """Ask once. Failures are returned, so that what is raised in the end has no other error hanging on it."""
        if self._closed:
            return Failure(LLMUnavailable("this client of the model was closed; make a new one"))
        if timeout <= 0:
            return Failure(LLMUnavailable("there was no time left to ask the model"))
        try:
            answer = await self._backend.post(body, timeout=timeout)
        except NoAnswer as problem:
            return failures.no_answer(self._endpoint, problem)
        success = 200 <= answer.status < 300
        try:
            data = wire.parse(answer.body)
        except LLMProtocolError as problem:
            if success:
                return failures.bad_completion(self._endpoint, answer, problem)
            data = None
        error = wire.find_error(data, success=success)
        if error is not None or not success:
            return failures.refusal(self._endpoint, answer, error, self._wall_clock)
        try:
            return wire.completion(data, model=self.model)
        except LLMProtocolError as problem:
            return failures.bad_completion(self._endpoint, answer, problem)


def _tell_attempts(error: Exception, attempts: int, failure: Failure, *, cut_short: bool) -> None:
    """Add to the error's sentence how often it was tried, and why no more."""
    if not failure.may_pass:
        return
    times = "once" if attempts == 1 else f"{attempts} times"
    more = ", and the time left is shorter than the wait for another attempt" if cut_short else ""
    if cut_short and failure.retry_after:
        more += f" (it asks for {failure.retry_after:.0f} seconds)"
    error.args = (f"{error} (asked {times}{more})",)


def _backend(name: str, endpoint: Endpoint, ssl_context: ssl.SSLContext | None) -> Backend:
    if name == "openai":
        from pibot.llm_client.openai_backend import OpenAIBackend

        return OpenAIBackend(endpoint, ssl_context=ssl_context)
    from pibot.llm_client.aiohttp_backend import AiohttpBackend

    return AiohttpBackend(endpoint, ssl_context=ssl_context)


async def _sleep(seconds: float) -> None:
    import asyncio

    await asyncio.sleep(seconds)
