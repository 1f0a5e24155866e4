"""Failures of the gateway, each with the HTTP answer that a caller gets for it."""

from __future__ import annotations

import math

from pibot.contracts import JsonObject
from pibot.errors import LLMAway, LLMError
from pibot.llm_client.backend import Cause, NoAnswer
from pibot.llm_client.configuration import Endpoint
from pibot.llm_client.failures import GATEWAY

RETRY_AFTER = 2
"""Seconds after which a call is worth sending again if all slots are taken, or the hub is stopping."""

# docs/decisions.md, D62
NO_RETRY = {"x-should-retry": "false"}
"""Respected by the openai library and by PiBot's own clients: the gateway has already retried the call."""


UNREACHABLE = "provider_unreachable"
"""The code of a call for which no connection to the provider could be made."""


class GatewayError(LLMError):
    """A model call could not be passed on.

    A worker gets it as an HTTP answer in the form that OpenAI's clients read; the hub's own planner gets it raised.

    Args:
        status: the HTTP status.
        code: a name for programs.
        message: a sentence for the owner.
        retry_after: seconds after which the caller should send the call again by itself; None if it should not.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """The headers that tell the caller whether to retry."""
        return NO_RETRY if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def to_json(self) -> JsonObject:
        kind = "invalid_request_error" if self.status < 429 else GATEWAY
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


class ProviderAway(GatewayError, LLMAway):
    """A model call could not be passed on now; the provider, or the master, may answer later."""


class ModelRests(ProviderAway):
    """No model may be asked for now: each one's provider asked to be left alone.

    Args:
        message: a sentence for the owner.
        seconds: after which the first of them may be asked again.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(429, "model_rests", message, retry_after=math.ceil(seconds))
        self.rest = seconds

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, **NO_RETRY}


def no_provider(problem: str) -> GatewayError:
    """Return the failure for a hub without a usable model.

    Args:
        problem: what is wrong with the model's settings, as a sentence.
    """
    return GatewayError(503, "no_provider", f"on the master {problem}")


def unknown_model(message: str) -> GatewayError:
    """Return the failure for a call of a model that the owner has not named, with OpenAI's status and code for it."""
    return GatewayError(404, "model_not_found", message)


def busy() -> GatewayError:
    """Return the failure for a call that found no free slot."""
    return ProviderAway(
        429,
        "gateway_busy",
        "the master already passes on as many model calls as PIBOT_GATEWAY_CALLS allows; try again shortly",
        retry_after=RETRY_AFTER,
    )


def share_used_up() -> GatewayError:
    """Return the failure for a call whose caller already has as many in the gateway as it may."""
    return GatewayError(
        429,
        "share_used_up",
        "the master has as many model calls as it takes at once, or as it takes with this key; try again shortly",
        retry_after=RETRY_AFTER,
    )


def provider_refuses(problem: object) -> GatewayError:
    """Return the failure for a worker's call that the provider refuses for what the master is set to.

    Args:
        problem: the provider's refusal, redacted, as a sentence that says what to set.
    """
    return GatewayError(502, "provider_refuses", f"{problem}, on the master")


def hung_up() -> GatewayError:
    """Return the failure for a call whose client has hung up; nobody reads it. 499 is nginx's status for it."""
    return GatewayError(499, "client_hung_up", "the client hung up before the model answered")


def stopping() -> GatewayError:
    """Return the failure for a call that arrives while the hub stops."""
    return ProviderAway(503, "stopping", "the master is stopping; send it again later", retry_after=RETRY_AFTER)


def budget_used_up(message: str) -> GatewayError:
    """Return the failure for a call beyond a budget. OpenAI's clients know the code, and do not retry it."""
    return GatewayError(429, "insufficient_quota", message)


def store_failed(problem: object) -> GatewayError:
    """Return the failure for a call whose budget could not be read."""
    return ProviderAway(503, "store", f"the master can't read its job database now: {problem}", retry_after=RETRY_AFTER)


_OF_CAUSE = {
    Cause.UNREACHABLE: (502, UNREACHABLE, "; check {setting} on the master and its network"),
    Cause.TIMED_OUT: (504, "provider_timeout", "; try again, or raise PIBOT_LLM_TIMEOUT on the master"),
    Cause.BROKE_OFF: (502, "provider_connection_broke", "; try again"),
    Cause.TOO_LARGE: (502, "answer_too_large", "; ask for less in one job"),
    Cause.REDIRECTED: (502, "provider_redirects", "; set {setting} on the master to the address that it names"),
}


def unanswered(endpoint: Endpoint, setting: str, problem: NoAnswer) -> GatewayError:
    """Return the failure for a call that got no whole answer from the provider.

    Args:
        endpoint: where the provider is.
        setting: the variable that holds its address.
        problem: what happened.
    """
    status, code, advice = _OF_CAUSE[problem.cause]
    sentence = f"the model's server at {endpoint.shown} {problem}{advice.format(setting=setting)}"
    away = problem.cause in (Cause.UNREACHABLE, Cause.BROKE_OFF)
    return (ProviderAway if away else GatewayError)(status, code, sentence)
