"""Read from sentences how long, or until when, a server wants to be left alone.

Only times that follow a word such as *retry* or *reset* count: refusals also name limits ("20 requests per 1 minute"),
counts and durations of what went wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from math import isfinite

MAX_TEXT_CHARS = 4000
"""Characters of a refusal that are searched."""

MAX_AHEAD = 400 * 86400.0
"""A date further ahead is no time to wait for; the clock of one side is wrong, or it is the date of something else."""

_UNITS = (
    (r"ms|msecs?|milliseconds?|毫秒", 0.001),
    (r"s|secs?|seconds?|秒钟?", 1.0),
    (r"mo|months?|个?月", 30 * 86400.0),
    (r"m|mins?|minutes?|分钟?", 60.0),
    (r"h|hrs?|hours?|个?小时", 3600.0),
    (r"d|days?|天", 86400.0),
    (r"w|weeks?|周", 7 * 86400.0),
)

_UNIT = "|".join(names for names, _ in _UNITS)
_AMOUNT = rf"\d{{1,9}}(?:\.\d{{1,9}})?\s?(?:{_UNIT})(?![A-Za-z])"
_ONE = r"(?:an?|one)\s(?:second|minute|hour|day|week)\b"
_CLOCK = r"\d{1,3}:[0-5]\d:[0-5]\d(?:\.\d+)?"
_DURATION = rf"(?:(?:P?T)?{_AMOUNT}(?:(?:\s?,)?\s?(?:and\s)?{_AMOUNT}){{0,3}}|{_ONE}|{_CLOCK})"

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(?P<name>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_TIME = r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.\d+)?)?(?:\s?(?P<half>[ap])\.?m\b\.?)?"
_ZONE = (
    r"(?:\s?\(?(?P<zone>z\b|utc(?:[+-]\d{1,2})?\b|gmt(?:[+-]\d{1,2})?\b|[+-]\d\d:?\d\d\b|[+-]\d\d\b|p[sd]?t\b|pacific|"
    r"e[sd]t\b|eastern|jst\b|cet\b|cest\b|beijing))?"
)
_DATES = (
    rf"(?P<year>20\d\d)[-/.年](?P<month>\d{{1,2}})[-/.月](?P<day>\d{{1,2}})日?(?:t|\s?,?\s?(?:at\s)?)(?:{_TIME})?{_ZONE}",
    rf"(?:[a-z]{{3,9}},\s)?(?P<day>\d{{1,2}})[\s-]{_MONTH}[\s-](?P<year>20\d\d)(?:,?\s(?:at\s)?{_TIME})?{_ZONE}",
    rf"(?:[a-z]{{3,9}},\s)?{_MONTH}\s(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s(?P<year>20\d\d)(?:,?\s(?:at\s)?{_TIME})?{_ZONE}",
    r"(?P<epoch>[12]\d{9})(?P<thousandths>\d{3})?(?![\d-])(?:\.\d+)?",
    rf"(?:(?<=at\s)|(?<=until\s)){_TIME}{_ZONE}",
    rf"(?P<hour>\d{{1,2}})(?::(?P<minute>\d\d))?\s?(?P<half>[ap])\.?m\b\.?{_ZONE}",
    rf"(?P<midnight>midnight){_ZONE}",
)

_RETRY = (
    r"(?:re-?try(?:[-_ ]?(?:after|delay))?(?:\s(?:the|your|this)\s\w+|\sagain)?"
    r"|(?:try|ask|asked|send|call|available|allowed)(?:\s\w+){0,4}\sagain"
    r"|(?:next|another)\s(?:request|call|attempt)(?:\s\w+){0,3}"
    r"|(?:please|must|should|have to|need to)(?:\s\w+)?\swait|(?:^|(?<=[.,;:!]\s)|(?<=[\"'(]))wait"
    r"|(?:paused|blocked|banned|limited|suspended|unavailable)\suntil"
    r"|back ?off|come back|cool(?:ing)?[- ]?down(?:\s(?:period|time))?|available|resumes?|lifted)"
)
_RESET = r"(?:re-?sets?(?:ting)?|refresh(?:es|ed)?|renew(?:s|ed)?|replenish(?:es|ed)?|recovers?|restored)"
_ABOUT = r"(?:about|around|approximately|approx\.?|at least|another|roughly|~)?\s?"
_LINK = r"[\"']?\s?(?:[_-]?(?:time|at|on|in|after|for|by)\b|is\b|will be\b|=|:|\s|\"|')*"

_AFTERWARDS = (
    r"(?:\s?(?:之后|以后|后))\s?(?:再次?|重新|自动|请|即可)?\s?(?:重?试|尝试|请求|重置|恢复|刷新|调用|发起|使用)"
)
_THEN = r"\s?(?:之后|以后|后)?\s?(?:再次?|重新|自动|请|将)?\s?(?:重?试|重置|恢复|刷新|解除)"


def _compiled(lead: str, *, chinese: bool) -> tuple[Sequence[re.Pattern[str]], Sequence[re.Pattern[str]]]:
    lasting = [rf"(?<![\w-]){lead}{_LINK}{_ABOUT}(?P<lasting>{_DURATION})"]
    at = [rf"(?<![\w-]){lead}{_LINK}(?:the\s)?{date}" for date in _DATES]
    if chinese:
        lasting.append(rf"(?P<lasting>{_DURATION})\s(?:before|until)\s(?:\w+\s){{0,2}}(?:re-?try|try|next)")
        lasting.append(rf"(?:等待|稍等|稍候)\s?(?P<lasting>{_DURATION})")
        lasting.append(rf"(?P<lasting>{_DURATION}){_AFTERWARDS}")
        at += [rf"{date}{_THEN}" for date in _DATES[:1]]
    return [re.compile(p, re.IGNORECASE) for p in lasting], [re.compile(p, re.IGNORECASE) for p in at]


_PATTERNS = (_compiled(_RETRY, chinese=True), _compiled(_RESET, chinese=False))
_BARE_SECONDS = re.compile(
    r"retry[-_ ]after[\"']?\s?[=:]?\s?(?P<bare>\d{1,9}(?:\.\d{1,9})?)(?=\s?(?:$|[.,;)\"'}\]]))", re.IGNORECASE
)
_NAMED_UNITS = "|".join(f"(?P<u{number}>{names})" for number, (names, _) in enumerate(_UNITS))
_PARTS = re.compile(rf"(\d+(?:\.\d+)?)\s?(?:{_NAMED_UNITS})(?![A-Za-z])", re.IGNORECASE)
_WHOLE = re.compile(rf"\s*{_DURATION}\s*\Z", re.IGNORECASE)
_WHOLE_DATES = [re.compile(rf"\s*{date}(?:\s[A-Z]{{2,5}})?\s*\Z", re.IGNORECASE) for date in _DATES[:4]]
_ONES = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 7 * 86400.0}

_HOURS_EAST = {"z": (0,), "utc": (0,), "gmt": (0,), "est": (-5,), "edt": (-4,), "et": (-5, -4), "eastern": (-5, -4)}
_HOURS_EAST.update({"pst": (-8,), "pdt": (-7,), "pt": (-8, -7), "pacific": (-8, -7), "jst": (9,), "cet": (1,)})
_HOURS_EAST.update({"cest": (2,), "beijing": (8,)})

# docs/decisions.md, D130
_UNNAMED_ZONE = (0, 8)
"""Hours east of Greenwich that a date without a zone may mean: UTC, or China's time, as several providers write it."""


