"""Reads the model server's answers: a completion, or a failure with a sentence for the owner of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from pibot.contracts import Clock, Completion
from pibot.errors import (
    LLMAway,
    LLMProtocolError,
    LLMRejected,
    LLMTooLong,
    LLMUnavailable,
    LLMUnpaid,
    LLMUnreachable,
)
from pibot.llm_client import wire
from pibot.llm_client.backend import Cause, HttpAnswer, NoAnswer
from pibot.llm_client.configuration import Endpoint
from pibot.llm_client.retry import LONG_WAIT, Failure, parse_retry_after

if TYPE_CHECKING:
    from pibot.llm_client.shortage import Shortage

MAX_SENTENCE_CHARS = 800
"""Characters of a gateway's sentence that are repeated."""

_PASSING_4XX = frozenset({408, 409, 425, 429})

_PASSING_NAMES = ("overload", "ratelimit", "toomanyrequests", "throttl", "resourceexhausted")
"""Parts of codes and types, letters alone, that an overloaded server may send with any status."""

_USED_UP = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
"""Codes of a 429 of the gateway that waiting does not cure, named as OpenAI's."""

GATEWAY = "pibot_gateway"
"""The ``type`` of errors made by PiBot's own gateway. Their messages are sentences for the owner, shown unchanged."""

_GATEWAY_LASTING = frozenset({"no_provider", "provider_refuses"})
"""Codes of the gateway that waiting does not cure: the owner has to set something on the master."""

_GATEWAY_SLOW = frozenset({"share_used_up", "provider_timeout", "answer_too_large", "provider_redirects"})
"""Codes of the gateway with which the provider is there; the others of 429 and above mean that it is away for now."""

_UNKNOWN_KEY = frozenset({"no_db_connection"})
"""Types of errors that mean a wrong key whatever their status: LiteLLM's proxy without a database has nothing else to
say of a key that is not its own."""

_ERRORS_OF_CAUSE = {Cause.UNREACHABLE: LLMUnreachable, Cause.BROKE_OFF: LLMAway}

_LASTING_KINDS = ("invalid", "authentication", "permission", "not_found", "insufficient")
"""Prefixes of ``type`` and ``code`` of an error under HTTP 200 that a retry does not cure."""


def read_completion(endpoint: Endpoint, answer: HttpAnswer, wall_clock: Clock) -> Completion | Failure:
    """Return the completion in an answer, or why there is none."""
    try:
        data = answer.data
    except LLMProtocolError as problem:
        if answer.success:
            return _bad_completion(endpoint, answer, problem)
        data = None
    error = wire.find_error(data, success=answer.success)
    if error is not None or not answer.success:
        return _refusal(endpoint, answer, error, wall_clock)
    try:
        return wire.completion(data, model=endpoint.model)
    except LLMProtocolError as problem:
        return _bad_completion(endpoint, answer, problem)


def no_answer(endpoint: Endpoint, problem: NoAnswer) -> Failure:
    """Return the failure of a call that got no whole answer."""
    hint = f"check {endpoint.names.address} and the network"
    if problem.cause is Cause.TIMED_OUT:
        hint = "raise PIBOT_LLM_TIMEOUT if the model is that slow"
    kind = _ERRORS_OF_CAUSE.get(problem.cause, LLMUnavailable)
    return Failure(kind(f"the model's server at {endpoint.shown} {problem}; {hint}"), problem.may_pass)


def _bad_completion(endpoint: Endpoint, answer: HttpAnswer, problem: LLMProtocolError) -> Failure:
    """Return the failure of an HTTP success whose body is no chat completion."""
    quoted = endpoint.redactor.quote(answer.body.decode("utf-8", "replace"))
    kind = endpoint.redactor.quote(answer.content_type.partition(";")[0]) or "no Content-Type"
    message = (
        f"{endpoint.shown} answered {answer.status} with {problem} ({kind}): {quoted or 'nothing'}; check that "
        f"{endpoint.names.address} is the address that /chat/completions is appended to"
    )
    return Failure(LLMProtocolError(message), may_pass=isinstance(problem, wire.EmptyAnswer))


