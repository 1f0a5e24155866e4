"""What is known of each provider: how it wants requests, and what it gives back.

A profile is where a call starts. What a provider refuses beyond it is learnt from its answer; see ``mends``.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from pibot.errors import LLMConfigurationError
from pibot.settings.values import MAX_WINDOW


class IdForm(enum.Enum):
    """What the id of a tool call may look like."""

    ANY = "any"
    NINE = "nine"
    """Exactly nine letters and digits (Mistral)."""


class Content(enum.Enum):
    """How an assistant's message without text writes its ``content`` beside tool calls."""

    EMPTY = "empty"
    NULL = "null"
    OMITTED = "omitted"
    TEXT = "text"
    """A few words, for servers that refuse an empty text and no text alike."""


class Schema(enum.Enum):
    """How much of JSON Schema the parameters of a tool may use."""

    FULL = "full"
    SINGLE_TYPES = "single_types"
    """No lists of types."""
    SUBSET = "subset"
    """What OpenAPI 3.0 and Gemini know: no references, no ``additionalProperties``, few formats."""


@dataclass(frozen=True)
class ProviderProfile:
    """How one provider, or one model there, wants its requests. The defaults are for an unknown provider.

    Args:
        name: the provider's, for messages and for the setting PIBOT_LLM_PROFILE.
        id_form: what ids of tool calls may look like.
        reasoning_back: an assistant's message goes back with its ``reasoning_content``.
        reasoning_required: a message with tool calls is refused without ``reasoning_content``.
        signature_required: a tool call is refused without the signature in its ``extra_content``.
        message_fields: fields beyond the protocol's that messages and tool calls may carry; None for all.
        window: tokens of a prompt with its answer; None where it is not known.
        max_tokens_field: the field that limits an answer's tokens; None where there is none.
        system_role: whether there is a system message; without one, its text goes into the first user message.
        schema: how much of JSON Schema tools may use.
        parallel_calls: whether one assistant message may hold several tool calls.
        beside_calls: how content is written beside tool calls where there is no text.
        contents_refused: the ways to write it that were refused.
        late_system: whether a system message may stand behind the first message.
        user_last: the last message must be the user's.
        user_after_tool: whether a user message may follow a tool's result directly.
        alternate: messages of the user and of the assistant must alternate.
        tool_role: whether there are tool messages; without them, calls and results are written as text.
        calls_need_tools: tool calls of the past are refused in a request that offers no tools.
        stream_only: the provider answers streams alone.
        left_out: fields of a request that the provider refuses.
        key_header: the header that carries the key.
        path: the address's path, for an address given without one; None where it is not known.
        prefix: put before the path of chat completions.
    """

    name: str = "unknown"
    id_form: IdForm = IdForm.ANY
    reasoning_back: bool = True
    reasoning_required: bool = False
    signature_required: bool = False
    message_fields: frozenset[str] | None = None
    window: int | None = None
    max_tokens_field: str | None = "max_tokens"
    system_role: bool = True
    schema: Schema = Schema.SINGLE_TYPES
    parallel_calls: bool = True
    beside_calls: Content = Content.EMPTY
    contents_refused: frozenset[Content] = frozenset()
    late_system: bool = True
    user_last: bool = False
    user_after_tool: bool = True
    alternate: bool = False
    tool_role: bool = True
    calls_need_tools: bool = False
    stream_only: bool = False
    left_out: frozenset[str] = frozenset()
    key_header: str = "Authorization"
    path: str | None = None
    prefix: str = ""


_UNKNOWN = ProviderProfile()
_NO_FIELDS: frozenset[str] = frozenset()
_REASONING = frozenset({"reasoning_content"})
_ROUTED = frozenset({"reasoning", "reasoning_content", "reasoning_details", "extra_content"})