def in_sentence(text: str, now: float) -> float | None:
    """Return the seconds until a refusal's text asks to be asked again; None if it names no time.

    What it says about retrying counts before what it says about a reset; of several times, the longest counts.

    Args:
        text: the refusal.
        now: seconds since the epoch, by the server's clock if possible.
    """
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", " ".join(text[:MAX_TEXT_CHARS].split()))
    for lasting, at in _PATTERNS:
        found = [_lasting(match["lasting"]) for pattern in lasting for match in pattern.finditer(text)]
        found += [ahead for pattern in at for match in pattern.finditer(text) for ahead in _ahead(match, now)]
        if found:
            return max(found)
    bare = _BARE_SECONDS.search(text)
    return float(bare["bare"]) if bare else None


def in_value(value: object, now: float, *, unit: float = 1.0) -> float | None:
    """Return the seconds that a field or a header means: a number, a duration such as ``6m0s``, or a date.

    Args:
        value: as it was sent.
        now: seconds since the epoch.
        unit: seconds that a number without a unit counts.
    """
    if isinstance(value, dict):  # a protobuf Duration, as JSON without its own form
        value = value.get("seconds")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    text = str(value).strip(" \t\"'")[:64]
    try:
        number = float(text)
    except (ValueError, OverflowError):
        if _WHOLE.match(text):
            return _lasting(text)
        matches = (pattern.match(text) for pattern in _WHOLE_DATES)
        return next((ahead for match in matches if match for ahead in _ahead(match, now)), None)
    if not isfinite(number):
        return None
    if number >= 1e9:  # no duration, but a date: seconds since the epoch, or thousandths
        ahead = (number / 1000 if number >= 1e12 else number) - now
        return ahead if 0 < ahead < MAX_AHEAD else None
    return max(0.0, number * unit)


