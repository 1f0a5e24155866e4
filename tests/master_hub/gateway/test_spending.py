"""Counting tokens, budgets, retries and the fallback model, over real HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest

from pibot.contracts import Message, TaskResult, TaskState, Usage
from pibot.errors import LLMRejected, LLMUnavailable
from pibot.llm_client import create_llm_client
from pibot.master_components.store.records import Lease, Submission
from pibot.master_components.store.spending import Spending, total
from pibot.settings import LLMSettings, Price, Secret
from tests.master_hub.gateway.lone_gateway import HELLO, KEY, TOKEN, Running, running, settings_for
from tests.support import scripted_llm as model
from tests.support.scripted_llm import ScriptedLLM
from tests.support.serving import ask, serving

STREAM = {**HELLO, "stream": True}
TOLD = {"prompt_tokens": 700, "completion_tokens": 30, "total_tokens": 730}


@pytest.fixture
def llm() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as server:
        yield server
        server.assert_done()


@contextlib.contextmanager
def gateway(llm: ScriptedLLM, *, retries: int = 0, timeout: float = 20.0, **more: Any) -> Iterator[Running]:
    yield from running(replace(settings_for(llm), retries=retries, timeout=timeout), **more)


def leased(hub: Running, *, to: str = "worker-1") -> Lease:
    """Submit a job of one step, and lease the step to a worker."""
    job = hub.store.submit(Submission("Do it", skills=()))
    return hub.store.leases.grant(job.job_id, job.steps[0].task_id, to, 60.0)


def today(hub: Running) -> Spending:
    return total(hub.store.accounts.of_day())


def broken_off(hub: Running, *, after: bytes) -> None:
    """Read a stream until some bytes have come, then disconnect."""
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=20)
    connection.request("POST", "/v1/chat/completions", json.dumps(STREAM), {"Authorization": f"Bearer {KEY}"})
    response = connection.getresponse()
    read = b""
    while after not in read:
        read += response.read1(100)
    response.close()
    connection.close()


# --- accounts ---


def test_a_workers_call_is_counted_to_its_leased_job_whatever_the_worker_says(llm: ScriptedLLM) -> None:
    with gateway(llm) as hub:
        theirs, its = leased(hub, to="worker-2"), leased(hub)
        llm.enqueue(model.text("hi", usage=TOLD))
        headers = {"X-Job": theirs.job_id, "X-Worker": "worker-2"}
        answer = ask(
            hub.port, "POST", "/v1/chat/completions", {**HELLO, "user": theirs.job_id}, key=TOKEN, headers=headers
        )

        assert answer.status == 200
        assert hub.store.queries.job(its.job_id).usage == Usage(700, 30, 1)
        assert hub.store.queries.job(theirs.job_id).usage == Usage()
        assert hub.store.accounts.of_day() == (Spending(Usage(700, 30, 1), 0, None, "worker-1", model.MODEL),)


def test_a_call_of_a_worker_without_a_job_is_counted_to_the_worker_and_the_day(llm: ScriptedLLM) -> None:
    with gateway(llm) as hub:
        llm.enqueue(model.text("hi", usage=TOLD))
        hub.chat(key=TOKEN)
        assert [(row.caller, row.usage.total_tokens) for row in hub.store.accounts.of_day()] == [("worker-1", 730)]


def test_tokens_that_the_worker_reports_too_are_counted_once(llm: ScriptedLLM) -> None:
    with gateway(llm) as hub:
        lease = leased(hub)
        llm.enqueue(model.text("hi", usage=TOLD), model.text("ho", usage=TOLD))
        hub.chat(key=TOKEN)
        hub.chat(key=TOKEN)
        result = TaskResult(lease.task_id, "worker-1", TaskState.COMPLETED, output="x", usage=Usage(1400, 60, 2))
        hub.store.leases.complete(lease, result, finish_job=True)

        assert hub.store.queries.job(lease.job_id).usage == Usage(1400, 60, 2) == hub.store.used


def test_tokens_that_only_the_worker_reports_are_counted(llm: ScriptedLLM) -> None:
    """The worker may have asked the provider directly, for all or a part of its task."""
    with gateway(llm) as hub:
        lease = leased(hub)
        llm.enqueue(model.text("hi", usage=TOLD))
        hub.chat(key=TOKEN)
        result = TaskResult(lease.task_id, "worker-1", TaskState.COMPLETED, output="x", usage=Usage(1000, 30, 2))
        hub.store.leases.complete(lease, result, finish_job=True)

        assert hub.store.queries.job(lease.job_id).usage == Usage(1000, 30, 2)


def test_a_refused_call_counts_nothing(llm: ScriptedLLM) -> None:
    with gateway(llm) as hub:
        llm.enqueue(model.error(400, "no"))
        hub.chat()
        assert today(hub) == Spending()


def test_a_model_without_a_price_costs_what_the_dearest_would(llm: ScriptedLLM) -> None:
    prices = {"dear to read": Price(100, 1), "dear to write": Price(1, 1000)}
    with gateway(llm, prices=prices, models=("unpriced",)) as hub:
        for usage in (TOLD, {"prompt_tokens": 10, "completion_tokens": 30, "total_tokens": 40}):
            llm.enqueue(model.text("hi", usage=usage))
            hub.chat({**HELLO, "model": "unpriced"})
        (row,) = hub.store.accounts.of_day()
        assert (row.model, row.usage.llm_calls) == ("unpriced", 2)
        assert row.cost == pytest.approx(0.07003 + 0.03001)


def test_without_any_price_no_cost_is_shown(llm: ScriptedLLM) -> None:
    with gateway(llm) as hub:
        llm.enqueue(model.text("hi", usage=TOLD))
        hub.chat()
        assert today(hub).cost is None


def test_a_call_costs_what_the_models_price_says(llm: ScriptedLLM) -> None:
    with gateway(llm, prices={model.MODEL: Price(0.8, 8)}) as hub:
        lease = leased(hub)
        llm.enqueue(model.text("hi", usage=TOLD))
        hub.chat(key=TOKEN)
        assert hub.store.queries.job(lease.job_id).to_json()["cost"] == pytest.approx(0.0008)
        assert today(hub).cost == pytest.approx(0.0008)


# --- token counts and estimates ---


def test_tokens_that_the_provider_does_not_report_are_estimated_and_marked_so(llm: ScriptedLLM) -> None:
    with gateway(llm) as hub:
        llm.enqueue(model.text("x" * 400, usage=None))
        hub.chat({"messages": [{"role": "user", "content": "y" * 4000}]})
        spent = today(hub)
        assert 1000 < spent.usage.prompt_tokens < 1050
        assert spent.usage.completion_tokens == 100
        assert spent.to_json()["estimated_calls"] == 1


def test_token_counts_of_a_stream_are_requested_and_removed_for_the_caller(llm: ScriptedLLM) -> None:
    with gateway(llm) as hub:
        llm.enqueue(model.stream("a", "b", usage=TOLD))
        answer = hub.chat(STREAM)

        assert llm.requests[0].json["stream_options"] == {"include_usage": True}
        assert b"700" not in answer.body
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert today(hub) == Spending(Usage(700, 30, 1))


def test_a_caller_that_asks_for_a_streams_token_counts_gets_them(llm: ScriptedLLM) -> None:
    with gateway(llm) as hub:
        llm.enqueue(model.stream("a", usage=TOLD))
        with hub.client() as client:
            chunks = list(
                client.chat.completions.create(
                    model="m",
                    messages=[{"role": "user", "content": "x"}],
                    stream=True,
                    stream_options={"include_usage": True},
                )
            )
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 730


def test_a_stream_without_token_counts_is_estimated(llm: ScriptedLLM) -> None:
    with gateway(llm) as hub:
        llm.enqueue(model.stream("x" * 200, "y" * 200))
        hub.chat(STREAM)
        assert today(hub).usage.completion_tokens == 100
        assert today(hub).estimated == 1


def test_a_provider_that_refuses_stream_options_is_asked_without_them(llm: ScriptedLLM) -> None:
    with gateway(llm) as hub:
        llm.enqueue(model.error(400, "unknown field stream_options"), model.stream("a"))
        answer = hub.chat(STREAM)
        assert answer.status == 200
        assert "stream_options" not in llm.requests[1].json


def test_a_stream_that_its_caller_breaks_off_is_counted() -> None:
    said = json.dumps({"choices": [{"index": 0, "delta": {"content": "x" * 400}}]})
    asked: list[str] = []
    ended = threading.Event()

    def server(environ: Any, start_response: Any) -> Iterator[bytes]:
        asked.append(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        try:
            while len(asked) == 1:  # until there is a second call
                yield f"data: {said}\n\n".encode()
        finally:
            ended.set()

    with serving(server) as port:
        settings = LLMSettings(Secret(model.API_KEY), f"http://127.0.0.1:{port}/v1", "m", retries=0)
        for hub in running(settings, slots=1):
            broken_off(hub, after=b"xxx")
            assert ended.wait(20)
            assert hub.chat(STREAM).status == 200
            spent = today(hub)
            assert (spent.usage.llm_calls, spent.estimated) == (2, 2)
            assert spent.usage.completion_tokens >= 100


# --- budgets ---


def test_a_job_beyond_its_budget_is_refused_with_the_name_of_the_variable(llm: ScriptedLLM) -> None:
    with gateway(llm, job_tokens=1000) as hub:
        lease = leased(hub)
        llm.enqueue(model.text("hi", usage=TOLD), model.text("hi", usage=TOLD))
        assert [hub.chat(key=TOKEN).status for _ in range(2)] == [200, 200]

        refused = hub.chat(key=TOKEN)

        assert refused.status == 429
        assert refused.headers["x-should-retry"] == "false"
        assert "Retry-After" not in refused.headers
        assert refused.json()["error"]["code"] == "insufficient_quota"
        sentence = refused.json()["error"]["message"]
        assert sentence.startswith(
            f"job {lease.job_id} has used 1,460 tokens, and PIBOT_JOB_TOKENS on the master allows 1,000 a job"
        )
        assert len(llm.requests) == 2


def test_each_job_has_its_own_budget(llm: ScriptedLLM) -> None:
    with gateway(llm, job_tokens=700) as hub:
        lease = leased(hub)
        llm.enqueue(model.text("hi", usage=TOLD), model.text("hi", usage=TOLD))
        hub.chat(key=TOKEN)
        hub.store.leases.complete(lease, TaskResult(lease.task_id, "worker-1", TaskState.COMPLETED), finish_job=True)
        leased(hub)
        assert hub.chat(key=TOKEN).status == 200


def test_beyond_the_days_budget_every_call_is_refused(llm: ScriptedLLM) -> None:
    with gateway(llm, day_tokens=700) as hub:
        llm.enqueue(model.text("hi", usage=TOLD))
        hub.chat(key=TOKEN)
        refused = hub.chat()
        assert refused.status == 429
        assert "730 tokens" in refused.json()["error"]["message"]
        assert "PIBOT_DAY_TOKENS on the master allows 700" in refused.json()["error"]["message"]


def test_the_openai_library_does_not_retry_beyond_a_budget(llm: ScriptedLLM) -> None:
    with gateway(llm, day_tokens=1) as hub:
        llm.enqueue(model.text("hi", usage=TOLD))
        hub.chat()
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{hub.port}/v1", api_key=KEY, max_retries=5)
        with client, pytest.raises(openai.RateLimitError, match="PIBOT_DAY_TOKENS"):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        assert hub.gateway.calls() == {200: 1, 429: 1}


async def test_our_own_client_shows_the_gateways_message_unchanged(llm: ScriptedLLM) -> None:
    with gateway(llm, day_tokens=1) as hub:
        llm.enqueue(model.text("hi", usage=TOLD))
        hub.chat()
        settings = LLMSettings(Secret(KEY), f"http://127.0.0.1:{hub.port}/v1", "m", retries=5)
        async with create_llm_client(settings) as client:
            with pytest.raises(LLMRejected, match=r"^the fleet has used 730 tokens on .* or go on tomorrow$"):
                await client.complete([Message("user", "x")])
        assert hub.gateway.calls() == {200: 1, 429: 1}


async def test_our_own_client_does_not_retry_after_the_gateway_gave_up(llm: ScriptedLLM) -> None:
    with gateway(llm, retries=1) as hub:
        llm.answer_with(model.error(503, "overloaded"))
        settings = LLMSettings(Secret(KEY), f"http://127.0.0.1:{hub.port}/v1", "m", retries=5)
        async with create_llm_client(settings) as client:
            with pytest.raises(LLMUnavailable, match="overloaded"):
                await client.complete([Message("user", "x")])
        assert len(llm.requests) == 2


def test_the_prompts_of_running_calls_count_as_used(llm: ScriptedLLM) -> None:
    """So concurrent calls overshoot a budget by no more than their answers."""
    release = threading.Event()
    with gateway(llm, day_tokens=1000) as hub:
        llm.enqueue(model.held(model.text("hi"), release))
        body = {"messages": [{"role": "user", "content": "y" * 4000}]}
        first = threading.Thread(target=hub.chat, args=(body,))
        first.start()
        llm.wait_for_requests(1)
        refused = hub.chat()
        release.set()
        first.join()
        assert refused.status == 429
        assert "in calls that still run" in refused.json()["error"]["message"]


# --- concurrent calls ---


def test_calls_beyond_the_concurrency_limit_wait_for_a_slot(llm: ScriptedLLM) -> None:
    release = threading.Event()
    llm.enqueue(model.held(model.text("first"), release), model.text("second"))
    answers: list[int] = []
    with gateway(llm, calls=1) as hub:
        callers = [threading.Thread(target=lambda: answers.append(hub.chat().status)) for _ in range(2)]
        for caller in callers:
            caller.start()
        llm.wait_for_requests(1)
        assert len(llm.requests) == 1
        release.set()
        for caller in callers:
            caller.join()
    assert answers == [200, 200]


# --- failing models ---


@pytest.mark.parametrize(
    "failure", [model.error(429), model.error(503, retry_after=0), model.reset(), model.truncated()]
)
def test_a_temporary_failure_is_retried_before_the_caller_gets_a_byte(llm: ScriptedLLM, failure: model.Reply) -> None:
    with gateway(llm, retries=2) as hub:
        llm.enqueue(failure, failure, model.text("at last"))
        assert hub.chat().json()["choices"][0]["message"]["content"] == "at last"


def test_after_the_gateway_gave_up_no_client_retries(llm: ScriptedLLM) -> None:
    """Otherwise the attempts of both would multiply: here to 3 times 6."""
    with gateway(llm, retries=2) as hub:
        llm.answer_with(model.error(503, "overloaded"))
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{hub.port}/v1", api_key=KEY, max_retries=5)
        with client, pytest.raises(openai.InternalServerError, match="overloaded"):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        assert len(llm.requests) == 3


def test_a_retry_after_longer_than_the_time_left_is_passed_on(llm: ScriptedLLM) -> None:
    with gateway(llm, retries=3) as hub:
        llm.enqueue(model.error(429, retry_after=50))
        answer = hub.chat()
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "50"


def test_a_used_up_account_is_not_retried(llm: ScriptedLLM) -> None:
    with gateway(llm, retries=3) as hub:
        llm.enqueue(model.error(429, "pay first", code="insufficient_quota"))
        assert hub.chat().status == 429


@contextlib.contextmanager
def with_fallback(llm: ScriptedLLM, second: ScriptedLLM, **more: Any) -> Iterator[Running]:
    fallback = LLMSettings(Secret("the-other-key"), second.url, "small-model", timeout=20.0, retries=0)
    with gateway(llm, fallback=fallback, **more) as hub:
        yield hub


@pytest.mark.parametrize("failure", [model.error(500), model.reset(), model.error(429, code="insufficient_quota")])
def test_the_fallback_model_is_asked_with_its_own_name_and_key(llm: ScriptedLLM, failure: model.Reply) -> None:
    with ScriptedLLM() as second, with_fallback(llm, second, prices={"small-model": Price(1, 1)}) as hub:
        llm.enqueue(failure)
        second.enqueue(model.text("instead", usage=TOLD))
        answer = hub.chat({**HELLO, "model": model.MODEL})

        assert answer.json()["choices"][0]["message"]["content"] == "instead"
        assert second.requests[0].json["model"] == "small-model"
        assert second.requests[0].authorization == "Bearer the-other-key"
        assert [(row.model, row.cost) for row in hub.store.accounts.of_day()] == [("small-model", 0.00073)]


def test_a_stream_falls_back_too(llm: ScriptedLLM) -> None:
    with ScriptedLLM() as second, with_fallback(llm, second) as hub:
        llm.enqueue(model.error(502))
        second.enqueue(model.stream("in", "stead", usage=TOLD))
        assert b"stead" in hub.chat(STREAM).body
        assert today(hub).usage.total_tokens == 730


def test_after_a_failure_the_fallback_model_is_asked_first_for_a_while(llm: ScriptedLLM) -> None:
    with ScriptedLLM() as second, with_fallback(llm, second) as hub:
        llm.enqueue(model.error(500))
        second.enqueue(model.text("one"), model.text("two"))
        hub.chat()
        assert hub.chat().json()["choices"][0]["message"]["content"] == "two"
        assert len(llm.requests) == 1


def test_if_both_models_fail_the_first_ones_answer_is_passed_on(llm: ScriptedLLM) -> None:
    with ScriptedLLM() as second, with_fallback(llm, second) as hub:
        llm.enqueue(model.error(503, "the first is down"))
        second.enqueue(model.error(500, "the second too"))
        answer = hub.chat()
        assert answer.status == 503
        assert answer.headers["x-should-retry"] == "false"
        assert answer.json()["error"]["message"] == "the first is down"


@pytest.mark.parametrize("status", [400, 401, 404, 413])
def test_a_wrong_call_does_not_fall_back(llm: ScriptedLLM, status: int) -> None:
    with ScriptedLLM() as second, with_fallback(llm, second) as hub:
        llm.enqueue(model.error(status))
        assert hub.chat().status == status
        assert not second.requests
