"""Reads the model server's answers: a completion, or a failure with a sentence for the owner of the machine."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from pibot.contracts import Clock, Completion
from pibot.errors import LLMAway, LLMProtocolError, LLMRejected, LLMTooLong, LLMUnavailable, LLMUnreachable
from pibot.llm_client import wire
from pibot.llm_client.backend import Cause, HttpAnswer, NoAnswer
from pibot.llm_client.configuration import Endpoint
from pibot.llm_client.overflow import read_overflow
from pibot.llm_client.retry import Failure, parse_retry_after

MAX_SENTENCE_CHARS = 800
"""Characters of a gateway's sentence that are repeated."""

_PASSING_4XX = frozenset({408, 409, 429})

_USED_UP = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
"""Codes of a 429 that waiting does not cure (OpenAI, *Error codes*)."""

GATEWAY = "pibot_gateway"
"""The ``type`` of errors made by PiBot's own gateway. Their messages are sentences for the owner, shown unchanged."""

_GATEWAY_LASTING = frozenset({"no_provider", "provider_refuses"})
"""Codes of the gateway that waiting does not cure: the owner has to set something on the master."""

_GATEWAY_SLOW = frozenset({"share_used_up", "provider_timeout", "answer_too_large", "provider_redirects"})
"""Codes of the gateway with which the provider is there; the others of 429 and above mean that it is away for now."""

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
    hint = "check VOLC_BASE_URL (or OPENAI_BASE_URL) and the network"
    kind = _ERRORS_OF_CAUSE.get(problem.cause, LLMUnavailable)
    return Failure(kind(f"the model's server at {endpoint.shown} {problem}; {hint}"), problem.may_pass)


def _bad_completion(endpoint: Endpoint, answer: HttpAnswer, problem: LLMProtocolError) -> Failure:
    """Return the failure of an HTTP success whose body is no chat completion."""
    quoted = endpoint.redactor.quote(answer.body.decode("utf-8", "replace"))
    kind = endpoint.redactor.quote(answer.content_type.partition(";")[0]) or "no Content-Type"
    message = (
        f"{endpoint.shown} answered {answer.status} with {problem} ({kind}): {quoted or 'nothing'}; check that "
        "VOLC_BASE_URL (or OPENAI_BASE_URL) is the address that /chat/completions is appended to"
    )
    return Failure(LLMProtocolError(message), may_pass=isinstance(problem, wire.EmptyAnswer))


def _refusal(endpoint: Endpoint, answer: HttpAnswer, error: wire.ErrorObject | None, wall_clock: Clock) -> Failure:
    """Return the failure for an error status, or for an error object under HTTP 200."""
    status = _status(answer.status, error)
    retry_after = parse_retry_after(answer.retry_after, answer.date, wall_clock)
    said = _said(endpoint, answer, error)
    final = answer.should_retry == "false"  # the openai library respects that header too
    if error is not None and error.kind == GATEWAY:
        sentence = endpoint.redactor.line(error.message, MAX_SENTENCE_CHARS)
        if _may_pass(status, error) and error.code not in _GATEWAY_LASTING:
            kind = LLMUnavailable if error.code in _GATEWAY_SLOW else LLMAway
            return Failure(kind(sentence), may_pass=not final, retry_after=retry_after)
        return Failure(LLMRejected(sentence, status=status))
    too_long = _too_long(endpoint, status, answer, error)
    if too_long is not None:
        return Failure(too_long)
    if _may_pass(status, error) and final:
        return Failure(_away(status)(f"the model's server at {endpoint.shown} answered {status}{said}"))
    if _may_pass(status, error):
        message = f"the model's server at {endpoint.shown} answered {status}{said}; try again later"
        return Failure(_away(status)(message), may_pass=True, retry_after=retry_after)
    message = f"the model's server at {endpoint.shown} refused ({status}){said}; {_advice(endpoint, status, answer)}"
    return Failure(LLMRejected(message, status=status))


def _too_long(endpoint: Endpoint, status: int, answer: HttpAnswer, error: wire.ErrorObject | None) -> LLMTooLong | None:
    """Return the failure if the server refuses the prompt for its length."""
    message = answer.body.decode("utf-8", "replace") if error is None else error.message
    overflow = read_overflow(status, message, *(() if error is None else (error.code, error.kind)))
    if overflow is None:
        return None
    sentence = f"the model's server at {endpoint.shown} refused ({status}){_said(endpoint, answer, error)}; "
    return LLMTooLong(
        f"{sentence}the conversation is too large for the model: give it less in one job, or take a model with a "
        "larger window",
        status=status,
        window=overflow.window,
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
    if error is not None and _USED_UP.intersection((error.code, error.kind)):
        return False
    if status < 300:
        names = () if error is None else (error.code.lower(), error.kind.lower())
        return not any(name.startswith(_LASTING_KINDS) for name in names)
    return status >= 500 or status in _PASSING_4XX


def _away(status: int) -> type[LLMUnavailable]:
    """Return the kind of error for a status after which another attempt may succeed."""
    return LLMAway if status == 429 or status >= 500 else LLMUnavailable


def _said(endpoint: Endpoint, answer: HttpAnswer, error: wire.ErrorObject | None) -> str:
    quoted = endpoint.redactor.quote(answer.body.decode("utf-8", "replace") if error is None else error.message)
    return f": {quoted}" if quoted else ""


def _advice(endpoint: Endpoint, status: int, answer: HttpAnswer) -> str:
    key = "VOLC_API_KEY (or OPENAI_API_KEY) in .env or the environment"
    address = "VOLC_BASE_URL (or OPENAI_BASE_URL)"
    if 300 <= status < 400:
        place = _shown_location(endpoint, answer.location)
        return f"it redirects to {place}, and the key is not sent there: set {address} to the right address"
    if status == 401:
        return f"check the key in {key}"
    if status == 403:
        return f"check that the key in {key} may use the model {endpoint.model!r}"
    if status in (402, 429):
        return f"the account of the key in {key} has used up its quota: look there, or use another key"
    if status == 404:
        return f"check MODEL_NAME ({endpoint.model!r}) and {address}"
    if status == 413:
        return "the conversation is too large for the model: give it less in one job"
    return (
        f"check that the model in MODEL_NAME ({endpoint.model!r}) accepts what was sent (such as tools, or this length)"
    )


def _shown_location(endpoint: Endpoint, location: str | None) -> str:
    """Return where a redirect leads, without its query and user, which may hold the key."""
    try:
        parts = urlsplit(location or "")
        place = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        place = ""
    return endpoint.redactor.quote(place) or "nowhere"
