"""A scripted model: a real HTTP server on 127.0.0.1 that speaks the OpenAI chat-completions protocol.

It is no mock: requests come over sockets, and it records what a provider would receive::

    with ScriptedLLM() as server:
        server.enqueue(
            tool_calls(call("shell_exec", {"command": "ls"})),
            text("two files"),
        )
        ...  # run the code under test against server.url, or with server.environ()
        assert server.requests[1].messages[-1] == {"role": "tool", ...}
        server.assert_done()

Each ``POST …/chat/completions`` takes the next enqueued reply. If the order of requests is not known (several workers
at once), use ``server.answer_with(function)``: the function of the request answers when nothing is enqueued. Without
either, the request is answered 400, which no client retries, and counts as unexpected. ``GET …/models`` always works.
The server records every request.

Replies: :func:`text`, :func:`tool_calls` (of :func:`call`), :func:`completion`, :func:`stream`, :func:`error`,
:func:`html`, :func:`reply_json`, :func:`raw`, :func:`redirect`, and the broken ones: :func:`reset`,
:func:`truncated`, :func:`stalled`, :func:`hang`. ``held(reply, event)`` delays any of them.
"""

from __future__ import annotations

import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

from tests.support.replies import (
    MODEL,
    Reply,
    call,
    completion,
    error,
    hang,
    held,
    html,
    raw,
    redirect,
    reply_json,
    reset,
    stalled,
    stream,
    text,
    tool_calls,
    truncated,
)
from tests.support.scripted_http import RecordedRequest, ScriptedHTTPServer

__all__ = [
    "API_KEY",
    "MODEL",
    "RecordedRequest",
    "Reply",
    "ScriptedLLM",
    "call",
    "completion",
    "error",
    "hang",
    "held",
    "html",
    "raw",
    "redirect",
    "reply_json",
    "reset",
    "stalled",
    "stream",
    "text",
    "tool_calls",
    "truncated",
]

API_KEY = "sk-test-9c41f0be27aa53d8"  # has the form of a key, but is none

Answer = Callable[[RecordedRequest], Reply]


class ScriptedLLM:
    """The server, which listens from construction on. Use it as a context manager, or call :meth:`close`.

    Args:
        replies: the first to be enqueued.
        context: answers over TLS.

    Attributes:
        requests: the requests for chat completions, in order of arrival.
        other_requests: all other requests, such as ``GET /v1/models``.
        unexpected: the requests without a reply.
        port: where it listens, on 127.0.0.1.
        url: the base URL for a client, ending in ``/v1``.
    """

    def __init__(self, *replies: Reply, context: ssl.SSLContext | None = None) -> None:
        self._lock = threading.Condition()
        self._script: deque[Reply] = deque(replies)
        self._answer: Answer | None = None
        self._failure: BaseException | None = None
        self._gone = 0
        self._closed = False
        self._held: list[threading.Event] = []
        self.requests: list[RecordedRequest] = []
        self.other_requests: list[RecordedRequest] = []
        self.unexpected: list[RecordedRequest] = []
        self._server = ScriptedHTTPServer(self._take, self._client_gone, context)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._server.accept_until_stopped, name="scripted-llm", daemon=True)
        self._thread.start()

    # what a test calls

    def enqueue(self, *replies: Reply) -> None:
        """Add replies. Each answers one request, in this order."""
        with self._lock:
            self._script.extend(replies)

    def answer_with(self, answer: Answer | Reply) -> None:
        """Answer requests with a function of the request, or with one reply for all, when nothing is enqueued.

        The function runs in the server's threads, maybe several times at once. :meth:`close` raises its errors again.
        """
        with self._lock:
            self._answer = (lambda _: answer) if isinstance(answer, Reply) else answer

    def wait_for_requests(self, number: int, timeout: float = 10.0) -> Sequence[RecordedRequest]:
        """Wait for ``number`` requests for chat completions. From a coroutine: ``await asyncio.to_thread(…)``."""
        self._wait(lambda: len(self.requests) >= number, timeout, f"{number} requests")
        return tuple(self.requests)

    def wait_for_disconnects(self, number: int, timeout: float = 10.0) -> None:
        """Wait until ``number`` clients have disconnected from a :func:`hang` or :func:`stalled`."""
        self._wait(lambda: self._gone >= number, timeout, f"{number} disconnects")

    def assert_done(self) -> None:
        """Check that every enqueued reply was used and no request was unexpected."""
        with self._lock:
            assert not self._script, f"{len(self._script)} replies were never asked for: {list(self._script)}"
            assert not self.unexpected, f"unexpected requests: {self.unexpected}"

    def environ(self, **more: str) -> dict[str, str]:
        """Return the environment variables with which a process uses this server."""
        return {"VOLC_API_KEY": API_KEY, "VOLC_BASE_URL": self.url, "MODEL_NAME": MODEL, **more}

    def close(self) -> None:
        """Stop the server, drop all connections, and raise the error of a function given to :meth:`answer_with`."""
        with self._lock:
            self._closed = True
            for event in self._held:
                event.set()
        self._server.stop()
        self._thread.join()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def __enter__(self) -> ScriptedLLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None:
            self._failure = None  # the test's own failure says more
        self.close()

    # what the handler calls

    def _wait(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        with self._lock:
            if not self._lock.wait_for(condition, timeout):
                raise AssertionError(f"waited {timeout} s for {what}; {len(self.requests)} requests came")

    def _take(self, request: RecordedRequest) -> Reply:
        path = request.path.partition("?")[0]
        with self._lock:
            if request.method == "GET" and path.endswith("/models"):
                self.other_requests.append(request)
                return reply_json({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "tests"}]})
            if request.method != "POST" or not path.endswith("/chat/completions"):
                self.other_requests.append(request)
                return error(404, f"no such address: {request.method} {path}", type="invalid_request_error")
            self.requests.append(request)
            number = len(self.requests)
            self._lock.notify_all()
            reply = self._script.popleft() if self._script else None
            answer = self._answer
            if reply is None and answer is None:
                self.unexpected.append(request)
                return error(400, f"the script has no reply for request {number}")
        if reply is None and answer is not None:
            try:
                reply = answer(request)
            except BaseException as exc:  # noqa: BLE001 - handed to the test's thread by close()
                self._failure = exc
                return error(400, f"the script's function failed: {exc!r}")
        assert reply is not None
        if reply.held_until is not None:
            with self._lock:
                self._held.append(reply.held_until)
                if self._closed:
                    reply.held_until.set()
            reply.held_until.wait()
        return reply

    def _client_gone(self) -> None:
        with self._lock:
            self._gone += 1
            self._lock.notify_all()
