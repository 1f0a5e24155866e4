"""Typed settings, and the only reader of the environment and of ``.env``.

A value in the environment wins over the same name in ``.env`` in the working directory; a command-line flag,
applied by the caller with :meth:`Settings.replace`, wins over both.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from pibot.contracts import Budget, Scope, WorkerAddress
from pibot.errors import SettingsError

DEFAULT_PORT = 5000
MIN_LEASE = 2.0
"""Seconds. Workers are asked for signs of life in whole seconds."""

VOLC_BASE_URL = "https://ark.cn-beijing.volces.com/api/coding/v3"
VOLC_MODEL = "doubao-seed-code"
OPENAI_BASE_URL = "https://api.openai.com/v1"

SHORTEST_KEY = 16
"""Characters that a worker's token and a further key must have; nobody has to type them."""

_MAKE_ONE = "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"

_WORKER_IP = re.compile(r"WORKER_(\d+)_IP\Z")
_WORKER_TOKEN = re.compile(r"WORKER_(\d+)_TOKEN\Z")
_PREVIOUS_TOKEN = re.compile(r"WORKER_(\d+)_TOKEN_PREVIOUS\Z")
_FURTHER_KEY = re.compile(r"PIBOT_KEY_([A-Z0-9_]+)\Z")
_PLACEHOLDER = re.compile(
    r"""(?ix) \A (?:
        your[_\-\s].* | my[_\-]api[_\-]?key | <.*> | \[.*\] | \{.*\} | \$\{?\w+\}?
        | change[_\-]?me | (?:sk[_\-])? (?: x{3,} | \*{3,} | \.{3,} | …+ ) [\w\-]*
        | (?:insert|put|enter|replace|add|paste)[_\-].* | placeholder | todo | none | null | (?:api[_\-]?)?key | example
    ) \Z"""
)
_GUESSED_FIRST = re.compile(
    r"""(?ix) \A (?:
        (?:change|replace)[\W_]*(?:me|this|it).*
        | (?:(?:pibot|api|the|my|secret|worker)[\W_]*)*(?:key|token|secret|pass(?:word)?)
        | pibot | admin | root | default | test | raspberry | qwerty | letmein | (?:0|1)?123456(?:7|78|789|7890)?
    ) \Z"""
)
_FOR_PEOPLE = {scope.value: scope for scope in (Scope.READ, Scope.SUBMIT, Scope.ADMIN)}
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


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


