"""The hub's own model calls have the same limits, retries and counts as the workers', without HTTP in between."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pibot.contracts import Completion, Message, Usage
from pibot.errors import LLMProtocolError, LLMRejected, LLMUnavailable
from pibot.master_components.store.records import Submission
from pibot.master_components.store.spending import MASTER, Spending
from pibot.master_hub.gateway.client import GatewayClient
from pibot.master_hub.gateway.errors import GatewayError
from pibot.settings import LLMSettings, Secret
from tests.master_hub.gateway.lone_gateway import Running, running, settings_for
from tests.support import scripted_llm as model
from tests.support.scripted_llm import ScriptedLLM

TOLD = {"prompt_tokens": 700, "completion_tokens": 30, "total_tokens": 730}


@pytest.fixture
def llm() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as server:
        yield server
        server.assert_done()


@contextlib.contextmanager
def gateway(llm: ScriptedLLM, *, retries: int = 0, timeout: float = 20.0, **more: Any) -> Iterator[Running]:
    yield from running(replace(settings_for(llm), retries=retries, timeout=timeout), **more)


def job(hub: Running) -> str:
    return hub.store.submit(Submission("Plan it")).job_id


def complete(hub: Running, job_id: str, timeout: float | None = None) -> Completion:
    client = GatewayClient(hub.gateway, model.MODEL, job_id)
    return hub.loop.run(client.complete([Message("user", "hello")], timeout=timeout)).result()


def test_the_tokens_of_a_plan_are_counted_once_to_its_job(llm: ScriptedLLM) -> None:
    with gateway(llm) as hub:
        llm.enqueue(model.text("a plan", usage=TOLD))
        job_id = job(hub)

        completion = complete(hub, job_id)

        assert completion.text == "a plan"
        assert completion.usage == Usage()  # the planner adds its completions' usage to the job's
        assert hub.store.queries.job(job_id).usage == Usage(700, 30, 1)
        assert hub.store.accounts.of_day() == (Spending(Usage(700, 30, 1), 0, None, MASTER, model.MODEL),)
        assert hub.gateway.calls() == {200: 1}


@pytest.mark.parametrize("failure", [model.error(503), model.reset(), model.error(429, retry_after=0)])
def test_a_temporary_failure_of_an_own_call_is_retried(llm: ScriptedLLM, failure: model.Reply) -> None:
    with gateway(llm, retries=2) as hub:
        llm.enqueue(failure, failure, model.text("at last"))
        assert complete(hub, job(hub)).text == "at last"
        assert hub.gateway.calls() == {200: 1}


def test_a_broken_completion_is_retried_and_each_attempt_is_counted(llm: ScriptedLLM) -> None:
    with gateway(llm, retries=2) as hub:
        broken = model.reply_json({"choices": [], "usage": TOLD})
        llm.enqueue(broken, model.error(200, "upstream failed", code=502), model.text("whole", usage=TOLD))
        job_id = job(hub)

        assert complete(hub, job_id).text == "whole"
        assert hub.store.queries.job(job_id).usage.llm_calls == 3
        assert hub.store.accounts.of_day()[0].estimated == 1


def test_a_failing_model_is_asked_as_often_as_the_settings_say(llm: ScriptedLLM) -> None:
    with gateway(llm, retries=2) as hub:
        llm.answer_with(model.error(503, "overloaded"))
        with pytest.raises(LLMUnavailable, match=r'answered 503: "overloaded".*asked 3 times'):
            complete(hub, job(hub))
        assert len(llm.requests) == 3
        assert hub.gateway.calls() == {503: 1}


def test_a_model_that_sends_no_completion_is_a_protocol_error(llm: ScriptedLLM) -> None:
    with gateway(llm, retries=1) as hub:
        llm.answer_with(model.raw('{"choi'))
        with pytest.raises(LLMProtocolError, match=r"broken JSON.*asked 2 times"):
            complete(hub, job(hub))
        assert len(llm.requests) == 2


def test_an_unrequested_stream_is_read_and_frees_its_slot(llm: ScriptedLLM) -> None:
    with gateway(llm, calls=1) as hub:
        llm.enqueue(model.stream("a", "b"), model.text("a plan"))
        assert complete(hub, job(hub)).text == "ab"
        assert complete(hub, job(hub)).text == "a plan"  # the one slot is free again


def test_a_refusal_names_the_variable_to_check(llm: ScriptedLLM) -> None:
    with gateway(llm, retries=2) as hub:
        llm.enqueue(model.error(401, "no such key"))
        with pytest.raises(LLMRejected, match=r"no such key.*VOLC_API_KEY"):
            complete(hub, job(hub))


def test_an_unreachable_model_is_reported_as_to_a_worker() -> None:
    with ScriptedLLM() as gone:
        settings = settings_for(gone)
    for hub in running(settings):
        with pytest.raises(GatewayError, match=r"can't be reached.*VOLC_BASE_URL on the master"):
            complete(hub, job(hub))
        assert hub.gateway.calls() == {502: 1}


def test_the_fallback_model_plans_when_the_first_one_fails(llm: ScriptedLLM) -> None:
    with ScriptedLLM() as second:
        fallback = LLMSettings(Secret("the-other-key"), second.url, "small-model", timeout=20.0, retries=0)
        with gateway(llm, fallback=fallback) as hub:
            llm.enqueue(model.error(500))
            second.enqueue(model.text("instead"))
            completion = complete(hub, job(hub))
        assert completion.text == "instead"
        assert second.requests[0].json["model"] == "small-model"


def test_a_plan_beyond_its_jobs_budget_is_refused_without_retries(llm: ScriptedLLM) -> None:
    with gateway(llm, retries=3, job_tokens=700) as hub:
        llm.enqueue(model.text("a plan", usage=TOLD))
        job_id = job(hub)
        complete(hub, job_id)
        with pytest.raises(GatewayError, match=rf"^job {job_id} has used 730 tokens, .* or ask for less in one job$"):
            complete(hub, job_id)
        assert hub.gateway.calls() == {200: 1, 429: 1}


def test_a_plan_waits_longer_for_a_slot_than_a_worker(llm: ScriptedLLM) -> None:
    release = threading.Event()
    llm.enqueue(model.held(model.text("a worker's"), release), model.text("a plan"))
    with gateway(llm, retries=50, timeout=0.5, calls=1, slots=4) as hub:
        worker = threading.Thread(target=hub.chat)
        worker.start()
        llm.wait_for_requests(1)
        client = GatewayClient(hub.gateway, model.MODEL, job(hub))
        planning = hub.loop.run(client.complete([Message("user", "hello")]))
        assert hub.chat().status == 429  # another worker gives up waiting in the meantime
        release.set()
        assert planning.result().text == "a plan"
        worker.join()


def test_a_cancelled_plan_frees_its_slot_and_counts_nothing(llm: ScriptedLLM) -> None:
    with gateway(llm, calls=1) as hub:
        llm.enqueue(model.hang(), model.text("next"))
        job_id = job(hub)
        planning = hub.loop.run(GatewayClient(hub.gateway, model.MODEL, job_id).complete([Message("user", "hello")]))
        llm.wait_for_requests(1)
        planning.cancel()
        llm.wait_for_disconnects(1)
        assert hub.chat().status == 200
        assert hub.store.queries.job(job_id).usage == Usage()


def test_a_plan_can_have_a_time_limit(llm: ScriptedLLM) -> None:
    with gateway(llm) as hub:
        llm.enqueue(model.hang())
        with pytest.raises(LLMUnavailable, match=r"within 0\.2 seconds"):
            complete(hub, job(hub), timeout=0.2)
