"""Where the model is, and whether what was set can be right at all, before anything is sent."""

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
    """A model's place, checked.

    Args:
        base_url: the address without its query.
        query: the address's query, which may hold a key.
        key: the key.
        model: the model's name.
        shown: the address as people may see it: without query, the key hidden if it is part of the path.
        redactor: hides the key, and every value of the query.
    """

    base_url: str = field(repr=False)
    query: tuple[tuple[str, str], ...] = field(repr=False)
    key: Secret
    model: str
    shown: str
    redactor: Redactor

    @property
    def completions_url(self) -> str:
        """The address of chat completions, without the query."""
        return self.base_url + COMPLETIONS


def check(settings: LLMSettings) -> Endpoint:
    """Return where the model is.

    Raises:
        LLMConfigurationError: the key, the address or the model's name is missing, a placeholder, or none that could
            work; the message names the variable and where to put it, and never holds the value of a key.
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
            f"the key for the model holds a space, a line break or a letter that no key has: {where}"
        )
    return key


def _address(url: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The address without its query, and the query. A whole ``…/chat/completions`` is taken for its base."""
    wrong = "VOLC_BASE_URL (or OPENAI_BASE_URL) must be like https://host/v1"
    parts = _split(url.strip())
    if parts is None:  # nothing of it is quoted: it may well be a key that was put into the wrong line
        raise LLMConfigurationError(f"{wrong}; what is there is no http or https address")
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
        host, _ = parts.hostname, parts.port  # both raise where they can't be read
    except ValueError:
        return None
    usable = parts.scheme in ("http", "https") and host and _PRINTABLE.match(url) and _labels_fit(host)
    return parts if usable else None


def _labels_fit(host: str) -> bool:
    """Whether each part of a name has 1 to 63 characters; looking up another raises no OSError but a UnicodeError."""
    return all(0 < len(label) < 64 for label in host.rstrip(".").split("."))
