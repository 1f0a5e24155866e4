"""A model call on its way to the provider, and the provider's answer on its way back."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pibot.contracts import Caller, Completion, JsonObject
from pibot.errors import LLMError
from pibot.llm_client.backend import NoAnswer
from pibot.master_hub.gateway import errors, meter
from pibot.master_hub.gateway.meter import StreamMeter
from pibot.master_hub.gateway.provider import Provider, ProviderAnswer
from pibot.master_hub.gateway.shares import PLANNER

if TYPE_CHECKING:
    import aiohttp

Watch = Callable[[Callable[[], object]], Callable[[], object]]
"""Registers a function to call when a client hangs up, and returns a function that unregisters it."""


class Client:
    """The client that waits for a call's answer, and may hang up. Any thread may use it.

    Args:
        watch: has the HTTP server call a function once the client hangs up, and returns what ends that; None if the
            server can't tell.
    """

    def __init__(self, watch: Watch | None = None) -> None:
        self._lock = threading.Lock()
        self._gone = False
        self._cancel: Callable[[], object] | None = None
        self._unwatch = (lambda: None) if watch is None else watch(self._hung_up)

    @property
    def gone(self) -> bool:
        """Whether the client has hung up."""
        return self._gone

    def on_hang_up(self, cancel: Callable[[], object] | None) -> None:
        """Call ``cancel`` when the client hangs up, or now if it already has; None calls nothing."""
        with self._lock:
            self._cancel = cancel
            gone = self._gone
        if gone and cancel is not None:
            cancel()

    def answered(self) -> None:
        """Stop watching: the client has its answer. Calling it twice is fine."""
        self._unwatch()

    def _hung_up(self) -> None:
        with self._lock:
            self._gone = True
            cancel = self._cancel
        if cancel is not None:
            cancel()


@dataclass(frozen=True)
class ModelCall:
    """A request for the provider.

    Args:
        body: of a chat completion; None asks for the list of models.
        caller: whose key the request came with; None for the hub itself.
        raw: the body encoded, for its size.
        job_id: the job that the hub itself calls for.
        client: waits for the answer; None for the hub itself.
    """

    body: JsonObject | None
    caller: Caller | None = None
    raw: bytes | None = None
    job_id: str | None = None
    client: Client | None = None

    @property
    def share(self) -> str:
        """The name under which the call takes its share of the slots."""
        return PLANNER if self.caller is None else self.caller.name

    @property
    def hung_up(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.client is not None and self.client.gone

    @property
    def own(self) -> bool:
        """Whether the hub itself calls, and so needs the completion and not the HTTP answer."""
        return self.caller is None

    @property
    def stream(self) -> bool:
        """Whether the caller wants the answer while it is generated."""
        return self.body is not None and self.body.get("stream") is True

    def request(self, model: str | None = None) -> JsonObject:
        """Return the body for the provider, in the protocol's form. A stream is asked to end with its token counts.

        Args:
            model: replaces the caller's model.
        """
        body = self.body or {}
        if self.stream:
            body = meter.asking_for_usage(body)
        return body if model is None else {**body, "model": model}


class CountedStream:
    """The rest of a streamed answer, counted while it is read. Use it within the caller's event loop.

    Args:
        provider, connection: where it comes from.
        counter: counts the tokens.
        settle: writes them to the ledger.
        give_back: frees the call's slot.
    """

    def __init__(
        self,
        provider: Provider,
        connection: aiohttp.ClientResponse,
        counter: StreamMeter,
        settle: Callable[[], Awaitable[None]],
        give_back: Callable[[], None],
    ) -> None:
        self._provider = provider
        self._connection = connection
        self._counter = counter
        self._settle = settle
        self._give_back = give_back

    async def read(self) -> bytes:
        """Return the next part for the caller; empty at the end.

        Raises:
            GatewayError: the stream broke off.
        """
        counter = self._counter
        while True:
            try:
                part = await self._provider.read(self._connection)
            except NoAnswer as problem:
                failure = errors.unanswered(self._provider.endpoint, self._provider.setting, problem)
                break
            passed_on = counter.pass_on(part) if part else counter.rest()
            if counter.done or not part:
                await self._settle()  # before the caller learns of the end, and so before its job can end
            if passed_on or not part:
                return passed_on
        raise failure

    async def close(self) -> None:
        """Close the connection, free the slot and count what was read."""
        self._connection.close()
        self._give_back()
        await self._settle()


@dataclass(frozen=True)
class Answered:
    """The outcome of a model call that a provider answered.

    Args:
        answer: what the provider answered; for a worker this may be a refusal.
        completion: the answer read, for the hub's own calls.
        error: why there is no completion, for the hub's own calls.
        stream: the rest of a streamed answer; the receiver closes it.
    """

    answer: ProviderAnswer
    completion: Completion | None = None
    error: LLMError | None = None
    stream: CountedStream | None = None
