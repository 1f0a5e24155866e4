"""The settings that are made of more than one variable, or of a variable with a form of its own."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from pibot.contracts import Budget, Scope, WorkerAddress
from pibot.errors import SettingsError
from pibot.settings import model_requests, proxies
from pibot.settings.environment import Environment
from pibot.settings.values import (
    FALLBACK_NAMES,
    MAX_WINDOW,
    OPENAI_BASE_URL,
    VOLC_BASE_URL,
    VOLC_MODEL,
    AccessKey,
    GatewaySettings,
    LLMSettings,
    Price,
    Secret,
)

_WORKER_IP = re.compile(r"WORKER_(\d+)_IP\Z")
WORKER_TOKEN = re.compile(r"WORKER_(\d+)_TOKEN\Z")
PREVIOUS_TOKEN = re.compile(r"WORKER_(\d+)_TOKEN_PREVIOUS\Z")
_FURTHER_KEY = re.compile(r"PIBOT_KEY_([A-Za-z0-9_]+)\Z")
_SCOPES = {scope.value: scope for scope in (Scope.READ, Scope.SUBMIT, Scope.ADMIN)}


def llm(env: Environment) -> LLMSettings:
    """Read the model's settings: the VOLC names, or the OPENAI names where VOLC_API_KEY is absent."""
    key = env.secret("VOLC_API_KEY")
    base_url = env.get("VOLC_BASE_URL")
    model = env.get("MODEL_NAME")
    if key is None and env.secret("OPENAI_API_KEY") is not None:
        key = env.secret("OPENAI_API_KEY")
        base_url = base_url or env.text("OPENAI_BASE_URL", OPENAI_BASE_URL)
        model = model or ""
    base_url = _base_url(base_url or env.get("OPENAI_BASE_URL") or VOLC_BASE_URL, "VOLC_BASE_URL (or OPENAI_BASE_URL)")
    return LLMSettings(
        api_key=key,
        base_url=base_url,
        model=VOLC_MODEL if model is None else model,
        backend=env.choice("PIBOT_LLM_BACKEND", ("aiohttp", "openai"), "aiohttp"),
        timeout=env.seconds("PIBOT_LLM_TIMEOUT", LLMSettings.timeout),
        retries=env.integer("PIBOT_LLM_RETRIES", LLMSettings.retries, minimum=0),
        extra=model_requests.extra(env.get("PIBOT_LLM_EXTRA"), "PIBOT_LLM_EXTRA") or {},  # nosec B610 # not Django
        profile=_with_window(env, model_requests.profile(env.get("PIBOT_LLM_PROFILE"), "PIBOT_LLM_PROFILE") or {}),
        proxy=proxies.proxy_for(env.get("PIBOT_LLM_PROXY"), base_url, env),
        ca=env.path("PIBOT_LLM_CA", None),
    )


def gateway(env: Environment, llm: LLMSettings) -> GatewaySettings:
    """Read the gateway's settings; the fallback model takes from ``llm`` what it does not set itself."""
    model = env.get("PIBOT_FALLBACK_MODEL")
    base_url = _base_url(env.text("PIBOT_FALLBACK_BASE_URL", llm.base_url), "PIBOT_FALLBACK_BASE_URL")
    fallback = None
    if model is not None:
        key = env.secret("PIBOT_FALLBACK_API_KEY") or llm.api_key
        same = base_url == llm.base_url
        extra, profile = (
            model_requests.extra(env.get("PIBOT_FALLBACK_EXTRA"), "PIBOT_FALLBACK_EXTRA"),  # nosec B610 # not Django
            model_requests.profile(env.get("PIBOT_FALLBACK_PROFILE"), "PIBOT_FALLBACK_PROFILE"),
        )
        fallback = dataclasses.replace(
            llm,
            api_key=key,
            base_url=base_url,
            model=model,
            names=FALLBACK_NAMES,
            extra=extra if extra is not None else llm.extra if same else {},
            profile=profile if profile is not None else _without_window(llm.profile) if same else {},
            proxy=proxies.proxy_for(env.get("PIBOT_LLM_PROXY"), base_url, env),
        )
    return GatewaySettings(
        job_tokens=env.limit("PIBOT_JOB_TOKENS"),
        day_tokens=env.limit("PIBOT_DAY_TOKENS"),
        calls=env.limit("PIBOT_GATEWAY_CALLS"),
        fallback=fallback,
        prices=dict(_price(part) for part in (env.get("PIBOT_PRICES") or "").split(",") if part.strip()),
        currency=env.text("PIBOT_CURRENCY", ""),
        models=env.words("PIBOT_MODELS"),
    )


def _with_window(env: Environment, profile: Mapping[str, Any]) -> Mapping[str, Any]:
    window = env.limit("PIBOT_MODEL_WINDOW")
    if window is not None and window > MAX_WINDOW:
        raise SettingsError(f"PIBOT_MODEL_WINDOW must be a number of tokens up to {MAX_WINDOW:,}, not {window:,}")
    return profile if window is None else {**profile, "window": window}


