"""What settings are made of."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pibot.contracts import Scope

DEFAULT_PORT = 5000

VOLC_BASE_URL = "https://ark.cn-beijing.volces.com/api/coding/v3"
VOLC_MODEL = "doubao-seed-code"
OPENAI_BASE_URL = "https://api.openai.com/v1"

SHORTEST_KEY = 16
"""Characters that a worker's token and a further key must have; nobody has to type them."""

MAKE_ONE = "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"

_PLACEHOLDER = re.compile(
    r"""(?ix) \A (?:
        your[_\-\s].* | my[_\-]api[_\-]?key | <.*> | \[.*\] | \{.*\} | \$\{?\w+\}?
        | change[_\-]?me | (?:sk[_\-])? (?: x{3,} | \*{3,} | \.{3,} | …+ ) [\w\-]*
        | (?:insert|put|enter|replace|add|paste)[_\-].* | placeholder | todo | none | null | (?:api[_\-]?)?key | example
    ) \Z"""
)
GUESSED_FIRST = re.compile(
    r"""(?ix) \A (?:
        (?:change|replace)[\W_]*(?:me|this|it).*
        | (?:(?:pibot|api|the|my|secret|worker)[\W_]*)*(?:key|token|secret|pass(?:word)?)
        | pibot | admin | root | default | test | raspberry | qwerty | letmein | (?:0|1)?123456(?:7|78|789|7890)?
    ) \Z"""
)


class Secret:
    """A text that must not be seen: its ``repr`` and ``str`` hide it, :meth:`reveal` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))


@dataclass(frozen=True)
class LLMSettings:
    """Where the model is.

    Args:
        api_key: its key; None where none was given.
        base_url: the address that ``/chat/completions`` is appended to.
        model: the model's name; empty where none was given and none can be guessed.
        backend: ``aiohttp`` or ``openai``.
        timeout: seconds for one attempt of one call.
        retries: how many more attempts a call gets after a failure that may pass.
    """

    api_key: Secret | None = None
    base_url: str = field(default=VOLC_BASE_URL, repr=False)  # some servers want their key in it
    model: str = VOLC_MODEL
    backend: str = "aiohttp"
    timeout: float = 120.0
    retries: int = 4


@dataclass(frozen=True)
class Price:
    """What a model costs, in the owner's currency.

    Args:
        prompt, completion: a million tokens.
    """

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(frozen=True)
class GatewaySettings:
    """How far the master's gateway lets models be asked.

    Args:
        job_tokens, day_tokens: budgets of a job and of a day by UTC; None for none.
        calls: how many run at the provider at once; None for 8, and one more for each worker.
        fallback: the model that is asked where the first can't be; None for none.
        prices: by the model's name.
        currency: what the prices are in, for people.
    """

    job_tokens: int | None = None
    day_tokens: int | None = None
    calls: int | None = None
    fallback: LLMSettings | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    currency: str = ""


@dataclass(frozen=True)
class AccessKey:
    """A key beside the fleet's own.

    Args:
        name: whose it is.
        scope: what it is good for.
        secret: the key.
    """

    name: str
    scope: Scope
    secret: Secret


def is_placeholder(value: str) -> bool:
    """Whether that is what instructions say where a key has to go."""
    return _PLACEHOLDER.match(value) is not None


def is_loopback(host: str) -> bool:
    """Whether ``host``, an address or ``localhost``, can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
