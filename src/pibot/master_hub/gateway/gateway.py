"""Calls passed on to the models with the master's keys: so many at once, again where that may help, to another model
where it does not, within the budgets, and each counted."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pibot.contracts import JsonObject
from pibot.llm_client.configuration import COMPLETIONS
from pibot.logs import event
from pibot.master_hub.gateway import meter
from pibot.master_hub.gateway.attempts import Attempts, Call, Timing
from pibot.master_hub.gateway.ledger import Account, Ledger
from pibot.master_hub.gateway.meter import Counted, StreamMeter
from pibot.master_hub.gateway.places import Places
from pibot.master_hub.gateway.provider import Answer, GatewayError, Provider

if TYPE_CHECKING:
    from pibot.background import BackgroundLoop

log = logging.getLogger("pibot.gateway")

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """An answer on its way to the caller.

    Args:
        status, headers: as they are to be sent.
        body: the parts, as they come.
        close: to be called when the body was sent, or nobody wants it any more.
    """

    status: int
    headers: Mapping[str, str]
    body: Iterator[bytes]
    close: Callable[[], None] = field(default=lambda: None)


class Gateway:
    """:meth:`forward` is for any thread but the loop's, :meth:`ask` for the loop.

    Args:
        providers: the model's, then the one for when that fails; none where no model is set.
        problem: why none is, as a sentence.
        ledger: knows the budgets, and writes down what was asked.
        loop: where all of it happens.
        calls: how many run at the providers at once.
        callers: how many requests may run or wait for that; each holds one of the server's threads.
        timing: how long it tries.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        problem: str | None,
        ledger: Ledger,
        loop: BackgroundLoop,
        *,
        calls: int,
        callers: int,
        timing: Timing,
    ) -> None:
        self._providers = tuple(providers)
        self._problem = problem
        self._ledger = ledger
        self._loop = loop
        self._timing = timing
        self._attempts = Attempts(self._providers, timing)
        self._places = Places(calls)
        self._callers = threading.BoundedSemaphore(callers)
        self._lock = threading.Lock()
        self._statuses: Counter[int] = Counter()

    @property
    def ledger(self) -> Ledger:
        """What was asked, and by whom."""
        return self._ledger

    @property
    def patience(self) -> float:
        """Seconds that a call may take until its answer is there, or begins: a time for each model."""
        return self._timing.each * max(1, len(self._providers)) + 5.0

    def calls(self) -> dict[int, int]:
        """How many calls were answered since the start, by the status that the caller got."""
        with self._lock:
            return dict(self._statuses)

    def forward(self, call: Call) -> Reply:
        """Pass one call on.

        Raises:
            GatewayError: there is no provider, no free place, no budget, or no answer.
        """
        try:
            reply = self._forward(call)
        except GatewayError as exc:
            self._count(call, exc.status, str(exc))
            raise
        self._count(call, reply.status, None)
        return reply

    async def ask(self, body: JsonObject) -> Answer:
        """The hub's own call for a completion, for the job that it works on; not streamed.

        Raises:
            GatewayError: as for :meth:`forward`.
        """
        call = Call(body)
        try:
            passed = await self._pass_on(call)
        except GatewayError as exc:
            self._count(call, exc.status, str(exc))
            raise
        self._count(call, passed.answer.status, None)
        return passed.answer

    async def close(self) -> None:
        """Give back the connections; in the loop."""
        await self._ledger.stop()
        for provider in self._providers:
            await provider.close()

    def _forward(self, call: Call) -> Reply:
        if not self._callers.acquire(blocking=False):
            raise _busy()
        try:
            passed = self._wait_for(self._pass_on(call))
        except BaseException:
            self._callers.release()
            raise
        answer = passed.answer
        if passed.end is None:
            self._callers.release()
            return Reply(answer.status, answer.headers, iter([answer.content]))
        parts = _Parts(passed, self._wait_for, self._callers.release)
        return Reply(answer.status, answer.headers, parts, parts.close)

    async def _pass_on(self, call: Call) -> _Passed:
        if not self._providers:
            raise GatewayError(503, "no_provider", f"on the master {self._problem}")
        began = self._timing.clock()
        account = await self._ledger.account_of(call.caller)
        if not await self._places.take(self._timing.each / 2):
            raise _busy()
        try:
            passed = await self._with_place(call, account, began)
        except BaseException:
            self._places.give_back()
            raise
        if passed.end is None:
            self._places.give_back()
        return passed

    async def _with_place(self, call: Call, account: Account, began: float) -> _Passed:
        if call.body is None:
            _, answer = await self._attempts.answer(call, began)
            return _Passed(answer)
        size = len(call.raw or call.sent() or b"")
        key = await self._ledger.begin(account, meter.estimate(size))
        counted: Counted | None = None
        model = ""
        try:
            provider, answer = await self._attempts.answer(call, began)
            model = self._attempts.model_of(provider, call)
            if answer.stream is None:
                counted = meter.of_answer(size, answer.content) if answer.status < 300 else None
        except BaseException:
            await self._ledger.end(key, model, None)
            raise
        if answer.stream is not None:
            counter = StreamMeter(size, tell_usage=meter.asks_for_usage(call.body))

            return self._streamed(provider, answer, counter, lambda: self._ledger.end(key, model, counter.counted()))
        await self._ledger.end(key, model, counted)
        return _Passed(answer)

    def _streamed(
        self, provider: Provider, answer: Answer, counter: StreamMeter, settle: Callable[[], Coroutine[Any, Any, None]]
    ) -> _Passed:
        connection = answer.stream
        assert connection is not None

        async def parts() -> bytes:
            while True:
                part = await provider.read(connection)
                passed = counter.pass_on(part) if part else counter.rest()
                if counter.done or not part:
                    await settle()  # before the caller knows of the end, and so before the job's
                if passed or not part:
                    return passed

        async def end() -> None:
            connection.close()
            self._places.give_back()
            await settle()

        return _Passed(answer, parts, end)

    def _wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run in the loop and wait."""
        try:
            return self._loop.run(coroutine).result()
        except (CancelledError, RuntimeError):
            failure = GatewayError(503, "stopping", "the master is stopping; send it again later", tell_again=True)
        raise failure

    def _count(self, call: Call, status: int, error: str | None) -> None:
        with self._lock:
            self._statuses[status] += 1
        path = "/models" if call.body is None else COMPLETIONS
        event(log, "gateway_call", path=path, status=status, error=error)


@dataclass(frozen=True)
class _Passed:
    """An answer as the loop has it; ``parts`` and ``end`` are those of a stream."""

    answer: Answer
    parts: Callable[[], Coroutine[Any, Any, bytes]] | None = None
    end: Callable[[], Coroutine[Any, Any, None]] | None = None


class _Parts:
    """The parts of a streamed answer as they come. A break in it is told by the event that OpenAI's clients read.

    Not a generator: one that was never started runs nothing when it is closed.
    """

    def __init__(
        self,
        passed: _Passed,
        wait_for: Callable[[Coroutine[Any, Any, Any]], Any],
        release: Callable[[], None],
    ) -> None:
        self._passed: _Passed | None = passed
        self._wait_for = wait_for
        self._release = release
        self._broken = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._broken or self._passed is None or self._passed.parts is None:
            raise StopIteration
        try:
            part: bytes = self._wait_for(self._passed.parts())
        except GatewayError as exc:
            self._broken = True
            event(log, "gateway_stream_broke", level=logging.WARNING, error=str(exc))
            return b"data: " + json.dumps(exc.to_json()).encode() + b"\n\n"
        if not part:
            raise StopIteration
        return part

    def close(self) -> None:
        """Give back the connection and the place, and have counted what came. Calling it twice is fine."""
        passed, self._passed = self._passed, None
        if passed is None or passed.end is None:
            return
        self._release()
        with contextlib.suppress(GatewayError):  # the loop was stopped, and the connection closed with it
            self._wait_for(passed.end())


def _busy() -> GatewayError:
    return GatewayError(
        429,
        "gateway_busy",
        "the master passes on as many calls as it can at once (PIBOT_GATEWAY_CALLS); try again shortly",
        tell_again=True,
    )
