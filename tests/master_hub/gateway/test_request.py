"""What the gateway lets a caller ask for: the owner's models, and one answer a call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pibot.settings import LLMSettings, Price, Secret
from tests.master_hub.gateway.lone_gateway import HELLO, TOKEN, Running, running, settings_for
from tests.support import scripted_llm as model
from tests.support.scripted_llm import ScriptedLLM
from tests.support.serving import Answer, ask


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as server:
        yield server


@pytest.fixture
def llm(provider: ScriptedLLM) -> Iterator[ScriptedLLM]:
    """The provider, which answers everything; no request is recorded yet."""
    provider.requests.clear()
    provider.answer_with(model.text("hi"))
    yield provider
    provider.assert_done()


@pytest.fixture(scope="module")
def hub(provider: ScriptedLLM) -> Iterator[Running]:
    fallback = LLMSettings(Secret("another-key"), provider.url, "the-fallback")
    yield from running(settings_for(provider), fallback=fallback, prices={"priced": Price(1, 1)}, models=())


def sent(hub: Running, body: str) -> Answer:
    return ask(hub.port, "POST", "/v1/chat/completions", body.encode(), key=TOKEN)


def refusal(answer: Answer, status: int = 400) -> str:
    assert (answer.status, answer.json()["error"]["type"]) == (status, "invalid_request_error")
    return str(answer.json()["error"]["message"])


@pytest.mark.parametrize("name", [model.MODEL, "the-fallback", "priced", None])
def test_the_configured_models_may_be_asked(hub: Running, llm: ScriptedLLM, name: str | None) -> None:
    assert hub.chat({**HELLO, "model": name}, key=TOKEN).status == 200
    assert llm.requests[0].json["model"] == (name or model.MODEL)


@pytest.mark.parametrize("name", ["the-dearest-model", "", "PRICED", " priced", 7, ["priced"], {"priced": 1}, True])
def test_no_other_model_may_be_asked_and_the_refusal_names_the_setting(
    hub: Running, llm: ScriptedLLM, name: object
) -> None:
    sentence = refusal(hub.chat({**HELLO, "model": name}, key=TOKEN), 404)
    assert "PIBOT_MODELS on the master" in sentence
    assert "priced, scripted-model, the-fallback" in sentence
    assert not llm.requests


def test_the_owners_list_takes_the_place_of_the_priced_models(llm: ScriptedLLM) -> None:
    for hub in running(settings_for(llm), prices={"priced": Price(1, 1)}, models=("one", "two")):
        statuses = [hub.chat({**HELLO, "model": name}).status for name in ("one", "two", model.MODEL, "priced")]
    assert statuses == [200, 200, 200, 404]


@pytest.mark.parametrize("n", [2, 0, -1, 128, 1.0, True, "1", [1], {}, False, 10**400])
def test_a_call_asks_for_one_answer(hub: Running, llm: ScriptedLLM, n: object) -> None:
    assert "n must be 1" in refusal(hub.chat({**HELLO, "n": n}, key=TOKEN))
    assert not llm.requests


@pytest.mark.parametrize("n", [1, None])
def test_one_answer_may_be_asked_for_in_words(hub: Running, llm: ScriptedLLM, n: object) -> None:
    assert hub.chat({**HELLO, "n": n}, key=TOKEN).status == 200


MESSAGES = json.dumps(HELLO)[1:-1]


@pytest.mark.parametrize(
    "body",
    [
        f'{{"model": "dear", {MESSAGES}, "model": "priced"}}',
        f'{{"n": 9, {MESSAGES}, "n": 1}}',
        f'{{"\\u006e": 9, {MESSAGES}, "n": 1}}',
    ],
)
def test_a_field_that_is_named_twice_reaches_the_provider_once(hub: Running, llm: ScriptedLLM, body: str) -> None:
    assert sent(hub, body).status == 200
    assert b"dear" not in llm.requests[0].body
    assert b"9" not in llm.requests[0].body


@pytest.mark.parametrize("field", ["N", "Model", "MODEL", "Stream", "\u017ftream"])
def test_a_field_in_other_letters_is_refused_since_some_providers_read_it(
    hub: Running, llm: ScriptedLLM, field: str
) -> None:
    assert "must be written" in refusal(hub.chat({**HELLO, field: 9}, key=TOKEN))
    assert not llm.requests


def test_a_number_that_is_none_in_json_is_refused(hub: Running, llm: ScriptedLLM) -> None:
    assert "not JSON" in refusal(sent(hub, f'{{{MESSAGES}, "temperature": 1e999}}'))


@pytest.mark.parametrize("text", ["ü 你好 \U0001f600", "\ud800"])
def test_a_text_reaches_the_provider_as_it_is(hub: Running, llm: ScriptedLLM, text: str) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "model": model.MODEL}
    assert hub.chat(body).status == 200
    assert llm.requests[0].json == body
