"""The one way to a model on the master: budget, slot, attempts, the fallback model, and counting the tokens."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Union

from pibot.contracts import Completion, JsonObject
from pibot.errors import LLMAway, LLMProtocolError, LLMRejected, LLMUnpaid
from pibot.llm_client import failures, wire
from pibot.llm_client.backend import NoAnswer
from pibot.llm_client.configuration import COMPLETIONS
from pibot.llm_client.profiles import ProviderProfile
from pibot.llm_client.resting import ModelRest, RestingModels, shown
from pibot.llm_client.retry import Failure, RetryLoop
from pibot.logs import event
from pibot.master_hub.gateway import errors, meter
from pibot.master_hub.gateway.errors import GatewayError
from pibot.master_hub.gateway.ledger import Account, Ledger
from pibot.master_hub.gateway.meter import StreamMeter
from pibot.master_hub.gateway.model_call import Answered, CountedStream, ModelCall
from pibot.master_hub.gateway.origin import StreamMark, for_model, marked, origin_of
from pibot.master_hub.gateway.provider import Provider, ProviderAnswer
from pibot.master_hub.gateway.redaction import StreamRedactor
from pibot.master_hub.gateway.request import encode
from pibot.master_hub.gateway.shares import Shares, Slots
from pibot.master_hub.gateway.sight import NoWitness, ProviderWitness

log = logging.getLogger("pibot.gateway")

# docs/decisions.md, D63
FALLBACK_SECONDS = 60.0
"""How long the fallback model is asked first after the first model failed."""


UNPAID_SECONDS = 600.0
"""The same after it refused for want of money: the owner may pay at any time, but seldom within a minute."""

_REFUSES_MASTER = frozenset({401, 403, 404, 407})
"""Statuses with which a provider refuses the master's key, model or address. A worker would take them for its own."""


@dataclass(frozen=True)
class _CallFailure(Failure):
    """A failed attempt.

    Args:
        answer: the provider's answer, if there was one.
        fall_back: whether to ask the next provider: not if the call itself is wrong, or the key.
    """

    answer: ProviderAnswer | None = None
    fall_back: bool = False


_Outcome = Union[Answered, _CallFailure]