def _refusal(endpoint: Endpoint, answer: HttpAnswer, error: wire.ErrorObject | None, wall_clock: Clock) -> Failure:
    """Return the failure for an error status, or for an error object under HTTP 200."""
    status = _status(answer.status, error)
    if error is not None and error.kind == GATEWAY:
        return _gateways_refusal(endpoint, answer, error, wall_clock)
    too_long = _too_long(endpoint, status, answer, error)
    if too_long is not None:
        return Failure(too_long)
    from pibot.llm_client.asked_wait import asked_wait
    from pibot.llm_client.shortage import shortage

    said = _said(endpoint, answer, error)
    text = _text(answer, error)
    asked = asked_wait(answer, _json(answer), text, wall_clock())
    lacks = shortage(status, error, text, asked)
    if lacks is not None:
        advice = _advice_for_shortage(endpoint, lacks)
        message = f"the model's server at {endpoint.shown} refused ({status}){said}; {advice}"
        return Failure(LLMUnpaid(message, status=status))
    passes = _may_pass(status, error) or (status == 402 and asked.seconds is not None)
    if not passes:
        meant = 401 if error is not None and error.kind in _UNKNOWN_KEY else status
        advice = _advice(endpoint, meant, answer)
        message = f"the model's server at {endpoint.shown} refused ({status}){said}; {advice}"
        return Failure(LLMRejected(message, status=meant))
    final = answer.should_retry == "false"  # the openai library respects that header too
    later = "" if final or asked.seconds else "; try again later"
    # A rest is shown to people, who may have several models.
    model = f" for the model {endpoint.model!r}" if (asked.seconds or 0.0) > LONG_WAIT else ""
    message = f"the model's server at {endpoint.shown} answered {status}{model}{said}{later}"
    kind = LLMAway if _is_away(status, error) else LLMUnavailable
    return Failure(kind(message), may_pass=not final, retry_after=asked.seconds)


def _gateways_refusal(endpoint: Endpoint, answer: HttpAnswer, error: wire.ErrorObject, wall_clock: Clock) -> Failure:
    """Return the failure for an error of PiBot's own gateway."""
    sentence = endpoint.redactor.line(error.message, MAX_SENTENCE_CHARS)
    lasting = error.code in _GATEWAY_LASTING or error.code in _USED_UP
    if lasting or not _may_pass(answer.status, error):
        return Failure(LLMRejected(sentence, status=answer.status), by_gateway=True)
    kind = LLMUnavailable if error.code in _GATEWAY_SLOW else LLMAway
    retry_after = parse_retry_after(answer.retry_after, answer.date, wall_clock)
    return Failure(kind(sentence), may_pass=answer.should_retry != "false", retry_after=retry_after, by_gateway=True)


def _json(answer: HttpAnswer) -> Any:
    try:
        return answer.data
    except LLMProtocolError:
        return None


def _text(answer: HttpAnswer, error: wire.ErrorObject | None) -> str:
    """Return the words of a refusal: the error's own, then the body, where proxies quote another server's."""
    from pibot.llm_client.named_times import MAX_TEXT_CHARS

    body = answer.body[:MAX_TEXT_CHARS].decode("utf-8", "replace")
    return body if error is None else f"{error.message[:MAX_TEXT_CHARS]}\n{body}"