_PROFILES = {
    profile.name: profile
    for profile in (
        _UNKNOWN,
        ProviderProfile("ark", message_fields=_REASONING, window=262_144, path="/api/v3"),
        ProviderProfile("deepseek", message_fields=_REASONING, window=131_072, path="/v1"),
        ProviderProfile(
            "openai",
            reasoning_back=False,
            message_fields=_NO_FIELDS,
            max_tokens_field="max_completion_tokens",
            schema=Schema.FULL,
            beside_calls=Content.NULL,
            path="/v1",
        ),
        ProviderProfile(
            "azure",
            reasoning_back=False,
            message_fields=_NO_FIELDS,
            max_tokens_field="max_completion_tokens",
            schema=Schema.FULL,
            beside_calls=Content.NULL,
            key_header="api-key",
            path="/openai/v1",
        ),
        ProviderProfile(
            "gemini",
            reasoning_back=False,
            signature_required=True,
            message_fields=frozenset({"extra_content"}),
            window=1_048_576,
            schema=Schema.SUBSET,
            beside_calls=Content.OMITTED,
            path="/v1beta/openai",
        ),
        ProviderProfile(
            "mistral",
            id_form=IdForm.NINE,
            reasoning_back=False,
            message_fields=_NO_FIELDS,
            window=131_072,
            user_after_tool=False,
            left_out=frozenset({"stream_options"}),
            path="/v1",
        ),
        ProviderProfile("moonshot", message_fields=_REASONING, window=131_072, beside_calls=Content.NULL, path="/v1"),
        ProviderProfile("dashscope", message_fields=_REASONING, window=131_072, path="/compatible-mode/v1"),
        ProviderProfile("zhipu", message_fields=_REASONING, window=131_072, path="/api/paas/v4"),
        ProviderProfile(
            "anthropic",
            reasoning_back=False,
            message_fields=_NO_FIELDS,
            window=200_000,
            beside_calls=Content.NULL,
            path="/v1",
        ),
        ProviderProfile(
            "groq",
            reasoning_back=False,
            message_fields=_NO_FIELDS,
            max_tokens_field="max_completion_tokens",
            beside_calls=Content.NULL,
            path="/openai/v1",
        ),
        ProviderProfile("openrouter", message_fields=_ROUTED, path="/api/v1"),
        ProviderProfile("ollama", message_fields=frozenset({"reasoning"}), path="/v1"),
        ProviderProfile("lmstudio", message_fields=_REASONING, path="/v1"),
        ProviderProfile("llamacpp", message_fields=_REASONING, path="/v1"),
        ProviderProfile("vllm", message_fields=frozenset({"reasoning", "reasoning_content"}), path="/v1"),
        ProviderProfile("pibot"),
    )
}

_HOSTS = (
    (r"ark(\.[a-z0-9-]+)*\.(volces|bytepluses|volcengineapi)\.com", "ark"),
    (r"(.+\.)?deepseek\.com", "deepseek"),
    (r"(.+\.)?api\.openai\.com", "openai"),
    (r".+\.(openai\.azure|cognitiveservices\.azure|services\.ai\.azure)\.com", "azure"),
    (r"generativelanguage\.googleapis\.com", "gemini"),
    (r"(.+\.)?mistral\.ai", "mistral"),
    (r"(.+\.)?(moonshot\.(cn|ai)|kimi\.com)", "moonshot"),
    (r"dashscope(-[a-z]+)?\.aliyuncs\.com", "dashscope"),
    (r"(.+\.)?(bigmodel\.cn|z\.ai)", "zhipu"),
    (r"(.+\.)?anthropic\.com", "anthropic"),
    (r"(.+\.)?groq\.com", "groq"),
    (r"(.+\.)?openrouter\.ai", "openrouter"),
)
"""Hosts of the providers, from their documentation."""

_PORTS = {11434: "ollama", 1234: "lmstudio"}
"""Ports that no other server takes by default. llama.cpp (8080) and vLLM (8000) share theirs with too many."""

_MODELS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    (r"deepseek-(reasoner|v[4-9])", {"reasoning_required": True}),
    (r"kimi-(k2\.5|k[3-9]|.*thinking)", {"reasoning_required": True, "window": 262_144}),
    (r"kimi-k2-(0905|turbo)", {"window": 262_144}),
    (r"(gpt-4o|gpt-4-turbo|o1-mini|o1-preview)", {"window": 128_000}),
    (r"gpt-4\.1", {"window": 1_047_576}),
    (r"(o1|o3|o4)\b", {"window": 200_000}),
    (r"gpt-5", {"window": 272_000}),
    (r"gemini-(1|2)\b", {"signature_required": False}),
    (r"moonshot-v1-8k", {"window": 8192}),
    (r"moonshot-v1-32k", {"window": 32_768}),
    (r"glm-4\.6", {"window": 200_000}),
    (r"doubao-(1[.-]5|lite|pro)-?32k|doubao-.*-32k", {"window": 32_768}),
    (r"gemma", {"alternate": True}),
)
"""What single models change in their provider's profile, by the beginning of the name. The first that fits counts."""

