"""Refusals for want of money or of a day's quota are told from those that pass by themselves."""

from __future__ import annotations

from typing import Any

import pytest

from pibot.contracts import Fault, fault_of
from pibot.errors import LLMAway, LLMUnpaid
from tests.llm_client.conftest import HELLO, FakeTime, MakeClient
from tests.support.replies import Reply
from tests.support.scripted_llm import ScriptedLLM, error, raw, reply_json, text

GEMINI = (
    "You exceeded your current quota, please check your plan and billing details. * Quota exceeded for metric: "
    "generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: {limit}\nPlease retry in 14.2s."
)


def gemini(quota: str, limit: int = 10) -> Reply:
    details: list[Any] = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "14.2s"},
    ]
    message = GEMINI.format(limit=limit)
    body = {"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details}}
    return reply_json([body], status=429)


def minimax(code: int, message: str) -> Reply:
    return reply_json({"choices": None, "base_resp": {"status_code": code, "status_msg": message}})


PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (error(402, "Insufficient Balance"), "pay or raise the limit"),
        (error(402, "x", retry_after=5), "pay or raise the limit"),
        (error(429, "exceeded", code="insufficient_quota", retry_after=20), "pay or raise the limit"),
        (error(429, "suspended", type="exceeded_current_quota_error"), "pay or raise the limit"),
        (error(429, "no balance"), "pay or raise the limit"),
        (error(429, "You have used up your monthly quota"), "pay or raise the limit"),
        (error(429, "余额不足或无可用资源包,请充值。", code="1113"), "pay or raise the limit"),
        (error(403, "has an overdue balance", code="AccountOverdueError"), "pay or raise the limit"),
        (error(403, "x", code="insufficient_user_quota"), "pay or raise the limit"),
        (error(400, "Access denied", code="Arrearage"), "pay or raise the limit"),
        (error(400, "Your credit balance is too low to access the API"), "pay or raise the limit"),
        (error(200, "x", code="insufficient_quota"), "pay or raise the limit"),
        (error(429, "Your account has exhausted its free trial quota for the m model"), "pay or raise the limit"),
        (error(429, "token quota is not enough, token remain quota: 0.01"), "pay or raise the limit"),
        (error(400, "Budget has been exceeded! Max budget: 5.0", type="budget_exceeded"), "pay or raise the limit"),
        (error(400, "You have reached your specified API usage limits. You will regain"), "pay or raise the limit"),
        (error(403, "Your new team doesn't have any credits yet"), "pay or raise the limit"),
        (error(403, "Key limit exceeded (total limit)"), "pay or raise the limit"),
        (raw("your account is in arrears", status=429, content_type="text/plain"), "pay or raise the limit"),
        (minimax(1008, "insufficient balance"), "pay or raise the limit"),
        (gemini(PER_MINUTE, limit=0), "pay or raise the limit"),  # this model is not in the free tier at all
        (gemini(PER_DAY), "quota of the day"),
        (error(429, "daily limit reached", retry_after=30), "quota of the day"),
        (error(429, "Rate limit exceeded: free-models-per-day", code=429), "quota of the day"),
        (error(429, "今日调用次数已达上限"), "quota of the day"),
    ],
)
async def test_what_is_used_up_is_not_asked_for_again_and_says_what_to_do(
    make_client: MakeClient, server: ScriptedLLM, reply: Reply, words: str
) -> None:
    server.enqueue(reply)

    with pytest.raises(LLMUnpaid) as caught:
        await make_client().complete(HELLO)

    assert words in str(caught.value)
    assert "PIBOT_FALLBACK_MODEL" in str(caught.value)
    assert "try again later" not in str(caught.value)
    assert fault_of(caught.value) is Fault.SETTING
    server.assert_done()


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (gemini(PER_MINUTE), 14.2),
        (error(429, "on requests per day (RPD): Limit 200, Used 200. Please try again in 6.5s."), 6.5),
        (error(429, "Rate limit exceeded, upgrade your plan", retry_after=2), 2.0),
        (error(429, "5 per minute, 100 per day exceeded"), 0.0),
        (error(529, "Overloaded", type="overloaded_error"), 0.0),
        (error(400, "Overloaded", type="overloaded_error"), 0.0),
        (error(403, "slow down", code="rateLimitExceeded"), 0.0),
        (minimax(1002, "rate limit"), 0.0),
        (error(408, "too slow"), 0.0),
        (error(425, "too early"), 0.0),
    ],
)
async def test_what_passes_soon_is_asked_for_again(
    make_client: MakeClient, server: ScriptedLLM, time: FakeTime, reply: Reply, seconds: float
) -> None:
    server.enqueue(reply, text("at last"))

    assert (await make_client().complete(HELLO)).text == "at last"
    assert time.slept == [seconds]


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (error(402, "used up; resets in 3h"), 10800.0),
        (error(402, "used up", retry_after=43200), 43200.0),
        (error(429, "no balance in this window; it resets in 3h"), 10800.0),
        (error(429, "requests per day (RPD): Limit 200. Please try again in 7m12s."), 432.0),
        (error(503, "maintenance", retry_after=3600), 3600.0),
        (error(529, "overloaded", headers={"retry-after-ms": "90000"}), 90.0),
    ],
)
async def test_what_passes_at_a_time_far_off_rests_the_model_until_then(
    make_client: MakeClient, server: ScriptedLLM, reply: Reply, seconds: float
) -> None:
    server.enqueue(reply)

    with pytest.raises(LLMAway) as caught:
        await make_client().complete(HELLO)

    assert caught.value.rest == seconds
    assert fault_of(caught.value) is Fault.MODEL
    server.assert_done()