@dataclass(frozen=True)
class Settings:
    """All that can be set. See README.md for the names in the environment."""

    llm: LLMSettings = field(default_factory=LLMSettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    worker_id: str = "worker-1"
    workers: tuple[WorkerAddress, ...] = ()
    api_key: Secret | None = None
    keys: tuple[AccessKey, ...] = ()
    worker_tokens: Mapping[str, Secret] = field(default_factory=dict)
    previous_api_key: Secret | None = None
    previous_worker_tokens: Mapping[str, Secret] = field(default_factory=dict)
    allow_open: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    hub_url: str = f"http://127.0.0.1:{DEFAULT_PORT}"
    join_hub: bool = False
    data_dir: Path = Path("data")
    log_dir: Path | None = None
    workspace_dir: Path = Path("workspace")
    skills_dir: Path = Path("skills")
    worker_soul: Path = Path("worker_soul.md")
    soul: Path = Path("soul.md")
    sandbox: str = "bwrap"
    sandbox_socket: Path | None = None
    network_skills: tuple[str, ...] = ()
    approve: tuple[str, ...] = ()
    approval_seconds: float = 24 * 3600.0
    web_allow: tuple[str, ...] = ()
    read_paths: tuple[Path, ...] = ()
    budget: Budget = field(default_factory=Budget)
    max_queued: int = 1000
    submit_per_minute: int = 600
    jobs_kept: int = 1000
    jobs_kept_days: int = 30
    results_kept: int = 200
    results_ttl: float = 24 * 3600.0
    stop_grace: float = 20.0
    log_days: int = 14
    lease_seconds: float = 60.0
    no_worker_seconds: float = 24 * 3600.0
    hot_celsius: float = 80.0
    min_memory_mb: int = 60
    demo_port: int = DEFAULT_PORT

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, directory: Path | None = None) -> Settings:
        """Read the settings.

        Args:
            environ: the environment; the process's own by default.
            directory: where ``.env`` may lie and what relative paths start from; the working directory by default.

        Raises:
            SettingsError: a value does not fit; it names the variable.
        """
        directory = Path.cwd() if directory is None else directory
        env = _Env({**_read_dotenv(directory / ".env"), **(os.environ if environ is None else environ)}, directory)
        defaults = cls()
        llm = _llm(env)
        tls_cert, tls_key = env.path("PIBOT_TLS_CERT", None), env.path("PIBOT_TLS_KEY", None)
        if (tls_cert is None) != (tls_key is None):
            raise SettingsError("PIBOT_TLS_CERT and PIBOT_TLS_KEY go together: set both, or neither")
        return cls(
            llm=llm,
            gateway=_gateway(env, llm),
            worker_id=env.text("WORKER_ID", defaults.worker_id),
            workers=_workers(env),
            api_key=env.key("PIBOT_API_KEY", shortest=1),  # a short one of before goes on
            keys=_keys(env),
            worker_tokens=_worker_tokens(env, _WORKER_TOKEN),
            previous_api_key=env.secret("PIBOT_API_KEY_PREVIOUS"),
            previous_worker_tokens=_worker_tokens(env, _PREVIOUS_TOKEN),
            allow_open=env.flag("PIBOT_ALLOW_OPEN"),
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_ca=env.path("PIBOT_TLS_CA", None),
            hub_url=env.text("PIBOT_HUB_URL", defaults.hub_url).rstrip("/"),
            join_hub=env.get("PIBOT_HUB_URL") is not None,
            data_dir=env.path("PIBOT_DATA_DIR", directory / "data"),
            log_dir=env.path("PIBOT_LOG_DIR", None),
            workspace_dir=env.path("PIBOT_WORKSPACE_DIR", directory / "workspace"),
            skills_dir=env.path("PIBOT_SKILLS_DIR", _bundled(directory, "skills")),
            worker_soul=_bundled(directory, "worker_soul.md"),
            soul=_bundled(directory, "soul.md"),
            sandbox=env.choice("PIBOT_SANDBOX", ("bwrap", "off"), defaults.sandbox),
            sandbox_socket=env.path("PIBOT_SANDBOX_SOCKET", None),
            network_skills=env.words("PIBOT_NETWORK_SKILLS"),
            approve=env.words("PIBOT_APPROVE"),
            approval_seconds=env.seconds("PIBOT_APPROVAL_SECONDS", defaults.approval_seconds),
            web_allow=env.words("PIBOT_WEB_ALLOW"),
            read_paths=_read_paths(env, directory),
            budget=Budget(
                max_steps=env.integer("PIBOT_MAX_STEPS", Budget.max_steps, minimum=1),
                max_seconds=env.seconds("PIBOT_TASK_TIMEOUT", Budget.max_seconds),
                max_tokens=env.integer("PIBOT_MAX_TOKENS", Budget.max_tokens, minimum=1),
                max_output_chars=env.integer("PIBOT_MAX_OUTPUT_CHARS", Budget.max_output_chars, minimum=100),
            ),
            max_queued=env.integer("PIBOT_MAX_QUEUED", defaults.max_queued, minimum=1),
            submit_per_minute=env.integer("PIBOT_SUBMIT_PER_MINUTE", defaults.submit_per_minute, minimum=0),
            jobs_kept=env.integer("PIBOT_JOBS_KEPT", defaults.jobs_kept, minimum=1),
            jobs_kept_days=env.integer("PIBOT_JOBS_KEPT_DAYS", defaults.jobs_kept_days, minimum=1),
            results_kept=env.integer("PIBOT_RESULTS_KEPT", defaults.results_kept, minimum=1),
            results_ttl=env.seconds("PIBOT_RESULTS_TTL", defaults.results_ttl),
            stop_grace=env.seconds("PIBOT_STOP_GRACE", defaults.stop_grace),
            log_days=env.integer("PIBOT_LOG_DAYS", defaults.log_days, minimum=1),
            lease_seconds=env.seconds("PIBOT_LEASE_SECONDS", defaults.lease_seconds, minimum=MIN_LEASE),
            no_worker_seconds=env.seconds("PIBOT_NO_WORKER_SECONDS", defaults.no_worker_seconds),
            hot_celsius=env.seconds("PIBOT_HOT_CELSIUS", defaults.hot_celsius, unit="degrees"),
            min_memory_mb=env.integer("PIBOT_MIN_MEMORY_MB", defaults.min_memory_mb, minimum=0),
            demo_port=env.port("PIBOT_DEMO_PORT"),
        )

    def replace(self, **changes: Any) -> Settings:
        """A copy with some fields changed, for the command line's flags."""
        return dataclasses.replace(self, **changes)

    @property
    def scheme(self) -> str:
        """What this process serves: ``http`` or ``https``."""
        return "http" if self.tls_cert is None else "https"

    @property
    def asks_hub_for_model(self) -> bool:
        """Whether the model's server is the fleet's hub, and no provider on the internet.

        A worker of the playbook's shows the same token for both.
        """
        return self.llm.base_url.startswith(f"{self.hub_url}/") or (
            self.api_key is not None and self.llm.api_key == self.api_key
        )

    def listen_host(self, wanted: str | None) -> str:
        """The address to listen on: all of them with a key, loopback alone without one.

        Raises:
            SettingsError: an address beyond loopback is wanted, there is no key, and nobody allowed that.
        """
        open_to_all = self.api_key is not None or self.allow_open
        host = wanted or ("0.0.0.0" if open_to_all else "127.0.0.1")  # nosec B104 # with a key, or the owner's word
        if open_to_all or is_loopback(host):
            return host
        raise SettingsError(
            f"refusing to listen on {host} without a key: anyone there could run commands. "
            "Set PIBOT_API_KEY, or PIBOT_ALLOW_OPEN=1 if that is what you want"
        )


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