_OF_NAME = (
    (r"gemini-", ("signature_required", "window")),
    (r"deepseek-", ("window",)),
    (r"doubao-", ("window",)),
    (r"kimi-|moonshot-", ("window",)),
    (r"(open-)?mi[sx]tral-(large|medium|small)-(latest|\d{4})", ("id_form", "window")),
)
"""What a model's name alone says behind a host that nobody knows, such as a proxy or the fleet's own hub."""

_PROVIDER_OF_NAME = ("gemini", "deepseek", "ark", "moonshot", "mistral")


def for_endpoint(base_url: str, model: str, override: Mapping[str, Any] | None = None) -> ProviderProfile:
    """Return the profile of a model at an address.

    Args:
        base_url: the provider's address.
        model: the model's name.
        override: what the owner says: ``like``, the name of a profile, and any field of the profile by its name.

    Raises:
        LLMConfigurationError: the override names a profile or field that there is not, or gives a wrong value.
    """
    override = dict(override or {})
    like = override.pop("like", None)
    if like is None:
        profile = _PROFILES[_name_of_host(base_url)]
    elif isinstance(like, str) and like.lower() in _PROFILES:
        profile = _PROFILES[like.lower()]
    else:
        raise _wrong(f"there is no profile {like!r}; there are {', '.join(sorted(_PROFILES))}")
    return _overridden(_of_model(profile, model), override)


def _name_of_host(base_url: str) -> str:
    parts = urlsplit(base_url)
    host = (parts.hostname or "").rstrip(".")
    for pattern, name in _HOSTS:
        if re.fullmatch(pattern, host):
            return name
    return _PORTS.get(parts.port or 0, "unknown")


def _of_model(profile: ProviderProfile, model: str) -> ProviderProfile:
    """Return the profile with what the model's name says."""
    name = model.lower().rpartition("/")[2]
    if profile.name in ("unknown", "pibot", "vllm", "llamacpp", "openrouter"):
        for (pattern, fields), provider in zip(_OF_NAME, _PROVIDER_OF_NAME):
            if re.match(pattern, name):
                profile = replace(profile, **{field: getattr(_PROFILES[provider], field) for field in fields})
    if profile.name == "ollama":
        return profile  # its window is what the server was started with, whatever the model could
    for pattern, changes in _MODELS:
        if re.match(pattern, name):
            return replace(profile, **changes)
    return profile


def _overridden(profile: ProviderProfile, override: Mapping[str, Any]) -> ProviderProfile:
    changes: dict[str, Any] = {}
    fields = {item.name for item in dataclasses.fields(profile)} - {"name", "contents_refused", "prefix"}
    for name, value in override.items():
        if name not in fields:
            raise _wrong(f"a profile has no field {name!r}; it has like, {', '.join(sorted(fields))}")
        changes[name] = _checked(name, value, getattr(_UNKNOWN, name))
    return replace(profile, **changes)


def _checked(name: str, value: Any, default: Any) -> Any:
    """Return a field's value from the owner's JSON."""
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        raise _wrong(f"{name} must be true or false, not {value!r}")
    if isinstance(default, enum.Enum):
        choices = {member.value: member for member in type(default)}
        if isinstance(value, str) and value in choices:
            return choices[value]
        raise _wrong(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    if name == "window":
        if value is None or (type(value) is int and 0 < value <= MAX_WINDOW):
            return value
        raise _wrong(f"window must be a number of tokens, not {value!r}")
    if name in ("message_fields", "left_out"):
        if value is None and name == "message_fields":
            return None
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return frozenset(value)
        raise _wrong(f"{name} must be a list of names, not {value!r}")
    if value is None and name != "key_header":
        return None
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_./-]+", value):
        return value
    raise _wrong(f"{name} must be a name, not {value!r}")


def _wrong(problem: str) -> LLMConfigurationError:
    return LLMConfigurationError(f"PIBOT_LLM_PROFILE (or PIBOT_FALLBACK_PROFILE) can't be used: {problem}")
