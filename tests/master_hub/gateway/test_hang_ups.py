"""Clients that hang up while the gateway waits for the provider, over real HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pibot.master_components.store.spending import total
from tests.master_hub.gateway.lone_gateway import HELLO, KEY, Running, running, settings_for
from tests.support import scripted_llm as model
from tests.support.scripted_llm import ScriptedLLM
from tests.support.waiting import until

STREAM = {**HELLO, "stream": True}


@pytest.fixture
def llm() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as server:
        yield server
        server.assert_done()


@contextlib.contextmanager
def gateway(llm: ScriptedLLM, **more: Any) -> Iterator[Running]:
    yield from running(replace(settings_for(llm), timeout=120.0), **more)


def sent(hub: Running, body: object = HELLO) -> http.client.HTTPConnection:
    """Send a call, and do not wait for its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=20)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Authorization": f"Bearer {KEY}"})
    return connection


@pytest.mark.parametrize("body", [HELLO, STREAM], ids=["whole", "streamed"])
def test_a_call_that_is_hung_up_ends_at_the_provider_and_gives_its_place_back(llm: ScriptedLLM, body: object) -> None:
    with gateway(llm, slots=1) as hub:
        for number in (1, 2):
            llm.enqueue(model.hang())
            connection = sent(hub, body)
            llm.wait_for_requests(2 * number - 1)
            llm.enqueue(model.text("next"))
            connection.close()
            llm.wait_for_disconnects(number)
            until(lambda: hub.chat().status == 200)
        assert hub.gateway.calls()[499] == 2


def test_a_stream_that_is_hung_up_while_the_provider_is_silent_ends_there_too(llm: ScriptedLLM) -> None:
    with gateway(llm, slots=1) as hub:
        llm.enqueue(model.stalled(model.stream("a", "b", "c", "d")))
        connection = sent(hub, STREAM)
        response = connection.getresponse()
        assert response.read(6) == b"data: "
        response.close()
        connection.close()
        llm.wait_for_disconnects(1)
        llm.enqueue(model.text("next"))
        until(lambda: hub.chat().status == 200)


def test_a_call_that_is_hung_up_while_it_waits_for_its_turn_never_reaches_the_provider(llm: ScriptedLLM) -> None:
    release = threading.Event()
    with gateway(llm, calls=1, sharing=()) as hub:
        llm.enqueue(model.held(model.text("first"), release), model.text("third"))
        first = threading.Thread(target=hub.chat)
        first.start()
        llm.wait_for_requests(1)
        second = sent(hub, {"messages": [{"role": "user", "content": "second"}]})
        second.close()
        until(lambda: hub.gateway.calls().get(499) == 1)
        release.set()
        first.join()
        assert hub.chat().status == 200
        assert "second" not in str([request.json for request in llm.requests])


def test_a_call_that_is_hung_up_counts_its_prompt_so_that_no_budget_is_evaded(llm: ScriptedLLM) -> None:
    with gateway(llm) as hub:
        llm.enqueue(model.hang())
        connection = sent(hub, {"messages": [{"role": "user", "content": "y" * 4000}]})
        llm.wait_for_requests(1)
        connection.close()
        llm.wait_for_disconnects(1)
        spent = total(until(hub.store.accounts.of_day))
        assert (spent.usage.llm_calls, spent.estimated) == (1, 1)
        assert spent.usage.prompt_tokens >= 1000


def test_a_client_that_sends_its_next_request_early_has_not_hung_up(llm: ScriptedLLM) -> None:
    release = threading.Event()
    with gateway(llm) as hub:
        llm.enqueue(model.held(model.text("one"), release), model.text("two"))
        connection = sent(hub)
        llm.wait_for_requests(1)
        assert connection.sock is not None
        body = json.dumps(HELLO)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
        connection.sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        release.set()
        got = b""
        while chunk := connection.sock.recv(65536):
            got += chunk
        connection.close()
        assert got.count(b"HTTP/1.1 200 OK") == 2


def test_a_hub_that_stops_ends_the_streams_that_still_run_and_says_so(llm: ScriptedLLM) -> None:
    with gateway(llm) as hub:
        llm.enqueue(model.stalled(model.stream("a", "b", "c", "d")))
        connection = sent(hub, STREAM)
        response = connection.getresponse()
        assert response.read(6) == b"data: "
        hub.loop.run(hub.gateway.end_calls(0)).result()
        assert b'"code": "stopping"' in response.read()
        connection.close()
        assert hub.chat().status == 503
        llm.wait_for_disconnects(1)
