"""Find out when a server that refused wants to be asked again, wherever its answer says so.

Imported on the first refusal: its patterns take time and memory that a worker rarely needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pibot.llm_client import named_times
from pibot.llm_client.backend import HttpAnswer
from pibot.llm_client.retry import parse_retry_after, timestamp

LONGEST = 86400.0
"""Seconds of a wait that are believed. A quota of a week costs one refused request a day; a number that is wrong must
not rest a model for ever."""

_ONE_HEADER = re.compile(r"\b(?:reset|t)\s?=\s?(\d{1,9})\b")
_NOTHING_LEFT = re.compile(r"\b(?:remaining|r)\s?=\s?0\b")
"""The drafts of draft-ietf-httpapi-ratelimit-headers: ``limit=9, remaining=0, reset=50``, later ``"day";r=0;t=50``."""

MAX_FIELDS = 500
"""Values of a refusal's JSON that are looked at."""

_LASTING = frozenset({"retryafter", "retryafterseconds", "retryaftersec", "retrydelay", "retryin", "retryinseconds"})
_LASTING_RESETS = frozenset({"resetsinseconds", "resetinseconds", "resetsin", "resetin", "resetafter"})
_LASTING_OTHERS = frozenset({"quotaresetdelay", "estimatedtime", "waitseconds", "cooldown", "cooldownseconds"})
"""Google's quotas, a model that Hugging Face loads, and proxies."""
_THOUSANDTHS = frozenset({"retryafterms", "retryaftermilliseconds", "resetinms", "resetsinms"})
_MOMENTS = frozenset({"resetat", "resetsat", "resettime", "resetstime", "ratelimitreset", "xratelimitreset"})
_MOMENTS_OTHERS = frozenset({"quotaresettimestamp", "retryat", "nextretryat", "availableat"})


@dataclass(frozen=True)
class AskedWait:
    """When a server wants to be asked again.

    Args:
        in_headers: seconds that its headers ask for; None where they name no time.
        in_body: the same of its body.
    """

    in_headers: float | None
    in_body: float | None

    @property
    def seconds(self) -> float | None:
        """The longest of both, up to :data:`LONGEST`; None where it names no time."""
        named = [seconds for seconds in (self.in_headers, self.in_body) if seconds is not None]
        return min(max(named), LONGEST) if named else None


def asked_wait(answer: HttpAnswer, data: Any, text: str, now: float) -> AskedWait:
    """Read when a server wants to be asked again.

    Args:
        answer: its refusal.
        data: the JSON in its body; None where there is none.
        text: its words.
        now: seconds since the epoch by this machine's clock. The answer's own date counts before: a Pi's clock may be
            years off.
    """
    sent = timestamp(answer.date)
    now = now if sent is None else sent
    in_fields = list(_of_fields(data, now))
    in_body = max(in_fields) if in_fields else named_times.in_sentence(text, now)
    return AskedWait(_of_headers(answer, now), in_body)


def _of_headers(answer: HttpAnswer, now: float) -> float | None:
    limits = answer.limits
    thousandths = limits.get("retry-after-ms", limits.get("x-ms-retry-after-ms"))
    if thousandths is not None:
        seconds = named_times.in_value(thousandths, now, unit=0.001)
        if seconds is not None:
            return seconds
    asked = parse_retry_after(answer.retry_after, answer.date, lambda: now)
    if answer.retry_after is not None and (asked is None or asked >= 1e9):  # no seconds, or those of a date
        at = named_times.in_value(answer.retry_after, now)
        asked = asked if at is None else at
    if asked is not None or answer.status != 429:
        return asked
    return _of_used_up_limits(limits, now)


def _of_used_up_limits(limits: Mapping[str, str], now: float) -> float | None:
    """Return the seconds until the last limit is reset of which nothing remains.

    A reset says when a limit is full again. It says nothing about the next request while something remains.
    """
    found = []
    for name, value in limits.items():
        one = _ONE_HEADER.search(value) if name.endswith("ratelimit") else None
        if one is not None and _NOTHING_LEFT.search(value):
            found.append(float(one[1]))
        if "reset" not in name:
            continue
        remaining = limits.get(name.replace("reset", "remaining"))
        seconds = named_times.in_value(value, now)
        if seconds is not None and (remaining is None or remaining.strip() in ("0", "0.0")):
            found.append(seconds)
    return max(found) if found else None


def _of_fields(data: Any, now: float) -> Iterator[float]:
    """Yield the seconds of each field that names a time to wait."""
    for name, value in _fields(data):
        plain = name.lower().replace("-", "").replace("_", "")
        unit = 0.001 if plain in _THOUSANDTHS else 1.0
        lasting = any(plain in names for names in (_LASTING, _LASTING_RESETS, _LASTING_OTHERS, _THOUSANDTHS))
        if not lasting and plain not in _MOMENTS and plain not in _MOMENTS_OTHERS:
            continue
        seconds = named_times.in_value(value, now, unit=unit)
        if seconds is not None and (lasting or seconds > 0):
            yield seconds


def _fields(data: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields of all objects in ``data``, the outer ones first."""
    level, seen = [data], 0
    while level:
        inner: list[Any] = []
        for value in level:
            seen += 1
            if seen > MAX_FIELDS:
                return
            if isinstance(value, dict):
                yield from value.items()
                inner += value.values()
            elif isinstance(value, list):
                inner += value
        level = inner