class _Env:
    """Names to values, with the conversions; each error names the variable."""

    def __init__(self, values: Mapping[str, str], directory: Path) -> None:
        self._values = values
        self._directory = directory

    def names(self) -> list[str]:
        return list(self._values)

    def get(self, name: str) -> str | None:
        value = self._values.get(name, "").strip()
        return value or None

    def text(self, name: str, default: str) -> str:
        return self.get(name) or default

    def secret(self, name: str) -> Secret | None:
        value = self.get(name)
        return None if value is None else Secret(value)

    def key(self, name: str, *, skip: int = 0, shortest: int = SHORTEST_KEY) -> Secret | None:
        """A key that callers show: of a decent length and no placeholder; the first ``skip`` are no part of it."""
        value = self.get(name)
        if value is None:
            return None
        value = value[skip:].strip()
        # Neither message holds the key: it may be a good one with its end cut off.
        if is_placeholder(value) or _GUESSED_FIRST.match(value):
            raise SettingsError(f"the key in {name} is a placeholder, which anyone would try first; {_MAKE_ONE}")
        if len(value) < shortest:
            raise SettingsError(f"the key in {name} must have at least {shortest} characters; {_MAKE_ONE}")
        return Secret(value)

    def flag(self, name: str) -> bool:
        value = (self.get(name) or "").lower()
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise SettingsError(f"{name} must be 1 or 0, not {value!r}")

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise SettingsError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        return value

    def integer(self, name: str, default: int, *, minimum: int) -> int:
        value = self.get(name)
        if value is None:
            return default
        if not value.isascii() or not value.isdigit() or int(value) < minimum:
            raise SettingsError(f"{name} must be a whole number from {minimum} up, not {value!r}")
        return int(value)

    def limit(self, name: str) -> int | None:
        """A whole number; None for none, which 0 says too."""
        return self.integer(name, 0, minimum=0) or None

    def seconds(self, name: str, default: float, *, minimum: float = 0.0, unit: str = "seconds") -> float:
        value = self.get(name)
        if value is None:
            return default
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 < number < float("inf") or number < minimum:
            wanted = f"from {minimum:g} up" if minimum else "above 0"
            raise SettingsError(f"{name} must be a number of {unit} {wanted}, not {value!r}")
        return number

    def port(self, name: str) -> int:
        number = self.integer(name, DEFAULT_PORT, minimum=1)
        if number > 65535:
            raise SettingsError(f"{name} must be a port from 1 to 65535, not {number}")
        return number

    def words(self, name: str) -> tuple[str, ...]:
        return tuple(word for word in re.split(r"[,\s]+", self.get(name) or "") if word)

    def path(self, name: str, default: Any) -> Any:
        value = self.get(name)
        return default if value is None else self._directory / Path(value).expanduser()

    def absolute(self, value: str, name: str) -> Path:
        path = Path(value).expanduser()
        if not path.is_absolute():
            raise SettingsError(f"{name} must hold absolute paths, not {value!r}")
        return path


