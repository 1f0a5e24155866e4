"""Checks the model's settings before anything is sent, and makes an endpoint of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, urlsplit, urlunsplit

from pibot.errors import LLMConfigurationError
from pibot.llm_client.redaction import Redactor
from pibot.settings import LLMSettings, Secret, is_placeholder

COMPLETIONS = "/chat/completions"

_PRINTABLE = re.compile(r"[!-~]+\Z")

_PLACE = "in .env in the working directory, or in the environment"


@dataclass(frozen=True)
class Endpoint:
    """Where a model is, from checked settings.

    Args:
        base_url: the address without its query.
        query: the address's query, which may hold a key.
        key: the key.
        model: the model's name.
        shown: the address for messages: without its query, and without the key if that is part of the path.
        redactor: hides the key and every value of the query.
    """

    base_url: str = field(repr=False)
    query: tuple[tuple[str, str], ...] = field(repr=False)
    key: Secret
    model: str
    shown: str
    redactor: Redactor

    @property
    def completions_url(self) -> str:
        """The address of chat completions, without its query."""
        return self.base_url + COMPLETIONS


def check(settings: LLMSettings) -> Endpoint:
    """Check the settings and return the endpoint.

    Raises:
        LLMConfigurationError: the key, the address or the model's name is missing, a placeholder, or malformed; the
            message names the variable and where to put it, and never holds the value of a key.
    """
    key = _key(settings.api_key)
    model = settings.model.strip()
    if not model or is_placeholder(model):
        raise LLMConfigurationError(f"no model is named: put its name into MODEL_NAME, {_PLACE}")
    base_url, query = _address(settings.base_url)
    redactor = Redactor([key, *(value for _, value in query)])
    return Endpoint(base_url, query, Secret(key), model, redactor.hide(base_url), redactor)


def _key(secret: Secret | None) -> str:
    where = f"put the real one into VOLC_API_KEY (or OPENAI_API_KEY, with no VOLC_API_KEY set), {_PLACE}"
    key = "" if secret is None else secret.reveal().strip()
    if not key:
        raise LLMConfigurationError(f"there is no key for the model: {where}")
    if is_placeholder(key):
        raise LLMConfigurationError(f"the key for the model is still a placeholder: {where}")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise LLMConfigurationError(
            f"the key for the model contains a space, a line break or a letter outside ASCII: {where}"
        )
    return key


def _address(url: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Split an address into its base and its query. ``/chat/completions`` at the end of the base is removed."""
    wrong = "VOLC_BASE_URL (or OPENAI_BASE_URL) must be like https://host/v1"
    parts = _split(url.strip())
    if parts is None:  # not quoted: it may be a key that was put into the wrong line
        raise LLMConfigurationError(f"{wrong}; its value is no http or https address")
    if "@" in parts.netloc:
        raise LLMConfigurationError(
            f"{wrong}, without a user name or password in it: the key goes into VOLC_API_KEY (or OPENAI_API_KEY)"
        )
    path = parts.path.rstrip("/")
    if path.endswith(COMPLETIONS):
        path = path[: -len(COMPLETIONS)]
    query = tuple(parse_qsl(parts.query, keep_blank_values=True))
    return urlunsplit((parts.scheme, parts.netloc, path, "", "")), query


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # both raise if they are malformed
    except ValueError:
        return None
    usable = parts.scheme in ("http", "https") and host and _PRINTABLE.match(url) and _labels_fit(host)
    return parts if usable else None


def _labels_fit(host: str) -> bool:
    """Whether each label has 1 to 63 characters; looking up any other raises UnicodeError instead of OSError."""
    return all(0 < len(label) < 64 for label in host.rstrip(".").split("."))
