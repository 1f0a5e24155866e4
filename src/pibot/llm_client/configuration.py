"""Checks the model's settings before anything is sent, and makes an endpoint of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from pibot.errors import LLMConfigurationError
from pibot.llm_client.profiles import ProviderProfile, for_endpoint
from pibot.llm_client.redaction import Redactor
from pibot.settings import LLMSettings, Secret, is_placeholder
from pibot.settings.values import LLMNames

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
        redactor: hides the secrets.
        secrets: the key, every value of the query, the proxy's password, and what looks like a key in ``extra``.
        extra: the owner's further fields of every request.
        override: what the owner says of the provider's profile.
        proxy: the proxy's address without user and password; None for none.
        proxy_login: the proxy's user and password; None for none.
        ca: a file of authorities to trust besides the system's.
        names: the variables of the key, the address and the model.
    """

    base_url: str = field(repr=False)
    query: tuple[tuple[str, str], ...] = field(repr=False)
    key: Secret
    model: str
    shown: str
    redactor: Redactor
    secrets: tuple[str, ...] = field(default=(), repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    override: Mapping[str, Any] = field(default_factory=dict)
    proxy: str | None = None
    proxy_login: tuple[str, str] | None = field(default=None, repr=False)
    ca: Path | None = None
    names: LLMNames = field(default=LLMNames(), repr=False)

    @property
    def completions_url(self) -> str:
        """The address of chat completions, without its query."""
        return self.base_url + COMPLETIONS

    def profile_of(self, model: str) -> ProviderProfile:
        """Return what is known beforehand of a model at this provider."""
        profile = for_endpoint(self.base_url, model, self.override)
        return replace(profile, path=urlsplit(self.base_url).path or None)

    def key_headers(self, profile: ProviderProfile) -> dict[str, str]:
        """Return the header that carries the key."""
        key = self.key.reveal()
        return {profile.key_header: f"Bearer {key}" if profile.key_header == "Authorization" else key}


def check(settings: LLMSettings) -> Endpoint:
    """Check the settings and return the endpoint.

    Raises:
        LLMConfigurationError: the key, the address or the model's name is missing, a placeholder, or malformed; the
            message names the variable and where to put it, and never holds the value of a key.
    """
    names = settings.names
    key = _key(settings.api_key, names)
    model = settings.model.strip()
    if not model or is_placeholder(model):
        raise LLMConfigurationError(f"no model is named: put its name into {names.model}, {_PLACE}")
    base_url, query = _address(settings.base_url, names)
    profile = for_endpoint(base_url, model, settings.profile)
    if not urlsplit(base_url).path and profile.path is not None:
        base_url += profile.path
    proxy, login = (None, None) if settings.proxy is None else _proxy(settings.proxy.reveal())
    if settings.ca is not None:
        _check_ca(settings.ca)
    if proxy is not None and proxy.startswith("https:") and settings.backend != "openai" and sys.version_info < (3, 11):
        raise LLMConfigurationError(
            "PIBOT_LLM_PROXY can be an https address only from Python 3.11 on: use an http address, or set "
            "PIBOT_LLM_BACKEND=openai on the workers"
        )
    found = (key, *(value for _, value in query), *(login or ())[1:], *_secrets_of(settings.extra))
    redactor = Redactor(found)
    return Endpoint(
        base_url,
        query,
        Secret(key),
        model,
        redactor.hide(base_url),
        redactor,
        found,
        settings.extra,
        settings.profile,
        proxy,
        login,
        settings.ca,
        names,
    )


def _proxy(url: str) -> tuple[str, tuple[str, str] | None]:
    """Split a proxy's address into the address alone and its user and password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    login = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
    return urlunsplit((parts.scheme, host, "", "", "")), login


def _check_ca(path: Path) -> None:
    import ssl

    try:
        ssl.create_default_context(cafile=str(path))
    except OSError as exc:  # no file, or no certificates in it
        reason = exc.strerror or "there are no certificates (PEM) in it"
        raise LLMConfigurationError(f"PIBOT_LLM_CA can't be used: {path}: {reason}") from exc


_SECRET_NAME = re.compile(r"(?i)key|token|secret|passw|auth|credential")
_LONGEST_WORD = 20


def _secrets_of(fields: Any, name: str = "", depth: int = 0) -> Iterator[str]:
    """Return the texts in the owner's further fields that are, or may be, keys."""
    if isinstance(fields, dict) and depth < 8:
        for key, value in fields.items():
            yield from _secrets_of(value, f"{name}.{key}" if name else key, depth + 1)
    elif isinstance(fields, list) and depth < 8:
        for item in fields:
            yield from _secrets_of(item, name, depth + 1)
    elif isinstance(fields, str) and fields and (_SECRET_NAME.search(name) or _like_a_key(fields)):
        yield fields


def _like_a_key(text: str) -> bool:
    return len(text) > _LONGEST_WORD and not re.search(r"\s", text)


def _key(secret: Secret | None, names: LLMNames) -> str:
    variable = names.key if names.fallback else "VOLC_API_KEY (or OPENAI_API_KEY, with no VOLC_API_KEY set)"
    where = f"put the real one into {variable}, {_PLACE}"
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


_OTHER_PATHS = re.compile(
    r"/(?:responses|messages|completions|embeddings|models|anthropic(?:/v1)?|api/(?:chat|generate|tags))\Z|/chat\Z"
)
"""Ends of addresses that people copy from documentation, and that chat completions do not follow."""

_FOR_PEOPLE = re.compile(
    r"(?:console|platform|chat|www|docs|aistudio|bailian|studio)\.(?:.+\.)?"
    r"(?:openai|chatgpt|deepseek|mistral|moonshot|kimi|volcengine|aliyun|google|openrouter)\.(?:com|ai|cn)"
)
"""Hosts of the providers' own pages."""

_PATHS = {
    "ark": (r"/api/(?:coding/)?v\d+(?:/bots)?", "/api/v3, or /api/coding/v3 for the coding plan"),
    "gemini": (r"/v1(?:beta|alpha)?/openai", "/v1beta/openai"),
    "openrouter": (r"/api/v1", "/api/v1"),
    "dashscope": (r"/compatible-(?:mode|api)/v1(?:/.*)?", "/compatible-mode/v1"),
}
"""Paths of providers that have other protocols elsewhere, and how to say them."""


def _address(url: str, names: LLMNames) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Split an address into its base and its query. ``/chat/completions`` at the end of the base is removed."""
    wrong = f"{names.address} must be like https://host/v1"
    parts = _split(url.strip())
    if parts is None:  # not quoted: it may be a key that was put into the wrong line
        raise LLMConfigurationError(f"{wrong}; its value is no http or https address")
    if "@" in parts.netloc:
        raise LLMConfigurationError(f"{wrong}, without a user name or password in it: the key goes into {names.key}")
    path = re.sub(r"/{2,}", "/", parts.path).rstrip("/")
    if path.endswith(COMPLETIONS):
        path = path[: -len(COMPLETIONS)]
    if parts.fragment:
        raise LLMConfigurationError(f"{wrong}, without a '#' in it: that is the address of a page for people")
    other = _OTHER_PATHS.search(path)
    if other is not None and not (other[0] == "/models" and (parts.hostname or "").endswith(".services.ai.azure.com")):
        raise LLMConfigurationError(
            f"{wrong}: the address to which /chat/completions is appended. It ends with {other[0]}; leave that out"
        )
    _check_host(parts, path, wrong)
    query = tuple(parse_qsl(parts.query, keep_blank_values=True))
    return urlunsplit((parts.scheme, parts.netloc, path, "", "")), query


def _check_host(parts: SplitResult, path: str, wrong: str) -> None:
    """Refuse the address of a page for people, and a known provider's with a path that is not this protocol's."""
    host = parts.hostname or ""
    if _FOR_PEOPLE.fullmatch(host):
        raise LLMConfigurationError(f"{wrong}; {host} has pages for people: docs/models.md has the address of the API")
    wanted, shown = _PATHS.get(for_endpoint(urlunsplit(parts), "").name, ("", ""))
    if path and wanted and not re.fullmatch(wanted, path):
        raise LLMConfigurationError(f"{wrong}; at {host} the path is {shown}, not {path}")


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
