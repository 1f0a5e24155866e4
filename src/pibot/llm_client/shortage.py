"""Tell a refusal for want of money or of a day's quota from one that passes by itself.

Imported on the first refusal, as :mod:`pibot.llm_client.asked_wait` is.
"""

from __future__ import annotations

import enum
import re

from pibot.llm_client.asked_wait import AskedWait
from pibot.llm_client.retry import LONG_WAIT
from pibot.llm_client.wire import ErrorObject


class Shortage(enum.Enum):
    """What is used up, so that a retry would not help."""

    MONEY = "money"
    DAY = "day"


_NAMES = frozenset(
    {
        "insufficientquota",
        "billinghardlimitreached",
        "billingnotactive",
        "insufficientbalance",
        "budgetexceeded",
        "insufficientcredits",
        "insufficientfunds",
        "insufficientuserquota",
        "exceededcurrentquotaerror",
        "paymentrequired",
        "arrearage",
        "accountoverdueerror",
        "accountoverdue",
        "setlimitexceeded",
        "balancenotenough",
        "nobalance",
        "outofcredits",
        "creditsexhausted",
        "quotanotenough",
        "preconsumetokenquotafailed",
        "balanceinsufficient",
        "billingerror",
        "prepaidbilloverdue",
        "postpaidbilloverdue",
        "freetieronly",
        "allocationquotafreetieronly",
    }
)
"""Codes and types of OpenAI, DeepSeek, Moonshot, Ark, DashScope, one-api and others, letters alone."""

_NUMBERS = frozenset({"1113"})
"""Zhipu's code of an account without a balance."""

_MONEY = re.compile(
    r"insufficient[\s_](?:account\s|user\s)?(?:balance|credits?|funds|quota)|credit balance is too low"
    r"|(?:no|not enough|insufficient|zero|out of|run out of|ran out of)\s(?:\w+\s){0,2}(?:balance|credits?|funds)\b"
    r"|(?:balance|credits?|funds)\s(?:is|are|has been|have been)?\s?(?:too low|exhausted|used up|depleted|insufficient"
    r"|not enough|negative|empty|zero)"
    r"|in arrears|arrearage|overdue (?:balance|bill|payment|account)|account is overdue|unpaid (?:bill|invoice|balance)"
    r"|payment (?:is )?required|add a payment method|billing (?:hard )?limit|billing (?:is )?not (?:active|enabled)"
    r"|spend(?:ing)? (?:limit|cap)|safe experience mode|reached the set inference limit|\blimit:\s?0\b(?![.\d])"
    r"|(?:please|to) (?:recharge|top[ -]up)|free (?:trial|quota|credits?) (?:\w+ ){0,3}"
    r"(?:exhausted|used up|expired|ended)"
    r"|free tier[^.]{0,60}exhausted|quota (?:is |has been |was )?(?:all )?(?:used up|exhausted|depleted|not enough)"
    r"|out of quota|exhausted (?:its|your|the|all) (?:\w+ ){0,2}(?:quota|credits?|balance)|n[o']t have any credits"
    r"|budget has been exceeded|key limit exceeded|limits? for this (?:billing period|month|week)"
    r"|used up (?:your|its|the|all) (?:\w+ ){0,2}quota|no quota left|(?:weekly|monthly) (?:\w+ ){0,2}(?:limit|quota)"
    r"|欠费|余额不足|余额为零|额度不足|额度已用[尽完]|请充值|账户余额|资源包不足",
    re.IGNORECASE,
)

_MONEY_OR_REQUEST = re.compile(
    r"credit balance is too low|reached your specified (?:api )?usage limits"
    r"|account[^.]{0,60}(?:overdue|arrears)|insufficient (?:account )?balance|欠费|余额不足",
    re.IGNORECASE,
)
"""In a 400, whose text may repeat what was sent, only what no request says by chance."""

_PLAN = re.compile(r"check your plan and billing|exceeded your (?:current|monthly) quota", re.I)

_DAY = re.compile(
    r"\b(?:per|each|a|/)[\s_-]?day\b|per[-_]day|\bdaily\b|\b[RT]PD\b|today'?s (?:\w+ )?(?:quota|limit)|(?:of|for)"
    r" (?:the day|today)|try again tomorrow|24[- ]hour (?:limit|quota)"
    r"|每日|每天|当日|今日|日限额|当天",
    re.IGNORECASE,
)

_SHORTER = re.compile(r"(?:per|each|a|/)[\s_-]?(?:\d+\s)?(?:min|sec|hour)|\b[RT]P[MS]\b|每分钟|每秒", re.IGNORECASE)
"""A text that names shorter limits too does not say which one is used up."""

_DAY_IDS = re.compile(r"\"quota_?id\"\s?:\s?\"[^\"]{0,200}per_?day", re.IGNORECASE)
"""Gemini's name of a day's quota; the delay beside it belongs to another one and is too short."""


def shortage(status: int, error: ErrorObject | None, text: str, asked: AskedWait) -> Shortage | None:
    """Return what is used up, where neither a retry nor a short wait cures the refusal; else None.

    A refusal that names a time beyond :data:`LONG_WAIT` passes then, whatever is used up.

    Args:
        status: the HTTP status, or the one under an HTTP 200.
        error: the error object.
        text: the body, or its words.
        asked: when the server wants to be asked again.
    """
    if (asked.seconds or 0) > LONG_WAIT and not _is_named(error):
        return None
    if (asked.in_body or 0) > LONG_WAIT:
        return None
    if _is_named(error) or status == 402:
        return Shortage.MONEY
    if status == 400:
        return Shortage.MONEY if _MONEY_OR_REQUEST.search(text) else None
    if status not in (200, 403, 429):
        return None
    if _MONEY.search(text):
        return Shortage.MONEY
    if _DAY_IDS.search(text):
        return Shortage.DAY
    if status == 403 or asked.in_body is not None:
        return None
    if _DAY.search(text) and not _SHORTER.search(text):
        return Shortage.DAY
    return Shortage.MONEY if _PLAN.search(text) else None


def _is_named(error: ErrorObject | None) -> bool:
    if error is None:
        return False
    names = (re.sub("[^a-z]", "", name.lower()) for name in (error.code, error.kind))
    return error.code in _NUMBERS or not _NAMES.isdisjoint(names)
