"""The gateway as the hub's other parts see it: from a server thread, or from the hub's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pibot.contracts import Completion, JsonObject
from pibot.llm_client.configuration import COMPLETIONS
from pibot.logs import event
from pibot.master_hub.gateway import errors
from pibot.master_hub.gateway.caller import ModelCaller
from pibot.master_hub.gateway.errors import GatewayError
from pibot.master_hub.gateway.model_call import Client, CountedStream, ModelCall
from pibot.master_hub.gateway.shares import Shares, Threads
from pibot.master_hub.gateway.sight import ProviderWitness

if TYPE_CHECKING:
    from pibot.background import BackgroundLoop

log = logging.getLogger("pibot.gateway")

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """An HTTP answer for a worker.

    Args:
        status, headers: sent as they are.
        body: the parts, as they arrive.
        close: called once the body was sent or is no longer wanted.
    """

    status: int
    headers: Mapping[str, str]
    body: Iterator[bytes]
    close: Callable[[], None] = field(default=lambda: None)


class Gateway:
    """Passes model calls on. Call :meth:`forward` from any thread but the loop's, and :meth:`complete` in the loop.

    Args:
        caller: has the calls answered.
        loop: where it works.
        threads: how many requests may run or wait at once, since each occupies one of the server's threads, and how
            callers share them.
    """

    def __init__(self, caller: ModelCaller, loop: BackgroundLoop, *, threads: Shares) -> None:
        self._caller = caller
        self._loop = loop
        self._threads = Threads(threads)
        self._lock = threading.Lock()
        self._statuses: Counter[int] = Counter()
        self._running: set[asyncio.Task[Any]] = set()
        self._ended = False

    def tell(self, witness: ProviderWitness) -> None:
        """Tell a witness from now on, in the loop, whether the providers answer."""
        self._caller.witness = witness

    def resting(self) -> list[str]:
        """Return a sentence for each model that is not asked for now, since its provider asked for that."""
        return self._caller.resting()

    def calls(self) -> dict[int, int]:
        """Return how many calls were answered since the start, by HTTP status."""
        with self._lock:
            return dict(self._statuses)

    def forward(self, call: ModelCall) -> Reply:
        """Pass on a worker's call.

        Raises:
            GatewayError: there is no provider, no free slot, no budget left, or no provider answered.
        """
        try:
            reply = self._forward(call)
        except GatewayError as exc:
            self._count(call, exc.status, exc)
            raise
        self._count(call, reply.status)
        return reply

    async def complete(self, body: JsonObject, job_id: str) -> Completion:
        """Answer the hub's own call for a completion.

        Args:
            body: of the chat completion; not streamed.
            job_id: the job that the tokens are counted to.

        Raises:
            LLMError: there is no completion; :class:`GatewayError` where no provider answered.
        """
        call = ModelCall(body, job_id=job_id)
        try:
            answered = await self._caller.answer(call)
        except GatewayError as exc:
            self._count(call, exc.status, exc)
            raise
        self._count(call, answered.answer.http.status, answered.error)
        if answered.error is not None:
            raise answered.error
        assert answered.completion is not None
        return answered.completion

    async def end_calls(self, seconds: float) -> None:
        """Answer the workers' calls that still run after some seconds that the hub is stopping. Call it in the loop."""
        await asyncio.sleep(seconds)
        self._ended = True
        for task in tuple(self._running):
            task.cancel()

    async def close(self) -> None:
        """Close the connections. Call it in the loop."""
        await self._caller.close()

    def _forward(self, call: ModelCall) -> Reply:
        client = call.client or Client()
        if not self._threads.take(call.share):
            client.answered()
            raise errors.share_used_up()

        def release() -> None:
            client.answered()
            self._threads.give_back(call.share)

        try:
            answered = self._wait_for(self._caller.answer(call), client)
        except BaseException:
            release()
            raise
        answer = answered.answer
        if answered.stream is None:
            release()
            return Reply(answer.http.status, answer.headers, iter([answer.http.body]))
        parts = _Parts(answered.stream, self._wait_for, client, release)
        return Reply(answer.http.status, answer.headers, parts, parts.close)

    def _wait_for(self, coroutine: Coroutine[Any, Any, T], client: Client | None = None) -> T:
        """Run a coroutine in the loop, and wait for its result in this thread.

        Args:
            client: the coroutine is cancelled when it hangs up.
        """
        try:
            return self._loop.run(coroutine if client is None else self._unless_gone(coroutine, client)).result()
        except (CancelledError, RuntimeError):
            failure = errors.stopping() if client is None or not client.gone else errors.hung_up()
        raise failure

    async def _unless_gone(self, coroutine: Coroutine[Any, Any, T], client: Client) -> T:
        if self._ended:
            coroutine.close()
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        cancel = task.cancel

        def cancel_soon() -> None:
            # The task is cancelled in the loop, and not through its future: one that has ended keeps its result, and
            # with it the connection that has to be closed.
            with contextlib.suppress(RuntimeError):  # the loop has stopped, and so has the task
                self._loop.call_soon(cancel)

        client.on_hang_up(cancel_soon)
        self._running.add(task)
        try:
            return await coroutine
        finally:
            self._running.discard(task)
            client.on_hang_up(None)

    def _count(self, call: ModelCall, status: int, error: Exception | None = None) -> None:
        with self._lock:
            self._statuses[status] += 1
        path = "/models" if call.body is None else COMPLETIONS
        event(log, "gateway_call", path=path, status=status, error=error)


class _Parts:
    """The parts of a streamed answer, for a server thread. If the stream breaks off, the last part is an error event
    as OpenAI's clients read it.

    Not a generator: closing a generator that never started would run none of its code.

    Args:
        stream: the answer.
        wait_for: runs a coroutine in the loop.
        client: the stream ends when it hangs up.
        release: frees the server's thread for other calls.
    """

    def __init__(
        self,
        stream: CountedStream,
        wait_for: Callable[..., Any],
        client: Client,
        release: Callable[[], None],
    ) -> None:
        self._stream: CountedStream | None = stream
        self._wait_for = wait_for
        self._client = client
        self._release = release
        self._broken = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._broken or self._stream is None:
            raise StopIteration
        try:
            part: bytes = self._wait_for(self._stream.read(), self._client)
        except GatewayError as exc:
            self._broken = True
            if self._client.gone:
                raise StopIteration from None
            event(log, "gateway_stream_broke", level=logging.WARNING, error=exc)
            return b"data: " + json.dumps(exc.to_json()).encode() + b"\n\n"
        if not part:
            raise StopIteration
        return part

    def close(self) -> None:
        """Close the stream and count what was read. Calling it twice is fine."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        self._release()
        with contextlib.suppress(GatewayError):  # the loop has stopped, and closed the connection
            self._wait_for(stream.close())
