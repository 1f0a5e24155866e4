"""When a server that refused wants to be asked again, in the forms in which servers say so."""

from __future__ import annotations

import calendar
import json
from typing import Any

import pytest
from multidict import CIMultiDict

from pibot.llm_client.asked_wait import LONGEST, asked_wait
from pibot.llm_client.backend import HttpAnswer
from pibot.llm_client.named_times import in_sentence, in_value

NOW = float(calendar.timegm((2026, 2, 17, 16, 27, 15)))
SENT = "Tue, 17 Feb 2026 16:27:15 GMT"
HOUR = 3600.0


@pytest.mark.parametrize(
    ("sentence", "seconds"),
    [
        ("Please retry in 14.2s.", 14.2),
        ("try again in 12s", 12.0),
        ("Please try again in 6ms. Visit https://platform.openai.com", 0.006),
        ("Limit 3, Used 3, Requested 1. Please try again in 7m12.48s. Need more tokens?", 432.48),
        ("try again in 5m30s", 330.0),
        ("try again in 1 hour", HOUR),
        ("Try again in an hour", HOUR),
        ("Please retry in 1h2m3.4s", 3723.4),
        ("Retry in 00:12:30", 750.0),
        ("Please retry after 20 seconds.", 20.0),
        ("exceeded call rate limit of your current pricing tier. Please retry after 24 hours", 24 * HOUR),
        ("reached max RPM: 3, please try again after 1 seconds", 1.0),
        ("You can retry your request after 8 seconds", 8.0),
        ("Please try again in approximately 45 seconds", 45.0),
        ("Please wait for 2 minutes", 120.0),
        ("You must wait 1 day, 2 hours and 5 minutes", 26 * HOUR + 300),
        ("Request was throttled. Expected available in 86400 seconds.", 86400.0),
        ("Next request allowed in 1 hour", HOUR),
        ("rate limited; resets in 3h", 3 * HOUR),
        ("Please retry in 5s; the quota resets in 3h", 5.0),
        ("Retry-After: 20", 20.0),
        ("请在 12 秒后重试", 12.0),
        ("请求过于频繁，请 5 分钟后再试", 300.0),
        ("You have exceeded the 5-hour usage quota. It will reset at 2026-02-18 03:27:15 +0800 CST. Upgrade", 3 * HOUR),
        ("Your limit will reset at 2026-02-18 03:27:15", 3 * HOUR),  # without a zone: China's time, as it lies ahead
        ("Your limit will reset at 2026-02-17 17:27:15", HOUR),  # in China past already, so it is UTC
        ("已达到 5 小时的使用上限。您的限额将在 2026-02-18 03:27:15 重置。", 3 * HOUR),
        ("reset at 2026-02-17T18:27:15Z", 2 * HOUR),
        ("reset at 2026-02-17T18:27:15.123+00:00", 2 * HOUR),
        ("Your quota will reset on February 18, 2026 at 3:27 AM UTC", 11 * HOUR - 15),
        ("Try again after Wed, 18 Feb 2026 03:27:15 GMT", 11 * HOUR),
        ("resets at 1771354035", 8400.0),
        ("the model is paused until 2026-02-17 18:27:15 UTC", 2 * HOUR),
        ("Your quota resets at 3:00 PM (UTC)", 22.5 * HOUR + 165),
        ("resets at midnight UTC", 7.5 * HOUR + 165),
        ("Wait 30 seconds and try again", 30.0),
        ('{"message": "Wait for 30s before retrying"}', 30.0),
        ("30 seconds until your next try", 30.0),
        ("Usage limit reached, come back in 2 hours", 2 * HOUR),
        ("All deployments are cooling down for 30 seconds", 30.0),
        ("Please retry again in 30 seconds", 30.0),
        ("Try again in PT1M30S", 90.0),
        ("try again in 1,200 seconds", 1200.0),
        ("Try again after 4:30 PM UTC", 165.0),
        ("You are blocked until 18:27 UTC", 2 * HOUR - 15),
        ("请等待 30 秒", 30.0),
        ("请在30秒后重新尝试", 30.0),
    ],
)
def test_a_time_in_a_sentence_is_read(sentence: str, seconds: float) -> None:
    assert in_sentence(f"Rate limit: 20 requests per 1 minute. {sentence}", NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "sentence",
    [
        "Rate limit: 20 requests per 1 minute, retry later",
        "3 requests allowed in 1 minute",
        "You have exceeded the 5-hour usage quota",
        "try again in 2 steps",
        "retry after 3 attempts",
        "max_retries 3 after 5 seconds",
        "The operation was retried after 30s and failed",
        "upstream failed again in 30 days window",
        "Request timed out after waiting 600 seconds",
        "max wait 30 seconds exceeded",
        "reset at 2026-02-10 00:00:00 UTC",  # past
        "reset at 2036-02-10 00:00:00 UTC",  # one of the clocks is wrong
        "reset at 2026-02-31 00:00:00 UTC",
        "your subscription is valid until 2026-03-01 00:00:00 UTC",
        "the model gpt-4-0613 is overloaded, try again later",
    ],
)
def test_limits_counts_and_what_is_past_are_no_time_to_wait(sentence: str) -> None:
    assert in_sentence(sentence, NOW) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("6m0s", 360.0),
        ("PT30S", 30.0),
        ('"30"', 30.0),
        ({"seconds": {"seconds": 5}}, None),
        ("20ms", 0.02),
        ("12", 12.0),
        (12.5, 12.5),
        ("1771354035000", 8400.0),
        ("2026-02-17T18:27:15Z", 2 * HOUR),
        ({"seconds": "14", "nanos": 2}, 14.0),
        ("-3", 0.0),
        ("soon", None),
        ("nan", None),
        ("1e400", None),
        (10**400, None),
        (True, None),
        (None, None),
        ([14], None),
    ],
)
def test_a_field_means_a_duration_or_a_date(value: object, seconds: float | None) -> None:
    assert in_value(value, NOW) == seconds