def _too_long(endpoint: Endpoint, status: int, answer: HttpAnswer, error: wire.ErrorObject | None) -> LLMTooLong | None:
    """Return the failure if the server refuses the prompt for its length."""
    from pibot.llm_client.overflow import read_overflow  # only where it is needed: its patterns take memory

    message = answer.body.decode("utf-8", "replace") if error is None else error.message
    overflow = read_overflow(status, message, *(() if error is None else (error.code, error.kind)))
    if overflow is None:
        return None
    sentence = f"the model's server at {endpoint.shown} refused ({status}){_said(endpoint, answer, error)}; "
    return LLMTooLong(
        f"{sentence}the conversation is too large for the model: give it less in one job, or take a model with a "
        "larger window",
        status=status,
        window=overflow.window or answer.window,
        sent=overflow.sent,
    )


def _status(status: int, error: wire.ErrorObject | None) -> int:
    """Return the HTTP status, or the code of an error under HTTP 200: proxies send the upstream status there."""
    if 200 <= status < 300 and error is not None and error.code.isascii() and error.code.isdigit():
        code = int(error.code[:4])
        return code if 400 <= code < 600 else status
    return status


def _may_pass(status: int, error: wire.ErrorObject | None) -> bool:
    """Whether another attempt may succeed after this error."""
    if _has_too_much_to_do(error) and status not in (401, 404, 413):
        return True
    if status < 300:
        names = () if error is None else (error.code.lower(), error.kind.lower())
        return not any(name.startswith(_LASTING_KINDS) for name in names)
    return status >= 500 or status in _PASSING_4XX


def _is_away(status: int, error: wire.ErrorObject | None) -> bool:
    """Whether the provider itself is away or overloaded, after a failure that may pass."""
    return status in (402, 408, 425, 429) or status >= 500 or _has_too_much_to_do(error)


def _has_too_much_to_do(error: wire.ErrorObject | None) -> bool:
    if error is None:
        return False
    names = "".join(filter(str.isalpha, f"{error.code} {error.kind}")).lower()
    return any(part in names for part in _PASSING_NAMES)


def _said(endpoint: Endpoint, answer: HttpAnswer, error: wire.ErrorObject | None) -> str:
    quoted = endpoint.redactor.quote(answer.body.decode("utf-8", "replace") if error is None else error.message)
    return f": {quoted}" if quoted else ""


def _advice(endpoint: Endpoint, status: int, answer: HttpAnswer) -> str:
    names = endpoint.names
    key, address = f"{names.key} in .env or the environment", names.address
    if 300 <= status < 400:
        place = _shown_location(endpoint, answer.location)
        return f"it redirects to {place}, and the key is not sent there: set {address} to the right address"
    if status == 401:
        return f"check the key in {key}"
    if status == 403:
        return f"check that the key in {key} may use the model {endpoint.model!r}"
    if status == 407:
        return "that is the proxy: put its user and password into PIBOT_LLM_PROXY, like http://user:password@host:3128"
    if status == 404:
        return f"check {names.model} ({endpoint.model!r}) and {address}"
    if status == 413:
        return "the conversation is too large for the model: give it less in one job"
    return (
        f"check that the model in {names.model} ({endpoint.model!r}) accepts what was sent (such as tools, or this "
        "length)"
    )


# docs/decisions.md, D131
def _advice_for_shortage(endpoint: Endpoint, lacks: Shortage) -> str:
    from pibot.llm_client.shortage import Shortage

    other = "use another key or model"
    if not endpoint.names.fallback:
        other += ", or name a second model on the master (PIBOT_FALLBACK_MODEL)"
    if lacks is Shortage.DAY:
        return (
            f"the quota of the day for the model {endpoint.model!r} is used up: run the job again after the provider's "
            f"reset, raise the quota of the account there, or {other}"
        )
    return (
        f"the account of the key in {endpoint.names.key} has no balance or has used up its quota: pay or "
        f"raise the limit at the provider, then run the job again; or {other}"
    )


def _shown_location(endpoint: Endpoint, location: str | None) -> str:
    """Return where a redirect leads, without its query and user, which may hold the key."""
    try:
        parts = urlsplit(location or "")
        place = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        place = ""
    return endpoint.redactor.quote(place) or "nowhere"
