"""A model whose provider asked to be left alone is not asked until then; the fallback model is, or nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pibot.contracts import Completion, Message
from pibot.errors import LLMAway, LLMUnpaid
from pibot.llm_client.resting import ModelRest, RestingModels
from pibot.master_components.store.records import Submission
from pibot.master_hub.gateway.caller import UNPAID_SECONDS
from pibot.master_hub.gateway.client import GatewayClient
from pibot.master_hub.gateway.sight import ProviderWitness
from pibot.settings import LLMSettings, Secret
from tests.master_hub.gateway.lone_gateway import HELLO, TOKEN, Running, running, settings_for
from tests.support import scripted_llm as model
from tests.support.clocks import FakeClock
from tests.support.scripted_llm import ScriptedLLM

HALF_A_DAY = 43200
USED_UP = model.error(429, "5-hour usage quota", retry_after=HALF_A_DAY)


@pytest.fixture
def llm() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as server:
        yield server
        server.assert_done()


@pytest.fixture
def second() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as server:
        yield server
        server.assert_done()


class Witness(ProviderWitness):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def provider_away(self, reason: str, *, rest: float | None, caller: str | None) -> None:
        self.told.append((reason, rest, caller))

    def provider_answered(self, seconds: float) -> None:
        self.told.append("answered")


@contextlib.contextmanager
def gateway(llm: ScriptedLLM, clock: FakeClock, second: ScriptedLLM | None = None, **more: Any) -> Iterator[Running]:
    if second is not None:
        more["fallback"] = LLMSettings(Secret("the-other-key"), second.url, "small-model", timeout=20.0, retries=0)
    yield from running(replace(settings_for(llm), retries=4), clock=clock, **more)


def witness_of(hub: Running) -> Witness:
    witness = Witness()
    hub.gateway.tell(witness)
    return witness


def complete(hub: Running) -> Completion:
    client = GatewayClient(hub.gateway, model.MODEL, hub.store.submit(Submission("Plan it")).job_id)
    return hub.loop.run(client.complete([Message("user", "hello")])).result()


@pytest.mark.parametrize(
    "refusal",
    [
        USED_UP,
        model.error(402, "used up", retry_after=HALF_A_DAY),
        model.error(529, "overloaded", retry_after=HALF_A_DAY),
        model.error(429, "You have exceeded the 5-hour usage quota. Try again in 12h"),
    ],
)
def test_a_model_that_rests_is_not_asked_by_anyone_until_then(llm: ScriptedLLM, refusal: model.Reply) -> None:
    clock = FakeClock()
    with gateway(llm, clock) as hub:
        witness = witness_of(hub)
        llm.enqueue(refusal)
        answers = [hub.chat(key=TOKEN), hub.chat()]
        clock.now += HALF_A_DAY - 100
        answers.append(hub.chat(key=TOKEN))
        with pytest.raises(LLMAway) as planning:
            complete(hub)

        assert [answer.status for answer in answers] == [429] * 3
        assert [answer.headers["Retry-After"] for answer in answers] == ["43200", "43200", "100"]
        assert {answer.headers["x-should-retry"] for answer in answers} == {"false"}
        for answer in answers:
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("pibot_gateway", "model_rests")
            assert f"for the model '{model.MODEL}'" in error["message"]
            assert "asks for 12 h" in error["message"]
        assert planning.value.rest == 100.0
        assert [told[1:] for told in witness.told] == [(HALF_A_DAY, None)] * 2 + [(100.0, None)] * 2

        clock.now += 100
        llm.enqueue(model.text("at last"))
        assert hub.chat(key=TOKEN).status == 200
        assert witness.told[-1] == "answered"


def test_while_a_model_rests_the_fallback_is_asked_and_nothing_waits(llm: ScriptedLLM, second: ScriptedLLM) -> None:
    clock = FakeClock()
    with gateway(llm, clock, second) as hub:
        witness = witness_of(hub)
        llm.enqueue(USED_UP)
        second.answer_with(model.text("instead"))
        for _ in range(3):
            assert hub.chat(key=TOKEN).status == 200
            clock.now += HALF_A_DAY / 3
        assert witness.told == ["answered"] * 3
        llm.enqueue(model.text("back"))
        assert hub.chat(key=TOKEN).json()["choices"][0]["message"]["content"] == "back"


def test_a_model_that_rests_is_not_asked_even_if_the_fallback_fails(llm: ScriptedLLM, second: ScriptedLLM) -> None:
    clock = FakeClock()
    with gateway(llm, clock, second) as hub:
        llm.enqueue(USED_UP)
        second.enqueue(model.text("instead"), model.error(401, "wrong key"), model.error(429, "x", retry_after=600))
        assert hub.chat().status == 200
        assert hub.chat().status == 401
        both = hub.chat()
        assert (both.status, both.headers["Retry-After"]) == (429, "600")  # until the first of them is back
        assert hub.chat().status == 429


def test_a_rest_that_ends_while_a_call_is_refused_for_it_is_told_as_a_rest(
    llm: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    with gateway(llm, clock) as hub:
        rests = [ModelRest(clock() + 0.001, "used up")]
        monkeypatch.setattr(RestingModels, "get", lambda self, model: rests.pop() if rests else None)
        refused = hub.chat(key=TOKEN)
        assert (refused.status, refused.json()["error"]["code"]) == (429, "model_rests")


def test_another_model_of_the_same_provider_does_not_rest(llm: ScriptedLLM) -> None:
    with gateway(llm, FakeClock()) as hub:
        witness = witness_of(hub)
        llm.enqueue(USED_UP, model.text("hello"))
        assert hub.chat({**HELLO, "model": "m"}, key=TOKEN).status == 429
        assert witness.told == []  # steps ask for the other one
        assert hub.chat(key=TOKEN).status == 200


def test_a_short_wait_is_a_retry(llm: ScriptedLLM) -> None:
    with gateway(llm, FakeClock()) as hub:
        llm.enqueue(model.error(429, "Please retry in 0.01s"), model.text("hello"))
        assert hub.chat(key=TOKEN).status == 200


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (model.error(402, "pay"), 402),
        (model.error(429, "no balance", retry_after=1), 429),
        (model.error(403, "overdue", code="AccountOverdueError"), 403),
    ],
)
def test_want_of_money_is_told_a_worker_as_the_masters_and_asked_for_once(
    llm: ScriptedLLM, refusal: model.Reply, status: int
) -> None:
    with gateway(llm, FakeClock()) as hub:
        llm.enqueue(refusal, refusal, refusal)
        to_worker = hub.chat(key=TOKEN)
        assert (to_worker.status, to_worker.json()["error"]["code"]) == (502, "provider_refuses")
        assert "pay or raise the limit" in to_worker.json()["error"]["message"]
        assert hub.chat().status == status
        with pytest.raises(LLMUnpaid, match="pay or raise the limit"):
            complete(hub)


@pytest.mark.parametrize(
    ("refusal", "asked"),
    [
        ({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, 1),
        ({"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit, retry in 2 hours"}}, 1),
        ({"error": {"message": "rate limited"}}, 5),
    ],
)
def test_a_refusal_under_http_200_goes_to_the_fallback_too(
    llm: ScriptedLLM, second: ScriptedLLM, refusal: dict[str, Any], asked: int
) -> None:
    with gateway(llm, FakeClock(), second) as hub:
        llm.enqueue(*[model.reply_json(refusal)] * asked)
        second.enqueue(model.text("instead"))
        assert hub.chat(key=TOKEN).json()["choices"][0]["message"]["content"] == "instead"


def test_want_of_money_goes_to_the_fallback_for_ten_minutes(llm: ScriptedLLM, second: ScriptedLLM) -> None:
    clock = FakeClock()
    with gateway(llm, clock, second) as hub:
        llm.enqueue(model.error(403, "overdue", code="AccountOverdueError"), model.text("paid"))
        second.answer_with(model.text("instead"))
        for _ in range(2):
            assert hub.chat(key=TOKEN).json()["choices"][0]["message"]["content"] == "instead"
            clock.now += UNPAID_SECONDS / 2
        assert hub.chat(key=TOKEN).json()["choices"][0]["message"]["content"] == "paid"


def test_the_witness_learns_of_a_provider_that_is_away_and_by_whose_call(llm: ScriptedLLM) -> None:
    with gateway(llm, FakeClock(), calls=4) as hub:
        witness = witness_of(hub)
        llm.answer_with(model.error(500, "broken"))
        hub.chat(key=TOKEN)
        with pytest.raises(LLMAway):
            complete(hub)
        assert [(told[1], told[2]) for told in witness.told] == [(None, "worker-1"), (None, None)]
        assert "broken" in witness.told[0][0]

        llm.answer_with(model.error(400, "bad request"))
        hub.chat(key=TOKEN)
        assert witness.told[2:] == ["answered"]


def test_a_provider_that_cannot_be_reached_is_no_callers_fault() -> None:
    with ScriptedLLM() as gone:
        settings = settings_for(gone)
    for hub in running(settings):
        witness = witness_of(hub)
        assert hub.chat(key=TOKEN).status == 502
        ((reason, rest, caller),) = witness.told
        assert "can't be reached" in reason
        assert (rest, caller) == (None, None)