class ModelCaller:
    """Has model calls answered by the providers, for the workers and for the hub itself. Use it within one event loop.

    Args:
        providers: in the order in which they are asked; none if no model is set.
        problem: why there is no provider, as a sentence.
        ledger: keeps the budgets and counts the tokens.
        slots: how many calls run at the providers at once, and how callers share them.
        model_seconds: time limit for each model, with all attempts and the waits between them.
        retry_loop: repeats attempts.

    Attributes:
        witness: is told whether the providers answer.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        problem: str | None,
        ledger: Ledger,
        *,
        slots: Shares,
        model_seconds: float,
        retry_loop: RetryLoop,
    ) -> None:
        self._providers = tuple(providers)
        self._problem = problem
        self._ledger = ledger
        self._slots = Slots(slots)
        self._model_seconds = model_seconds
        self._retry_loop = retry_loop
        self._fallback_until = float("-inf")
        self._resting: RestingModels[tuple[Provider, str | None]] = RestingModels(retry_loop.clock)
        self.witness: ProviderWitness = NoWitness()

    async def answer(self, call: ModelCall) -> Answered:
        """Have a call answered.

        Raises:
            GatewayError: there is no provider, no free slot, no budget left, or no provider answered.
            asyncio.CancelledError: the client has hung up, or the hub stops.
        """
        if not self._providers:
            raise errors.no_provider(self._problem or "no model is set")
        began = self._retry_loop.clock()
        account = await self._ledger.account_of(call.caller, call.job_id)
        patience = self._model_seconds / 2
        if call.own:  # no client would come again for it, so it waits as long as a client with its retries
            patience *= 1 + self._retry_loop.policy.retries
        if not await self._slots.take(call.share, patience):
            raise errors.busy()
        if call.own:
            began = self._retry_loop.clock()
        try:
            answered = await self._ask_models(call, account, began)
        except BaseException:
            self._slots.give_back(call.share)
            raise
        if answered.stream is None:
            self._slots.give_back(call.share)
        return answered

    def resting(self) -> list[str]:
        """Return a sentence for each model that is not asked for now. May be called from any thread."""
        now, wall = self._retry_loop.clock(), self._retry_loop.wall_clock()
        keys = self._resting.all()
        return [
            f"the model {key[1]!r} rests until {shown(wall + rest.until - now)}: {rest.reason}" for key, rest in keys
        ]

    async def close(self) -> None:
        """Write what is not counted yet, and close the connections."""
        await self._ledger.stop()
        for provider in self._providers:
            await provider.close()

    async def _ask_models(self, call: ModelCall, account: Account, began: float) -> Answered:
        """Ask one provider after the other, until one gives an answer that another could not better."""
        clock = self._retry_loop.clock
        first = self._providers[0]
        failed: dict[Provider, _CallFailure] = {}
        rests: dict[Provider, ModelRest] = {}
        for provider in self._in_order(call):
            rest = self._resting.get(self._key(provider, call))
            if rest is not None:
                rests[provider] = rest
                continue
            attempt = partial(self._attempt, provider, call, account)
            asked = clock()
            outcome = await self._retry_loop.run(
                attempt, began + self._model_seconds, log=log, retry_event="gateway_retry"
            )
            if isinstance(outcome, _CallFailure) and outcome.fall_back:
                failed[provider] = outcome
                if outcome.rests and call.body is not None:
                    self._begin_rest(provider, call, outcome)
                began = clock()
                continue
            if outcome.answer is not None:
                self.witness.provider_answered(clock() - asked)
                if first in failed and clock() >= self._fallback_until and not failed[first].rests:
                    self._fall_back(provider, failed[first])
            return outcome if isinstance(outcome, Answered) else _settle(call, outcome)
        return self._unanswered(call, failed, rests)

    def _in_order(self, call: ModelCall) -> tuple[Provider, ...]:
        if call.body is None:
            return self._providers[:1]  # the list of models is the first provider's
        falling_back = self._retry_loop.clock() < self._fallback_until
        return self._providers[::-1] if falling_back else self._providers

    def _key(self, provider: Provider, call: ModelCall) -> tuple[Provider, str | None]:
        """Return what rests: one provider's model. The list of models never does."""
        return provider, None if call.body is None else self._model_of(provider, call)

    def _begin_rest(self, provider: Provider, call: ModelCall, failure: _CallFailure) -> None:
        failure.final_error()  # says how long it rests
        self._resting.begin(self._key(provider, call), failure)
        seconds = round(failure.rest or 0.0)
        model = self._model_of(provider, call)
        event(log, "model_rests", level=logging.WARNING, model=model, seconds=seconds, error=failure.error)

    def _fall_back(self, provider: Provider, failure: _CallFailure) -> None:
        """Ask the fallback model first for a while."""
        seconds = UNPAID_SECONDS if isinstance(failure.error, LLMUnpaid) else FALLBACK_SECONDS
        self._fallback_until = self._retry_loop.clock() + seconds
        event(log, "fallback", level=logging.WARNING, model=provider.model, seconds=seconds, error=failure.error)

    def _unanswered(
        self, call: ModelCall, failed: Mapping[Provider, _CallFailure], skipped: Mapping[Provider, ModelRest]
    ) -> Answered:
        """Return or raise the failure of a call that no provider answered, and tell the witness of it.

        Args:
            failed: the failures of those that were asked.
            skipped: those that were not asked, with their rests, which may be over by now.
        """
        begun = {provider: self._resting.get(self._key(provider, call)) for provider in failed}
        rests = {**skipped, **{provider: rest for provider, rest in begun.items() if rest is not None}}
        if len(rests) == len(skipped) + len(failed):
            soonest = min(rests.values(), key=lambda rest: rest.until)
            seconds = max(0.0, soonest.until - self._retry_loop.clock())
            if call.body is not None and call.body.get("model") == self._providers[0].model:
                self.witness.provider_away(soonest.reason, rest=seconds, caller=None)
            raise errors.ModelRests(soonest.reason, seconds)
        failure = next(
            (failed[provider] for provider in self._providers if provider in failed and not failed[provider].rests),
            None,
        )
        failure = failure or next(iter(failed.values()))
        if isinstance(failure.error, LLMAway) and call.body is not None:
            # A single caller's calls may be what the provider fails on; that it can't be reached is nobody's fault.
            unreachable = isinstance(failure.error, GatewayError) and failure.error.code == errors.UNREACHABLE
            caller = None if unreachable or call.caller is None else call.caller.name
            self.witness.provider_away(str(failure.error), rest=None, caller=caller)
        return _settle(call, failure, headers=errors.NO_RETRY)

    async def _attempt(self, provider: Provider, call: ModelCall, account: Account, seconds: float) -> _Outcome:
        """Make one attempt at one provider, and count its tokens."""
        if call.body is None:
            return await self._send(provider, call, None, seconds)
        origin = self._origin(provider, call)
        body = call.request(None if provider is self._providers[0] else provider.model)
        body = for_model(body, origin, self._origin(self._providers[0], call))
        size = len(call.raw or encode(body))
        try:
            key = await self._ledger.begin(account, meter.estimate(size))
        except GatewayError as exc:
            if exc.retry_after is None or not call.own:
                raise
            return _CallFailure(exc, may_pass=True, retry_after=exc.retry_after)
        model = self._model_of(provider, call)
        asked = self._retry_loop.clock()
        try:
            outcome = await self._send(provider, call, body, seconds)
        except BaseException:
            # The provider is paid for a call that its client no longer waits for: else hanging up would evade budgets.
            seconds = self._retry_loop.clock() - asked
            await self._ledger.end(key, model, meter.of_hung_up(size, seconds) if call.hung_up else None)
            raise
        answer = outcome.answer
        if answer is not None and answer.stream is not None:
            redactor = StreamRedactor(provider.redactor)
            mark = StreamMark(origin) if len(self._providers) > 1 else None
            counter = StreamMeter(size, tell_usage=meter.asks_for_usage(call.body), redactor=redactor, mark=mark)

            async def settle() -> None:
                await self._ledger.end(key, model, counter.counted())

            give_back = partial(self._slots.give_back, call.share)
            return Answered(answer, stream=CountedStream(provider, answer.stream, counter, settle, give_back))
        counted = None if answer is None or not answer.http.success else meter.of_answer(size, answer.http)
        await self._ledger.end(key, model, counted)
        if isinstance(outcome, Answered) and not call.own and len(self._providers) > 1:
            return replace(outcome, answer=replace(outcome.answer, http=marked(outcome.answer.http, origin)))
        return outcome

    def _origin(self, provider: Provider, call: ModelCall) -> str:
        return origin_of(provider.endpoint, self._model_of(provider, call))

    async def _send(self, provider: Provider, call: ModelCall, body: JsonObject | None, seconds: float) -> _Outcome:
        """Send the call once, or in the forms that the provider wants, and judge the answer."""
        clock = self._retry_loop.clock
        deadline = clock() + seconds

        async def send(written: JsonObject | None, profile: ProviderProfile) -> ProviderAnswer:
            path, data = ("/models", None) if written is None else (COMPLETIONS, encode(written))
            seconds = max(0.001, deadline - clock())
            return await provider.ask(path, data, profile, stream=call.stream, timeout=seconds)

        try:
            if body is None:
                answer = await send(None, provider.adapter.profile())
            else:
                answer = await provider.adapter.ask(body, send, lambda answer: answer.http)
        except NoAnswer as problem:
            error = errors.unanswered(provider.endpoint, provider.setting, problem)
            return _CallFailure(error, may_pass=problem.may_pass, fall_back=True)
        status = answer.http.status
        if not call.own and status < 400 and not _holds_error(answer):
            return Answered(answer)
        read = failures.read_completion(provider.endpoint, answer.http, self._retry_loop.wall_clock)
        if isinstance(read, Completion):
            return Answered(answer, completion=read)
        away = isinstance(read.error, (LLMAway, LLMUnpaid)) or status in (402, 408, 409, 429) or status >= 500
        return _CallFailure(read.error, read.may_pass, read.retry_after, answer=answer, fall_back=away or read.may_pass)

    def _model_of(self, provider: Provider, call: ModelCall) -> str:
        """Return the name of the model that the provider is asked for."""
        named = (call.body or {}).get("model")
        return named if provider is self._providers[0] and isinstance(named, str) else provider.model


def _holds_error(answer: ProviderAnswer) -> bool:
    """Whether an answer with a status of success is a refusal, as MiniMax and some proxies send."""
    if answer.stream is not None or not answer.http.success:
        return False
    try:
        return wire.find_error(answer.http.data, success=True) is not None
    except LLMProtocolError:
        return False


def _settle(call: ModelCall, failure: _CallFailure, headers: dict[str, str] | None = None) -> Answered:
    """Return or raise the last failure of a call.

    Args:
        headers: added to the provider's answer.
    """
    answer = failure.answer
    if answer is None:
        raise failure.final_error() if call.own else failure.error
    if call.own:
        return Answered(answer, error=failure.final_error())
    of_worker = call.body is not None and call.caller is not None and call.caller.worker_id is not None
    status = failure.error.status if isinstance(failure.error, LLMRejected) else answer.http.status
    if of_worker and (status in _REFUSES_MASTER or isinstance(failure.error, LLMUnpaid)):
        raise errors.provider_refuses(failure.error)
    if answer.http.status in (400, 422):
        headers = errors.NO_RETRY  # the gateway has asked in every form that it knows
    return Answered(replace(answer, headers={**answer.headers, **(headers or {})}))
