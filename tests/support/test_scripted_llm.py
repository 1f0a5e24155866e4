"""The scripted model does what the tests rely on."""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any

import pytest

from tests.support.scripted_llm import (
    MODEL,
    RecordedRequest,
    Reply,
    ScriptedLLM,
    call,
    error,
    held,
    reset,
    stream,
    text,
    tool_calls,
    truncated,
)


class Caller:
    """A client on one connection, made of the standard library only."""

    def __init__(self, server: ScriptedLLM) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)

    def ask(self, body: dict[str, Any] | None = None, path: str = "/v1/chat/completions") -> tuple[int, bytes]:
        self._connection.request("POST", path, json.dumps(body or {"messages": []}).encode())
        response = self._connection.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        self._connection.close()


def test_replies_come_in_order_over_one_connection_and_requests_are_recorded() -> None:
    with ScriptedLLM(text("one")) as server:
        server.enqueue(tool_calls(call("now")), error(429, retry_after=3))
        caller = Caller(server)

        answers = [caller.ask({"messages": [{"role": "user", "content": str(n)}]}) for n in range(3)]
        caller.close()

        assert [status for status, _ in answers] == [200, 200, 429]
        assert [request.messages[0]["content"] for request in server.requests] == ["0", "1", "2"]
        assert {request.connection for request in server.requests} == {1}
        server.assert_done()


def test_a_function_of_the_request_answers_once_nothing_is_enqueued() -> None:
    with ScriptedLLM(text("first")) as server:
        server.answer_with(lambda request: text(f"to {request.json['n']}"))
        caller = Caller(server)

        bodies = [caller.ask({"n": n})[1] for n in range(2)]
        caller.close()

    assert b"first" in bodies[0]
    assert b"to 1" in bodies[1]


def test_an_error_of_the_answering_function_reaches_the_test() -> None:
    def broken(request: RecordedRequest) -> Reply:
        raise KeyError("not in the script")

    server = ScriptedLLM()
    server.answer_with(broken)
    caller = Caller(server)
    status, _ = caller.ask()
    caller.close()

    with pytest.raises(KeyError, match="not in the script"):
        server.close()
    assert status == 400


def test_a_request_without_a_reply_is_refused_and_counts_as_unexpected() -> None:
    with ScriptedLLM() as server:
        caller = Caller(server)

        assert caller.ask()[0] == 400
        caller.close()

        with pytest.raises(AssertionError, match="unexpected"):
            server.assert_done()


def test_an_enqueued_reply_that_no_request_took_fails_the_test() -> None:
    with ScriptedLLM(text("x")) as server, pytest.raises(AssertionError, match="never asked for"):
        server.assert_done()


def test_a_request_for_another_path_is_not_a_completion() -> None:
    with ScriptedLLM(text("x")) as server:
        caller = Caller(server)

        assert caller.ask(path="/chat")[0] == 404
        caller.close()

        assert server.requests == []
        assert [request.path for request in server.other_requests] == ["/chat"]


def test_a_stream_comes_in_events() -> None:
    with ScriptedLLM(stream("a", "b", usage={"prompt_tokens": 1})) as server:
        caller = Caller(server)
        _, body = caller.ask({"stream": True})
        caller.close()

    events = [event.removeprefix("data: ") for event in body.decode().strip().split("\n\n")]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert [c["delta"].get("content") for chunk in chunks for c in chunk["choices"]] == ["a", "b", None]
    assert {chunk["model"] for chunk in chunks} == {MODEL}


def test_broken_answers_are_really_broken() -> None:
    with ScriptedLLM(reset(), truncated()) as server:
        for expected in (ConnectionResetError, http.client.IncompleteRead):
            caller = Caller(server)
            with pytest.raises(expected):
                caller.ask()
            caller.close()


def test_a_held_reply_waits_for_its_event_or_the_end_of_the_server() -> None:
    for release_by_stopping in (False, True):
        event = threading.Event()
        server = ScriptedLLM(held(text("late"), event))
        caller = Caller(server)
        statuses: list[int] = []

        def ask(caller: Caller = caller, statuses: list[int] = statuses) -> None:
            try:
                statuses.append(caller.ask()[0])
            except (ConnectionError, http.client.HTTPException):  # the server may stop before it answers
                statuses.append(0)

        asking = threading.Thread(target=ask)
        asking.start()
        server.wait_for_requests(1)
        assert statuses == []
        if release_by_stopping:
            server.close()
        else:
            event.set()
        asking.join()
        assert release_by_stopping or statuses == [200]
        caller.close()
        server.close()