def _read_dotenv(path: Path) -> dict[str, str]:
    """The names and values of ``.env``; none where there is no such file.

    Raises:
        SettingsError: the file is there and cannot be read, or is not UTF-8.
    """
    if not path.is_file():
        return {}
    try:
        return {name: value for name, value in dotenv_values(path, interpolate=False).items() if value is not None}
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path} cannot be read: {exc}") from exc


def _llm(env: _Env) -> LLMSettings:
    """The model's settings: the VOLC names first, the OPENAI ones where these are absent."""
    key = env.secret("VOLC_API_KEY")
    base_url = env.get("VOLC_BASE_URL")
    model = env.get("MODEL_NAME")
    if key is None and env.secret("OPENAI_API_KEY") is not None:
        key = env.secret("OPENAI_API_KEY")
        base_url = base_url or env.text("OPENAI_BASE_URL", OPENAI_BASE_URL)
        model = model or ""
    base_url = base_url or env.get("OPENAI_BASE_URL") or VOLC_BASE_URL
    if not re.match(r"https?://[^/\s]+", base_url):
        # Not quoted: it may well be a key that was put into the wrong line.
        raise SettingsError("VOLC_BASE_URL (or OPENAI_BASE_URL) must be an http or https address like https://host/v1")
    return LLMSettings(
        api_key=key,
        base_url=base_url.rstrip("/"),
        model=VOLC_MODEL if model is None else model,
        backend=env.choice("PIBOT_LLM_BACKEND", ("aiohttp", "openai"), "aiohttp"),
        timeout=env.seconds("PIBOT_LLM_TIMEOUT", LLMSettings.timeout),
        retries=env.integer("PIBOT_LLM_RETRIES", LLMSettings.retries, minimum=0),
    )


def _gateway(env: _Env, llm: LLMSettings) -> GatewaySettings:
    model = env.get("PIBOT_FALLBACK_MODEL")
    base_url = env.text("PIBOT_FALLBACK_BASE_URL", llm.base_url)
    if not re.match(r"https?://[^/\s]+", base_url):
        raise SettingsError("PIBOT_FALLBACK_BASE_URL must be an http or https address like https://host/v1")
    fallback = None
    if model is not None:
        key = env.secret("PIBOT_FALLBACK_API_KEY") or llm.api_key
        fallback = dataclasses.replace(llm, api_key=key, base_url=base_url.rstrip("/"), model=model)
    return GatewaySettings(
        job_tokens=env.limit("PIBOT_JOB_TOKENS"),
        day_tokens=env.limit("PIBOT_DAY_TOKENS"),
        calls=env.limit("PIBOT_GATEWAY_CALLS"),
        fallback=fallback,
        prices=dict(_price(part) for part in (env.get("PIBOT_PRICES") or "").split(",") if part.strip()),
        currency=env.text("PIBOT_CURRENCY", ""),
    )