def _without_window(profile: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a model's profile for another model at the same address."""
    return {name: value for name, value in profile.items() if name != "window"}


def _base_url(text: str, name: str) -> str:
    if not re.match(r"(?i)https?://[^/\s]+", text):
        # The value is not quoted: people put their key into the wrong line.
        raise SettingsError(f"{name} must be an http or https address like https://host/v1")
    return text.rstrip("/")


def _price(text: str) -> tuple[str, Price]:
    """Read ``model=prompt/completion``, the prices of a million tokens."""
    match = re.fullmatch(r"([^\s=;]+)\s*=\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)", text.strip())
    if match is None:
        raise SettingsError(
            "PIBOT_PRICES must be like doubao-seed-code=0.8/8, other-model=1/2: the prices of a million prompt tokens "
            f"and a million completion tokens; {text.strip()!r} is not"
        )
    return match[1], Price(float(match[2]), float(match[3]))


def workers(env: Environment) -> tuple[WorkerAddress, ...]:
    """Read ``WORKER_<n>_IP`` in the order of the numbers, each with its optional ``WORKER_<n>_PORT``."""
    numbers = sorted({int(m.group(1)) for m in map(_WORKER_IP.match, env.names()) if m})
    scheme = "http" if env.get("PIBOT_TLS_CA") is None else "https"
    workers = []
    for number in numbers:
        host = env.get(f"WORKER_{number}_IP")
        if host is None:
            continue
        if not _is_host(host):
            raise SettingsError(
                f"WORKER_{number}_IP must be an address or a host name, not {host!r}; "
                f"a port goes into WORKER_{number}_PORT"
            )
        workers.append(WorkerAddress(f"worker-{number}", host, env.port(f"WORKER_{number}_PORT"), scheme))
    return tuple(workers)


def _is_host(text: str) -> bool:
    """Whether ``text`` is an address or a host name, by its form, without a port."""
    if ":" in text or re.fullmatch(r"[0-9.]+", text):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
        return True
    return re.fullmatch(r"[A-Za-z0-9._-]+", text) is not None


def worker_tokens(env: Environment, form: re.Pattern[str]) -> dict[str, Secret]:
    """Read the workers' tokens whose variables have ``form``, by the worker's name."""
    found = sorted((int(m.group(1)), name) for name in env.names() for m in [form.match(name)] if m)
    tokens = {f"worker-{number}": env.key(name) for number, name in found}
    return {worker: token for worker, token in tokens.items() if token is not None}


def keys(env: Environment) -> tuple[AccessKey, ...]:
    """Read ``PIBOT_KEY_<name>=<scope>:<key>``, such as ``PIBOT_KEY_PHONE=submit:…``."""
    keys = []
    for variable in sorted(name for name in env.names() if _FURTHER_KEY.match(name) and env.get(name)):
        scope, colon, _ = (env.get(variable) or "").partition(":")
        if not colon or scope not in _SCOPES:
            raise SettingsError(f"{variable} must be a scope ({', '.join(_SCOPES)}), a colon and the key, like read:…")
        secret = env.key(variable, skip=len(scope) + 1)
        assert secret is not None
        keys.append(AccessKey(variable[len("PIBOT_KEY_") :].lower(), _SCOPES[scope], secret))
    return tuple(keys)


def read_paths(env: Environment, directory: Path) -> tuple[Path, ...]:
    """Read the paths outside its workspace that a task may read.

    A path that holds the working directory's ``.env`` is refused, since the keys are in it.
    """
    paths = tuple(env.absolute(path, "PIBOT_READ_PATHS") for path in env.words("PIBOT_READ_PATHS"))
    dotenv = (directory / ".env").resolve()
    if env.get("PIBOT_SANDBOX") == "off":
        return paths  # unconfined commands can read everything anyway
    for path in paths:
        if path.resolve() in (dotenv, *dotenv.parents):
            raise SettingsError(
                f"PIBOT_READ_PATHS must not hold {path}: {dotenv}, with the keys, is in it; name only what tasks need"
            )
    return paths


def own_certificate(env: Environment) -> tuple[Optional[Path], Optional[Path]]:
    """Read the files of this machine's certificate and its key: both, or neither."""
    certificate, key = env.path("PIBOT_TLS_CERT", None), env.path("PIBOT_TLS_KEY", None)
    if (certificate is None) != (key is None):
        raise SettingsError("PIBOT_TLS_CERT and PIBOT_TLS_KEY go together: set both, or neither")
    return certificate, key


def budget(env: Environment) -> Budget:
    """Read the limits of one task on a worker."""
    return Budget(
        max_steps=env.integer("PIBOT_MAX_STEPS", Budget.max_steps, minimum=1),
        max_seconds=env.seconds("PIBOT_TASK_TIMEOUT", Budget.max_seconds),
        max_tokens=env.integer("PIBOT_MAX_TOKENS", Budget.max_tokens, minimum=1),
        max_output_chars=env.integer("PIBOT_MAX_OUTPUT_CHARS", Budget.max_output_chars, minimum=100),
    )


def bundled(directory: Path, name: str) -> Path:
    """Return the path of ``name``: the one in the working directory if it exists, else the bundled one."""
    package = Path(__file__).resolve().parents[1]
    candidates = (directory / name, package / "bundled" / name, package.parent.parent / name)
    return next((c for c in candidates if c.exists()), candidates[0])
