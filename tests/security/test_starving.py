"""One caller of the hub against all the others. Each attack succeeds where callers have no share of their own."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from pibot.contracts import Message
from pibot.master_components.store.records import Submission
from pibot.master_hub.gateway.client import GatewayClient
from tests.master_hub.gateway.lone_gateway import HELLO, KEY, OTHER_TOKEN, TOKEN, Running, running, settings_for
from tests.support import scripted_llm as model
from tests.support.scripted_llm import RecordedRequest, ScriptedLLM

STREAMS = 20
SLOW = {"messages": [{"role": "user", "content": "slowly"}], "stream": True}


def slow_for_the_attacker(request: RecordedRequest) -> model.Reply:
    return model.stalled(model.stream("a", "b", "c")) if request.json.get("stream") else model.text("hi")


@contextlib.contextmanager
def attacked(hub: Running, *, streaming: int) -> Iterator[None]:
    """Open slow streams with a worker's token until so many of them run and the rest are refused or wait."""
    statuses: queue.Queue[int] = queue.Queue()
    connections = [http.client.HTTPConnection("127.0.0.1", hub.port, timeout=30) for _ in range(STREAMS)]

    def stream(connection: http.client.HTTPConnection) -> None:
        body, headers = json.dumps(SLOW), {"Authorization": f"Bearer {TOKEN}"}
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("POST", "/v1/chat/completions", body, headers)
            statuses.put(connection.getresponse().status)

    threads = [threading.Thread(target=stream, args=(connection,)) for connection in connections]
    for thread in threads:
        thread.start()
    open_ = 0
    while open_ < streaming:
        open_ += statuses.get(timeout=30) == 200
    yield
    for connection in connections:
        if connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for the answer
    for thread in threads:
        thread.join()
    for connection in connections:
        connection.close()


def plan(hub: Running) -> str:
    job_id = hub.store.submit(Submission("Plan it")).job_id
    client = GatewayClient(hub.gateway, model.MODEL, job_id)
    return hub.loop.run(client.complete([Message("user", "hello")], timeout=20.0)).result().text


def test_a_workers_many_slow_streams_leave_the_owner_the_others_and_the_planner_their_calls() -> None:
    with ScriptedLLM() as llm:
        llm.answer_with(slow_for_the_attacker)
        for hub in running(settings_for(llm)):
            with attacked(hub, streaming=5):  # of 8 places the owner, the other worker and the planner keep one each
                assert hub.chat(HELLO, key=KEY).status == 200
                assert hub.chat(HELLO, key=OTHER_TOKEN).status == 200
                assert plan(hub) == "hi"
                assert hub.chat(HELLO, key=KEY).status == 200


@pytest.mark.parametrize("key", [KEY, OTHER_TOKEN], ids=["the owner", "another worker"])
def test_without_shares_a_workers_many_slow_streams_take_every_place(key: str) -> None:
    with ScriptedLLM() as llm:
        llm.answer_with(slow_for_the_attacker)
        for hub in running(settings_for(llm), sharing=()):
            with attacked(hub, streaming=8):
                assert hub.chat(HELLO, key=key).status == 429
