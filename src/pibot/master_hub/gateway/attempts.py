"""How often a call is tried: again where that may help, and then with the other model."""

from __future__ import annotations

import asyncio
import json
import logging
import random as random_module
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Union

from pibot.contracts import Caller, Clock, JsonObject
from pibot.llm_client import failures, wire
from pibot.llm_client.configuration import COMPLETIONS
from pibot.llm_client.retry import RetryPolicy, parse_retry_after
from pibot.logs import event
from pibot.master_hub.gateway import meter
from pibot.master_hub.gateway.provider import Answer, GatewayError, Provider

log = logging.getLogger("pibot.gateway")

REST = 60.0
"""Seconds for which the other model is asked first, after the first one failed."""

NO_RETRY = {"x-should-retry": "false"}
"""Heeded by the openai library, and by PiBot's own clients: the gateway has tried it again already."""


@dataclass(frozen=True)
class Call:
    """What somebody asks of the model.

    Args:
        body: a chat completion's; None asks for the list of models.
        caller: whose key was shown; None for the hub itself.
        raw: the body as it came, to be passed on unchanged.
    """

    body: JsonObject | None
    caller: Caller | None = None
    raw: bytes | None = None

    @property
    def stream(self) -> bool:
        """Whether the answer is wanted as it is made."""
        return self.body is not None and self.body.get("stream") is True

    def sent(self, model: str | None = None, *, plain: bool = False) -> bytes | None:
        """The body for the provider.

        Args:
            model: to ask another than the caller's.
            plain: without the wish for a stream's tokens.
        """
        body = self.body
        if body is None:
            return None
        if model is None and self.raw is not None and (plain or not self.stream):
            return self.raw
        if self.stream and not plain:
            body = meter.asking_for_usage(body)
        return json.dumps(body if model is None else {**body, "model": model}).encode()


@dataclass(frozen=True)
class Timing:
    """How long a call is tried.

    Args:
        each: seconds for each model, with all attempts and the waits between them.
        retry: how often, and how long is waited before.
        sleep: waits some seconds.
        random: a number from 0 to 1, for the jitter.
        clock: seconds.
        wall_clock: seconds since the epoch, for dates that a provider sends.
    """

    each: float
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random_module.random
    clock: Clock = time.monotonic
    wall_clock: Clock = time.time


_Outcome = Union[Answer, GatewayError]


class Attempts:
    """Within one event loop.

    Args:
        providers: in the order in which they are asked.
        timing: how long each is.
    """

    def __init__(self, providers: Sequence[Provider], timing: Timing) -> None:
        self._providers = tuple(providers)
        self._timing = timing
        self._rests_until = float("-inf")

    async def answer(self, call: Call, began: float) -> tuple[Provider, Answer]:
        """Who answered, and what: a refusal too, where asking again or another would not help.

        Args:
            began: when the call came, by the clock of the timing.

        Raises:
            GatewayError: no provider gave an answer; the first one's failure.
        """
        first = self._providers[0]
        failed: dict[Provider, _Outcome] = {}
        for provider in self._in_order(call):
            outcome = await self._try(provider, call, began)
            if not _fails(outcome):
                assert isinstance(outcome, Answer)
                if first in failed and self._timing.clock() >= self._rests_until:
                    self._rests_until = self._timing.clock() + REST
                    why = _why(failed[first])
                    event(log, "fallback", level=logging.WARNING, model=provider.model, seconds=REST, error=why)
                return provider, outcome
            failed[provider] = outcome
            began = self._timing.clock()
        outcome = failed[first]
        if isinstance(outcome, GatewayError):
            raise outcome
        return first, replace(outcome, headers={**outcome.headers, **NO_RETRY})

    def model_of(self, provider: Provider, call: Call) -> str:
        """The name of the model that a provider was asked for."""
        named = (call.body or {}).get("model")
        return named if provider is self._providers[0] and isinstance(named, str) else provider.model

    def _in_order(self, call: Call) -> tuple[Provider, ...]:
        if call.body is None:
            return self._providers[:1]  # the list of models is the first one's
        resting = self._timing.clock() < self._rests_until
        return self._providers[::-1] if resting else self._providers

    async def _try(self, provider: Provider, call: Call, began: float) -> _Outcome:
        """Ask one provider, again where that may help and there is time left."""
        timing = self._timing
        deadline = began + timing.each
        attempt = 0
        while True:
            attempt += 1
            outcome = await self._once(provider, call, max(0.001, deadline - timing.clock()))
            if not _may_pass(outcome) or attempt > timing.retry.retries:
                return outcome
            wait = timing.retry.wait(attempt, _retry_after(outcome, timing.wall_clock), timing.random)
            if timing.clock() + wait >= deadline:
                return outcome
            event(
                log, "gateway_retry", level=logging.WARNING, attempt=attempt, wait=round(wait, 2), error=_why(outcome)
            )
            await timing.sleep(wait)

    async def _once(self, provider: Provider, call: Call, seconds: float) -> _Outcome:
        outcome = await self._send(provider, call, seconds, plain=False)
        refused = isinstance(outcome, Answer) and outcome.status == 400 and b"stream_options" in outcome.content
        if refused and call.stream and not meter.asks_for_usage(call.body or {}):
            return await self._send(provider, call, seconds, plain=True)  # it knows no such wish
        return outcome

    async def _send(self, provider: Provider, call: Call, seconds: float, *, plain: bool) -> _Outcome:
        model = None if provider is self._providers[0] else provider.model
        try:
            if call.body is None:
                return await provider.ask("GET", "/models", None, stream=False, timeout=seconds)
            body = call.sent(model, plain=plain)
            return await provider.ask("POST", COMPLETIONS, body, stream=call.stream, timeout=seconds)
        except GatewayError as exc:
            return exc


def _may_pass(outcome: _Outcome) -> bool:
    """Whether asking the same provider again may help."""
    if isinstance(outcome, GatewayError):
        return outcome.may_pass
    return failures.may_pass(outcome.status, _error(outcome)) if outcome.status >= 400 else False


def _fails(outcome: _Outcome) -> bool:
    """Whether another provider should be asked: not where it is the call that is wrong, or the key."""
    if isinstance(outcome, GatewayError):
        return True
    return outcome.status in (402, 408, 409, 429) or outcome.status >= 500


def _error(answer: Answer) -> wire.ErrorObject | None:
    try:
        return wire.find_error(json.loads(answer.content), success=False)
    except (ValueError, RecursionError):
        return None


def _retry_after(outcome: _Outcome, wall_clock: Clock) -> float | None:
    if isinstance(outcome, GatewayError):
        return None
    return parse_retry_after(outcome.headers.get("Retry-After"), None, wall_clock)


def _why(outcome: _Outcome) -> str:
    return str(outcome) if isinstance(outcome, GatewayError) else f"it answered {outcome.status}"
