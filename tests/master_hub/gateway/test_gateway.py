"""The gateway over real HTTP on both sides: plain requests or the OpenAI library, and a scripted provider."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest

from pibot import web
from pibot.llm_client.configuration import check
from pibot.master_hub.gateway.redaction import AnswerRedactor
from pibot.settings import LLMSettings, Secret
from tests.master_hub.gateway.lone_gateway import HELLO, KEY, TOKEN, Running, running, settings_for
from tests.support import scripted_llm as model
from tests.support.scripted_llm import ScriptedLLM
from tests.support.serving import Answer, ask, serving


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as server:
        yield server


@pytest.fixture
def llm(provider: ScriptedLLM) -> Iterator[ScriptedLLM]:
    """The provider, with no requests recorded yet."""
    provider.requests.clear()
    provider.other_requests.clear()
    yield provider
    provider.assert_done()


@pytest.fixture(scope="module")
def hub(provider: ScriptedLLM) -> Iterator[Running]:
    yield from running(settings_for(provider))


@pytest.fixture(scope="module")
def narrow_hub(provider: ScriptedLLM) -> Iterator[Running]:
    yield from running(settings_for(provider), slots=1)


@pytest.fixture(scope="module")
def impatient_hub(provider: ScriptedLLM) -> Iterator[Running]:
    yield from running(replace(settings_for(provider), timeout=0.2))


@pytest.fixture(scope="module")
def keyless_hub(provider: ScriptedLLM) -> Iterator[Running]:
    yield from running(replace(settings_for(provider), api_key=Secret("your_volc_api_key_here")))


@pytest.fixture
def unreachable_hub() -> Iterator[Running]:
    with ScriptedLLM() as gone:
        settings = settings_for(gone)
    yield from running(settings)


def test_a_completion_is_passed_through_unchanged_with_the_masters_key(hub: Running, llm: ScriptedLLM) -> None:
    llm.enqueue(model.text("hi there"))
    body = {**HELLO, "model": "scripted-model", "temperature": 0.25, "tools": []}

    answer = hub.chat(body)

    assert answer.status == 200
    assert answer.json()["choices"][0]["message"]["content"] == "hi there"
    assert answer.json()["usage"]["total_tokens"] == 15
    assert llm.requests[0].json == body
    assert llm.requests[0].authorization == f"Bearer {model.API_KEY}"


def test_the_openai_library_works_against_it(hub: Running, llm: ScriptedLLM) -> None:
    llm.enqueue(model.text("hi"), model.stream("a", "b", "c"))

    with hub.client() as client:
        whole = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
        parts = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
        models = [m.id for m in client.models.list()]

    assert whole.choices[0].message.content == "hi"
    assert [p for p in parts if p] == ["a", "b", "c"]
    assert models == [model.MODEL]


def test_a_call_without_a_model_gets_the_masters_model(hub: Running, llm: ScriptedLLM) -> None:
    llm.enqueue(model.text("hi"))

    hub.chat()

    assert llm.requests[0].json == {**HELLO, "model": model.MODEL}


def test_without_the_fleets_key_nothing_is_passed_on(hub: Running, llm: ScriptedLLM) -> None:
    assert hub.chat(key=None).status == 401
    assert hub.chat(key="wrong").status == 401
    assert ask(hub.port, "GET", "/v1/models").status == 401
    assert not llm.requests


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"[]", b'{"messages": "hello"}', b'{"model": "m"}', b"\xff\xfe", b'{"messages": NaN}']
)
def test_a_body_that_is_no_chat_completion_is_refused_in_openais_form(
    hub: Running, llm: ScriptedLLM, body: bytes
) -> None:
    answer = ask(hub.port, "POST", "/v1/chat/completions", body, key=KEY)

    assert answer.status == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["error"]["message"]
    assert not llm.requests


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_the_providers_refusal_is_passed_on_with_its_status(hub: Running, llm: ScriptedLLM, status: int) -> None:
    llm.enqueue(model.error(status, "no such thing", retry_after=7))

    answer = hub.chat()

    assert answer.status == status
    assert answer.json()["error"]["message"] == "no such thing"
    assert answer.headers["Retry-After"] == "7"
    assert "Www-Authenticate" not in answer.headers


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_provider_that_refuses_the_masters_settings_refuses_none_of_a_workers(
    hub: Running, llm: ScriptedLLM, status: int
) -> None:
    llm.enqueue(model.error(status, f"not with {model.API_KEY}"))

    answer = hub.chat(key=TOKEN)

    assert (answer.status, answer.json()["error"]["code"]) == (502, "provider_refuses")
    assert answer.headers["x-should-retry"] == "false"
    sentence = answer.json()["error"]["message"]
    assert f'refused ({status}): "not with ***"' in sentence
    assert sentence.endswith("on the master")
    assert model.API_KEY[:10] not in sentence


def test_a_wrong_key_of_the_masters_counts_as_one_under_any_status(hub: Running, llm: ScriptedLLM) -> None:
    llm.answer_with(model.error(400, "No connected db.", type="no_db_connection"))

    to_worker = hub.chat(key=TOKEN)

    assert (to_worker.status, to_worker.json()["error"]["code"]) == (502, "provider_refuses")
    assert "VOLC_API_KEY" in to_worker.json()["error"]["message"]


def test_a_wait_that_a_proxy_repeats_is_passed_on_as_retry_after(hub: Running, llm: ScriptedLLM) -> None:
    llm.answer_with(model.error(429, "slowly", headers={"llm_provider-retry-after": "45"}))
    assert hub.chat().headers["Retry-After"] == "45"


def test_a_key_repeated_by_the_provider_is_removed(hub: Running, llm: ScriptedLLM) -> None:
    llm.enqueue(
        model.error(401, f"Incorrect API key provided: {model.API_KEY}"),
        model.error(401, f"Incorrect API key provided: {model.API_KEY[:10]}"),
        model.text(f"the key is {model.API_KEY}"),
    )

    for _ in range(3):
        answer = hub.chat()
        assert model.API_KEY[:10].encode() not in answer.body
        assert model.API_KEY not in str(answer.headers)


def test_each_part_of_a_stream_is_passed_on_before_the_next_is_generated() -> None:
    """Uses its own provider, which sends the second part only after the caller has received the first."""
    received = threading.Event()
    parts = (b"data: 1\n\n", b"data: 2\n\n")

    def server(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        yield parts[0]
        assert received.wait(20)
        yield parts[1]

    with serving(server) as port:
        settings = LLMSettings(
            api_key=Secret(model.API_KEY), base_url=f"http://127.0.0.1:{port}/v1", model="m", retries=0
        )
        for hub in running(settings):
            connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=20)
            connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps({**HELLO, "stream": True}),
                {"Authorization": f"Bearer {KEY}"},
            )
            response = connection.getresponse()
            assert response.getheader("Content-Type") == "text/event-stream"
            assert response.read(len(parts[0])) == parts[0]
            received.set()
            assert response.read() == parts[1]
            connection.close()


def test_a_stream_that_breaks_off_ends_with_an_error_event(hub: Running, llm: ScriptedLLM) -> None:
    llm.enqueue(model.truncated(model.stream("a", "b", "c")))

    with hub.client() as client, pytest.raises(openai.APIError, match="broke off"):
        for _ in client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True):
            pass


def test_an_answer_that_breaks_off_is_a_502(hub: Running, llm: ScriptedLLM) -> None:
    llm.enqueue(model.truncated(), model.reset())

    for _ in range(2):
        answer = hub.chat()
        assert answer.status == 502
        assert answer.json()["error"]["code"] == "provider_connection_broke"


def test_an_unreachable_provider_is_a_502_that_names_the_variable(unreachable_hub: Running) -> None:
    answer = unreachable_hub.chat()

    assert answer.status == 502
    assert answer.json()["error"]["code"] == "provider_unreachable"
    assert "VOLC_BASE_URL" in answer.json()["error"]["message"]
    assert model.API_KEY not in answer.body.decode()


def test_a_provider_that_never_answers_is_a_504(impatient_hub: Running, llm: ScriptedLLM) -> None:
    llm.enqueue(model.hang())

    answer = impatient_hub.chat()

    assert answer.status == 504
    assert "PIBOT_LLM_TIMEOUT" in answer.json()["error"]["message"]
    llm.wait_for_disconnects(1)


def test_a_redirect_is_not_followed(hub: Running, llm: ScriptedLLM) -> None:
    llm.enqueue(model.redirect(f"{llm.url}/elsewhere"))

    answer = hub.chat()

    assert answer.status == 502
    assert len(llm.requests) == 1
    assert not llm.other_requests


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/chat/completions"), ("GET", "/v1/models")])
def test_without_a_key_for_the_model_the_error_says_where_to_put_it(
    keyless_hub: Running, llm: ScriptedLLM, method: str, path: str
) -> None:
    answer = ask(keyless_hub.port, method, path, HELLO if method == "POST" else None, key=KEY)

    assert answer.status == 503
    assert "VOLC_API_KEY" in answer.json()["error"]["message"]
    assert not llm.requests


def test_callers_beyond_the_limit_are_asked_to_come_back(narrow_hub: Running, llm: ScriptedLLM) -> None:
    release = threading.Event()
    llm.enqueue(model.held(model.text("first"), release), model.text("second"))
    first: list[Answer] = []
    caller = threading.Thread(target=lambda: first.append(narrow_hub.chat()))
    caller.start()
    llm.wait_for_requests(1)

    refused = narrow_hub.chat()
    release.set()
    caller.join()

    assert refused.status == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert first[0].status == 200
    assert narrow_hub.chat().status == 200
    assert narrow_hub.gateway.calls() == {200: 2, 429: 1}


def test_a_reader_that_disconnects_frees_its_slot_and_stops_the_provider() -> None:
    ended = threading.Event()

    def server(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        try:
            while True:
                yield b"data: 1\n\n"
        finally:
            ended.set()

    with serving(server) as port:
        settings = LLMSettings(
            api_key=Secret(model.API_KEY), base_url=f"http://127.0.0.1:{port}/v1", model="m", retries=0
        )
        for hub in running(settings, slots=1):
            for _ in range(2):  # the second call gets the slot of the first
                ended.clear()
                connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=20)
                body = json.dumps({**HELLO, "stream": True})
                connection.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {KEY}"})
                response = connection.getresponse()
                assert response.status == 200
                assert response.read(6) == b"data: "
                response.close()
                connection.close()
                assert ended.wait(20)


def test_a_body_beyond_the_limit_is_refused_with_413_and_not_read(hub: Running, llm: ScriptedLLM) -> None:
    big = json.dumps({"messages": [{"role": "user", "content": "x" * (web.MAX_BODY + 1)}]}).encode()

    assert ask(hub.port, "POST", "/v1/chat/completions", big, key=KEY).status == 413
    assert not llm.requests


@pytest.mark.parametrize(("key", "shown"), [("rehearsal", "a rehearsal"), ("rehearsal-of-16-ch", "a ***")])
def test_a_long_key_is_removed_from_an_answer_and_a_short_one_is_kept(key: str, shown: str) -> None:
    endpoint = check(LLMSettings(api_key=Secret(key), base_url="http://127.0.0.1:9/v1"))
    answer = f"a {key}" if shown == "a ***" else shown
    assert AnswerRedactor(endpoint).body(200, answer.encode()) == shown.encode()