def wait_of(body: Any, headers: dict[str, str], status: int = 429) -> float | None:
    sent = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    answer = HttpAnswer.of(status, b"", CIMultiDict({**sent, "Date": SENT}))
    return asked_wait(answer, body, json.dumps(body), 0.0).seconds  # this machine's clock is not set yet


GEMINI = {
    "error": {
        "code": 429,
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "14.2s"}],
    }
}


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        ({}, {"Retry_After": "7"}, 7.0),
        ({}, {"Retry_After": "Tue, 17 Feb 2026 16:27:45 GMT"}, 30.0),
        ({}, {"Retry_After": "20s"}, 20.0),
        ({}, {"Retry_After": "2", "retry_after_ms": "1500"}, 1.5),
        ({}, {"Retry_After": "1e12"}, LONGEST),
        ({}, {"Retry_After": "1771354035"}, 8400.0),  # seconds since the epoch
        ({}, {"Retry_After": "1771354035000"}, 8400.0),
        ({}, {"x_ms_retry_after_ms": "1500"}, 1.5),
        ({}, {"x_rate_limit_reset": "50"}, 50.0),
        ({}, {"RateLimit": "limit=100, remaining=0, reset=50"}, 50.0),
        ({}, {"RateLimit": '"day";r=0;t=50'}, 50.0),
        ({}, {"RateLimit": '"day";r=7;t=50'}, None),
        ({}, {"x_ratelimit_reset_requests": "6m0s", "x_ratelimit_remaining_requests": "0"}, 360.0),
        ({}, {"x_ratelimit_reset_tokens": "6m0s", "x_ratelimit_remaining_tokens": "100"}, None),
        ({}, {"x_ratelimit_reset": "1771354035"}, 8400.0),
        ({}, {"anthropic_ratelimit_requests_reset": "2026-02-17T16:28:15Z"}, 60.0),
        (GEMINI, {}, 14.2),
        ([GEMINI], {}, 14.2),
        ({"error": {"type": "usage_limit_reached", "resets_in_seconds": 12345}}, {}, 12345.0),
        ({"error": {"resets_at": 1771354035}}, {}, 8400.0),
        ({"error": {"metadata": {"headers": {"X-RateLimit-Reset": "1771354035000"}}}}, {}, 8400.0),
        ({"error": {"metadata": {"raw": "please try again in 12s"}}}, {}, 12.0),
        ({"message": "slow", "retry_after": 12.3}, {}, 12.3),
        ({"error": "the model is loading", "estimated_time": 20.0}, {}, 20.0),
        ({"error": {"details": [{"metadata": {"quotaResetDelay": "54m22.5s"}}]}}, {}, 3262.5),
        ({"error": {"retry_at": "2026-02-17T18:27:15Z"}}, {}, 2 * HOUR),
        ({"message": "It will reset at 2026-02-18 03:27:15 +0800 CST"}, {"Retry_After": "2"}, 3 * HOUR),
        ({"message": "It will reset at 2026-12-18 03:27:15 +0800 CST"}, {}, LONGEST),
        ({"retry_after": {"retry_after": [{"retry_after": "no"}]}}, {}, None),
    ],
)
def test_headers_fields_and_words_are_read(body: Any, headers: dict[str, str], seconds: float | None) -> None:
    assert wait_of(body, headers) == seconds


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"seconds": value}
    return value


@pytest.mark.parametrize(
    ("date", "body"),
    [
        ("Fri, 31 Dec 9999 23:59:59 GMT", {"message": "It will reset at 10:00"}),
        (SENT, {"retry_after": nested(4000)}),
    ],
)
def test_a_hostile_refusal_is_read_all_the_same(date: str, body: Any) -> None:
    assert asked_wait(HttpAnswer(429, b"", date=date), body, body.get("message", ""), NOW).in_headers is None


def test_a_rate_limits_header_says_nothing_about_another_refusal() -> None:
    assert wait_of({}, {"x_ratelimit_reset": "30"}, 500) is None
