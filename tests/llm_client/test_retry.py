"""When a failed call is retried, with a fake clock."""

from __future__ import annotations

import pytest

from pibot.errors import LLMAway, LLMUnavailable
from pibot.llm_client.failures import GATEWAY
from pibot.llm_client.retry import RetryPolicy, parse_retry_after
from tests.llm_client.conftest import HELLO, FakeTime, MakeClient
from tests.support.scripted_llm import ScriptedLLM, error, reply_json, text

NOON = "Wed, 21 Oct 2026 12:00:00 GMT"
NOON_SECONDS = 1792584000.0
HALF_A_MINUTE_LATER = "Wed, 21 Oct 2026 12:00:30 GMT"


def test_the_wait_doubles_up_to_its_cap_and_the_jitter_is_full() -> None:
    policy = RetryPolicy(base=0.5, cap=20.0)

    longest = [policy.wait(attempt, None, lambda: 1.0) for attempt in range(1, 9)]

    assert longest == [0.5, 1, 2, 4, 8, 16, 20, 20]
    assert policy.wait(3, None, lambda: 0.0) == 0.0
    assert policy.wait(10_000, None, lambda: 1.0) == 20.0


def test_the_jitter_is_added_to_the_servers_retry_after_up_to_a_cap() -> None:
    policy = RetryPolicy(base=0.5, retry_after_cap=60.0)

    assert policy.wait(1, 7.0, lambda: 0.0) == 7.0
    assert policy.wait(1, 7.0, lambda: 1.0) == 7.5
    assert policy.wait(1, 3600.0, lambda: 0.0) == 60.0


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("7", None, 7.0),
        (" 1.5 ", None, 1.5),
        ("0", None, 0.0),
        ("-3", None, 0.0),
        (HALF_A_MINUTE_LATER, NOON, 30.0),
        (HALF_A_MINUTE_LATER, None, 30.0),
        (HALF_A_MINUTE_LATER, "yesterday", 30.0),
        (NOON, HALF_A_MINUTE_LATER, 0.0),
        ("Wed Oct 21 12:00:30 2026", NOON, 30.0),  # asctime's form is UTC too
        (None, NOON, None),
        ("soon", None, None),
        ("inf", None, None),
        ("nan", None, None),
        ("", None, None),
        ("Wed, 99 Foo 2026", None, None),
    ],
)
def test_retry_after_is_read_in_seconds_and_as_a_date(
    value: str | None, date: str | None, seconds: float | None
) -> None:
    assert parse_retry_after(value, date, lambda: NOON_SECONDS) == seconds


def test_a_wrong_clock_does_not_matter_if_the_server_sends_its_date() -> None:
    assert parse_retry_after(HALF_A_MINUTE_LATER, NOON, lambda: 0.0) == 30.0


async def test_after_a_429_the_client_waits_as_long_as_the_server_asks(
    make_client: MakeClient, server: ScriptedLLM, time: FakeTime
) -> None:
    server.enqueue(error(429, retry_after=7), text("at last"))

    assert (await make_client().complete(HELLO)).text == "at last"
    assert time.slept == [7.0]


async def test_a_wait_that_a_proxy_repeats_under_a_name_of_its_own_counts_too(
    make_client: MakeClient, server: ScriptedLLM, time: FakeTime
) -> None:
    thousandths = {"llm_provider-retry-after-ms": "3000"}
    server.enqueue(error(429, headers={"llm_provider-retry-after": "7"}), error(429, headers=thousandths), text("done"))

    assert (await make_client().complete(HELLO)).text == "done"
    assert time.slept == [7.0, 3.0]


async def test_after_a_429_with_a_date_the_client_waits_until_then(
    make_client: MakeClient, server: ScriptedLLM, time: FakeTime
) -> None:
    server.enqueue(error(429, retry_after=HALF_A_MINUTE_LATER, headers={"Date": NOON}), text("at last"))

    assert (await make_client().complete(HELLO)).text == "at last"
    assert time.slept == [30.0]


async def test_a_model_that_asks_for_a_long_wait_is_not_asked_again_until_then(
    make_client: MakeClient, server: ScriptedLLM, time: FakeTime
) -> None:
    client = make_client()
    server.enqueue(error(429, "5-hour usage quota", retry_after=43200), text("at last"))

    with pytest.raises(LLMAway, match=r"5-hour usage quota.*asked once, and it asks for 12 h") as caught:
        await client.complete(HELLO)
    assert caught.value.rest == 43200.0

    time.now += 40000.0
    with pytest.raises(LLMAway, match=r"5-hour usage quota.*not asked for another 53 min") as caught:
        await client.complete(HELLO)
    assert caught.value.rest == 3200.0
    assert len(server.requests) == 1
    assert time.slept == []

    time.now += 3200.0
    assert (await client.complete(HELLO)).text == "at last"


async def test_a_wait_that_the_fleets_gateway_asks_for_is_not_remembered(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    body = {"error": {"message": "the model rests", "type": GATEWAY, "code": "model_rests"}}
    headers = {"Retry-After": "43200", "x-should-retry": "false"}
    server.enqueue(reply_json(body, status=429, headers=headers), text("from the fallback"))
    client = make_client()

    with pytest.raises(LLMAway, match=r"^the model rests$") as caught:
        await client.complete(HELLO)

    assert caught.value.rest == 43200.0
    assert (await client.complete(HELLO)).text == "from the fallback"


async def test_a_wait_beyond_the_time_of_the_call_frees_its_caller(
    make_client: MakeClient, server: ScriptedLLM, time: FakeTime
) -> None:
    server.enqueue(error(429, "Please retry in 50s"))
    client = make_client()

    for _ in range(2):
        with pytest.raises(LLMAway) as caught:
            await client.complete(HELLO, timeout=20.0)
        assert caught.value.rest == 50.0

    assert time.slept == []


async def test_a_wait_longer_than_the_time_left_is_not_started(
    make_client: MakeClient, server: ScriptedLLM, time: FakeTime
) -> None:
    server.enqueue(error(429, "slow down", retry_after=30))

    with pytest.raises(LLMUnavailable, match=r"slow down.*time left.*asks for 30 seconds"):
        await make_client().complete(HELLO, timeout=20.0)

    assert time.slept == []


async def test_waiting_counts_against_the_calls_timeout(
    make_client: MakeClient, server: ScriptedLLM, time: FakeTime
) -> None:
    server.answer_with(error(429, retry_after=8))

    with pytest.raises(LLMUnavailable, match="asked 3 times"):
        await make_client(retries=10).complete(HELLO, timeout=20.0)

    assert time.slept == [8.0, 8.0]
    assert len(server.requests) == 3


async def test_each_wait_is_longer_than_the_one_before(
    make_client: MakeClient, server: ScriptedLLM, time: FakeTime
) -> None:
    server.answer_with(error(500))

    with pytest.raises(LLMUnavailable):
        await make_client(retries=4, random=1.0).complete(HELLO)

    assert time.slept == [0.5, 1.0, 2.0, 4.0]