def _price(text: str) -> tuple[str, Price]:
    """``model=prompt/completion``."""
    match = re.fullmatch(r"([^\s=;]+)\s*=\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)", text.strip())
    if match is None:
        raise SettingsError(
            "PIBOT_PRICES must be like doubao-seed-code=0.8/8, other-model=1/2: what a million tokens of the prompt "
            f"and of the completion cost; {text.strip()!r} is not"
        )
    return match[1], Price(float(match[2]), float(match[3]))


def _workers(env: _Env) -> tuple[WorkerAddress, ...]:
    """``WORKER_1_IP`` … ``WORKER_n_IP`` in the order of their numbers, each with its optional port."""
    numbers = sorted({int(m.group(1)) for m in map(_WORKER_IP.match, env.names()) if m})
    scheme = "http" if env.get("PIBOT_TLS_CA") is None else "https"
    workers = []
    for number in numbers:
        host = env.get(f"WORKER_{number}_IP")
        if host is None:
            continue
        if not re.fullmatch(r"[A-Za-z0-9._:-]+", host):
            raise SettingsError(
                f"WORKER_{number}_IP must be an address or a host's name, not {host!r}; "
                f"a port goes into WORKER_{number}_PORT"
            )
        workers.append(WorkerAddress(f"worker-{number}", host, env.port(f"WORKER_{number}_PORT"), scheme))
    return tuple(workers)


def _worker_tokens(env: _Env, form: re.Pattern[str]) -> dict[str, Secret]:
    """``WORKER_1_TOKEN`` …, by the worker's name."""
    found = sorted((int(m.group(1)), name) for name in env.names() for m in [form.match(name)] if m)
    tokens = {f"worker-{number}": env.key(name) for number, name in found}
    return {worker: token for worker, token in tokens.items() if token is not None}


def _keys(env: _Env) -> tuple[AccessKey, ...]:
    """``PIBOT_KEY_<name>=<scope>:<key>``, such as ``PIBOT_KEY_PHONE=submit:…``."""
    keys = []
    for variable in sorted(name for name in env.names() if _FURTHER_KEY.match(name) and env.get(name)):
        scope, colon, _ = (env.get(variable) or "").partition(":")
        if not colon or scope not in _FOR_PEOPLE:
            raise SettingsError(f"{variable} must be {', '.join(_FOR_PEOPLE)} with a colon and the key, like read:…")
        secret = env.key(variable, skip=len(scope) + 1)
        assert secret is not None
        keys.append(AccessKey(variable[len("PIBOT_KEY_") :].lower(), _FOR_PEOPLE[scope], secret))
    return tuple(keys)


def _read_paths(env: _Env, directory: Path) -> tuple[Path, ...]:
    """What tasks may read elsewhere. The keys lie in the working directory, so it is not among that."""
    paths = tuple(env.absolute(path, "PIBOT_READ_PATHS") for path in env.words("PIBOT_READ_PATHS"))
    dotenv = (directory / ".env").resolve()
    for path in paths:
        if path.resolve() in (dotenv, *dotenv.parents):
            raise SettingsError(
                f"PIBOT_READ_PATHS must not hold {path}: {dotenv} is there, with the keys; name what tasks need"
            )
    return paths


def _bundled(directory: Path, name: str) -> Path:
    """``name`` in the working directory, else the one that came with the package."""
    package = Path(__file__).resolve().parent
    candidates = (directory / name, package / "bundled" / name, package.parent.parent / name)
    return next((c for c in candidates if c.exists()), candidates[0])