def _lasting(text: str) -> float:
    """Return the seconds of a duration."""
    if ":" in text:
        hours, minutes, rest = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(rest)
    total = 0.0
    for part in _PARTS.finditer(text):
        for number, (_, seconds) in enumerate(_UNITS):
            if part[f"u{number}"]:
                total += float(part[1]) * seconds
    return total or _ONES.get(text.split()[-1].lower(), 0.0)


def _ahead(match: re.Match[str], now: float) -> Iterator[float]:
    """Yield the seconds until the date in ``match``: of the zones that it may mean, the first that lies ahead."""
    moments = list(_moments(match.groupdict(), now))
    ahead = [moment - now for moment in moments if 0 < moment - now < MAX_AHEAD]
    if ahead:
        yield min(ahead)


def _moments(parts: dict[str, str | None], now: float) -> Iterator[float]:
    """Yield each time, in seconds since the epoch, that the parts of a date may mean."""
    epoch = parts.get("epoch")
    if epoch:
        yield float(epoch)
        return
    for east in _zones(parts.get("zone")):
        zone = timezone(timedelta(hours=east))
        hour = int(parts.get("hour") or 0)
        half = parts.get("half")
        if half:
            hour = hour % 12 + (12 if half.lower() == "p" else 0)
        try:
            today = datetime.fromtimestamp(now, zone)
            moment = datetime(
                int(parts.get("year") or today.year),
                _month(parts) or today.month,
                int(parts.get("day") or today.day),
                hour,
                int(parts.get("minute") or 0),
                int(parts.get("second") or 0),
                tzinfo=zone,
            ).timestamp()
        except (ValueError, OverflowError, OSError):  # no such day, or a clock beyond what has a date
            continue
        yield moment if parts.get("year") or moment > now else moment + 86400.0


def _month(parts: dict[str, str | None]) -> int | None:
    name, number = parts.get("name"), parts.get("month")
    if name:
        return _MONTHS.index(name.lower()) + 1
    return int(number) if number else None


def _zones(name: str | None) -> Sequence[float]:
    """Return the hours east of Greenwich that a zone's name may mean."""
    if not name:
        return _UNNAMED_ZONE
    name = name.lower()
    if name in _HOURS_EAST:
        return _HOURS_EAST[name]
    offset = re.search(r"([+-])(\d\d?):?(\d\d)?$", name)
    if offset is None:
        return _UNNAMED_ZONE
    hours = int(offset[2]) + int(offset[3] or 0) / 60
    return (-hours if offset[1] == "-" else hours,) if hours < 24 else _UNNAMED_ZONE
