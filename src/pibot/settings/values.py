"""The types and constants of the settings."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pibot.contracts import Scope

DEFAULT_PORT = 5000

VOLC_BASE_URL = "https://ark.cn-beijing.volces.com/api/coding/v3"
VOLC_MODEL = "doubao-seed-code"
OPENAI_BASE_URL = "https://api.openai.com/v1"

SHORTEST_KEY = 16
"""Characters that a worker's token and a further key must have at least; nobody has to type them."""

MAKE_ONE = "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"

# What instructions write where a key has to go.
_PLACEHOLDER = re.compile(
    r"""(?ix) \A (?:
        your[_\-\s].* | my[_\-]api[_\-]?key | <.*> | \[.*\] | \{.*\} | \$\{?\w+\}?
        | change[_\-]?me | (?:sk[_\-])? (?: x{3,} | \*{3,} | \.{3,} | …+ ) [\w\-]*
        | (?:insert|put|enter|replace|add|paste)[_\-].* | placeholder | todo | none | null | (?:api[_\-]?)?key | example
    ) \Z"""
)
# What people type where they mean to set a key later. No key of that form is accepted.
GUESSED_FIRST = re.compile(
    r"""(?ix) \A (?:
        (?:change|replace)[\W_]*(?:me|this|it).*
        | (?:(?:pibot|api|the|my|secret|worker)[\W_]*)*(?:key|token|secret|pass(?:word)?)
        | pibot | admin | root | default | test | raspberry | qwerty | letmein | (?:0|1)?123456(?:7|78|789|7890)?
    ) \Z"""
)


MAX_WINDOW = 100_000_000
"""Tokens; a larger window in a setting is a typing error."""


class Secret:
    """A text that must not be seen: ``repr`` and ``str`` hide it, :meth:`reveal` returns it."""

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
class LLMNames:
    """The variables that a model's settings come from, for messages.

    Args:
        key, address, model: what to set for each.
        fallback: it is the second model.
    """

    key: str = "VOLC_API_KEY (or OPENAI_API_KEY)"
    address: str = "VOLC_BASE_URL (or OPENAI_BASE_URL)"
    model: str = "MODEL_NAME"
    fallback: bool = False


FALLBACK_NAMES = LLMNames("PIBOT_FALLBACK_API_KEY", "PIBOT_FALLBACK_BASE_URL", "PIBOT_FALLBACK_MODEL", True)


@dataclass(frozen=True)
class LLMSettings:
    """Where and how to call the model.

    Args:
        api_key: the provider's key; None where none is set.
        base_url: the address to which ``/chat/completions`` is appended.
        model: the model's name; empty where none is set and the provider has no default here.
        backend: ``aiohttp`` or ``openai``.
        timeout: seconds for one attempt of a model call.
        retries: further attempts after a failure that may pass.
        extra: fields added to every request.
        profile: what the owner says of the provider; see :mod:`pibot.llm_client.profiles`.
        proxy: the address of an HTTP proxy, which may hold a password; None for none.
        ca: a file of authorities (PEM) to trust besides the system's.
        names: the variables of the key, the address and the model.
    """

    api_key: Secret | None = None
    base_url: str = field(default=VOLC_BASE_URL, repr=False)  # some servers take their key in it
    model: str = VOLC_MODEL
    backend: str = "aiohttp"
    timeout: float = 120.0
    retries: int = 4
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)  # some providers take keys in it
    profile: Mapping[str, Any] = field(default_factory=dict)
    proxy: Secret | None = None
    ca: Path | None = None
    names: LLMNames = field(default=LLMNames(), repr=False)


@dataclass(frozen=True)
class Price:
    """A model's prices, in the owner's currency.

    Args:
        prompt: price of a million prompt tokens.
        completion: price of a million completion tokens.
    """

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the cost of one or more model calls."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(frozen=True)
class GatewaySettings:
    """Limits and prices of the master's gateway.

    Args:
        job_tokens: tokens that one job may use; None for no limit.
        day_tokens: tokens that all jobs of a day (UTC) may use; None for no limit.
        calls: model calls at the provider at one time; None for 8 plus one for each worker.
        fallback: the model to call where the first can't be reached or fails; None for none.
        prices: the price of each model, by its name.
        currency: the currency of the prices, to show to people.
        models: the further models that may be asked; empty for those that have a price.
    """

    job_tokens: int | None = None
    day_tokens: int | None = None
    calls: int | None = None
    fallback: LLMSettings | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    currency: str = ""
    models: tuple[str, ...] = ()

    def models_beside(self, model: str) -> frozenset[str]:
        """Return the names of all models that may be asked.

        Args:
            model: the name of the first model, which the hub itself asks.
        """
        fallback = () if self.fallback is None else (self.fallback.model,)
        return frozenset((model, *fallback, *(self.models or self.prices)))

    # docs/decisions.md, D98
    def cost(self, model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return the cost of a model call; None where no model has a price.

        A model without a price costs what the dearest of the others would, so that no cost goes unseen.
        """
        price = self.prices.get(model)
        prices = self.prices.values() if price is None else (price,)
        return max((price.of(prompt_tokens, completion_tokens) for price in prices), default=None)


@dataclass(frozen=True)
class AccessKey:
    """A key besides the fleet's own.

    Args:
        name: the name of its owner, in logs and messages.
        scope: what the key allows.
        secret: the key.
    """

    name: str
    scope: Scope
    secret: Secret


def is_placeholder(value: str) -> bool:
    """Whether ``value`` is what instructions write where a key has to go."""
    return _PLACEHOLDER.match(value) is not None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``, an address or ``localhost``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
