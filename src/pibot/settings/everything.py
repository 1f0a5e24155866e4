"""The settings of every program, read once at its start."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pibot.contracts import Budget, WorkerAddress
from pibot.errors import SettingsError
from pibot.settings import parts
from pibot.settings.environment import Environment
from pibot.settings.values import DEFAULT_PORT, AccessKey, GatewaySettings, LLMSettings, Secret, is_loopback

MIN_LEASE = 2.0
"""The shortest lease in seconds: the master asks a worker for signs of life in whole seconds."""


@dataclass(frozen=True)
class Settings:
    """The settings of the master, the workers and the command.

    ``pibot.settings.catalog`` lists their names in the environment; docs/settings.md says what each does.
    """

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
    show_reasoning: bool = False
    max_queued: int = 1000
    queue_mb: int = 100
    submit_per_minute: int = 600
    jobs_kept: int = 1000
    jobs_kept_days: int = 30
    jobs_mb: int = 200
    results_kept: int = 200
    results_ttl: float = 24 * 3600.0
    stop_grace: float = 20.0
    log_days: int = 14
    lease_seconds: float = 60.0
    no_worker_seconds: float = 24 * 3600.0
    replans: int = 2
    hot_celsius: float = 80.0
    min_memory_mb: int = 60
    demo_port: int = DEFAULT_PORT

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, directory: Path | None = None) -> Settings:
        """Read the settings from the environment and ``.env``.

        Args:
            environ: the environment; None for the process's own.
            directory: the folder of ``.env``, and the start of relative paths; None for the working directory.

        Raises:
            SettingsError: a value is wrong; the message names the variable.
        """
        directory = Path.cwd() if directory is None else directory
        env = Environment.read(os.environ if environ is None else environ, directory)
        defaults = cls()
        llm = parts.llm(env)
        hub_url = env.text("PIBOT_HUB_URL", defaults.hub_url).rstrip("/")
        api_key = env.key("PIBOT_API_KEY", shortest=1)  # keys from before SHORTEST_KEY keep working
        if _is_the_hubs(llm, hub_url, api_key):
            llm = dataclasses.replace(llm, proxy=None)  # the proxy is for providers, and not for the fleet's own hub
        tls_cert, tls_key = parts.own_certificate(env)
        return cls(
            llm=llm,
            gateway=parts.gateway(env, llm),
            worker_id=env.text("WORKER_ID", defaults.worker_id),
            workers=parts.workers(env),
            api_key=api_key,
            keys=parts.keys(env),
            worker_tokens=parts.worker_tokens(env, parts.WORKER_TOKEN),
            previous_api_key=env.secret("PIBOT_API_KEY_PREVIOUS"),
            previous_worker_tokens=parts.worker_tokens(env, parts.PREVIOUS_TOKEN),
            allow_open=env.flag("PIBOT_ALLOW_OPEN"),
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_ca=env.path("PIBOT_TLS_CA", None),
            hub_url=hub_url,
            join_hub=env.get("PIBOT_HUB_URL") is not None,
            data_dir=env.path("PIBOT_DATA_DIR", directory / "data"),
            log_dir=env.path("PIBOT_LOG_DIR", None),
            workspace_dir=env.path("PIBOT_WORKSPACE_DIR", directory / "workspace"),
            skills_dir=env.path("PIBOT_SKILLS_DIR", parts.bundled(directory, "skills")),
            worker_soul=parts.bundled(directory, "worker_soul.md"),
            soul=parts.bundled(directory, "soul.md"),
            sandbox=env.choice("PIBOT_SANDBOX", ("bwrap", "off"), defaults.sandbox),
            sandbox_socket=env.path("PIBOT_SANDBOX_SOCKET", None),
            network_skills=env.words("PIBOT_NETWORK_SKILLS"),
            approve=env.words("PIBOT_APPROVE"),
            approval_seconds=env.seconds("PIBOT_APPROVAL_SECONDS", defaults.approval_seconds),
            web_allow=env.words("PIBOT_WEB_ALLOW"),
            read_paths=parts.read_paths(env, directory),
            budget=parts.budget(env),
            show_reasoning=env.flag("PIBOT_SHOW_REASONING"),
            max_queued=env.integer("PIBOT_MAX_QUEUED", defaults.max_queued, minimum=1),
            queue_mb=env.integer("PIBOT_QUEUE_MB", defaults.queue_mb, minimum=1),
            submit_per_minute=env.integer("PIBOT_SUBMIT_PER_MINUTE", defaults.submit_per_minute, minimum=0),
            jobs_kept=env.integer("PIBOT_JOBS_KEPT", defaults.jobs_kept, minimum=1),
            jobs_kept_days=env.integer("PIBOT_JOBS_KEPT_DAYS", defaults.jobs_kept_days, minimum=1),
            jobs_mb=env.integer("PIBOT_JOBS_MB", defaults.jobs_mb, minimum=1),
            results_kept=env.integer("PIBOT_RESULTS_KEPT", defaults.results_kept, minimum=1),
            results_ttl=env.seconds("PIBOT_RESULTS_TTL", defaults.results_ttl),
            stop_grace=env.seconds("PIBOT_STOP_GRACE", defaults.stop_grace),
            log_days=env.integer("PIBOT_LOG_DAYS", defaults.log_days, minimum=1),
            lease_seconds=env.seconds("PIBOT_LEASE_SECONDS", defaults.lease_seconds, minimum=MIN_LEASE),
            no_worker_seconds=env.seconds("PIBOT_NO_WORKER_SECONDS", defaults.no_worker_seconds),
            replans=env.integer("PIBOT_REPLANS", defaults.replans, minimum=0),
            hot_celsius=env.seconds("PIBOT_HOT_CELSIUS", defaults.hot_celsius, unit="degrees"),
            min_memory_mb=env.integer("PIBOT_MIN_MEMORY_MB", defaults.min_memory_mb, minimum=0),
            demo_port=env.port("PIBOT_DEMO_PORT"),
        )

    def replace(self, **changes: Any) -> Settings:
        """Return a copy with some fields changed, for the command line's flags."""
        return dataclasses.replace(self, **changes)

    @property
    def scheme(self) -> str:
        """The scheme of this process's own server: ``http`` or ``https``."""
        return "http" if self.tls_cert is None else "https"

    @property
    def asks_hub_for_model(self) -> bool:
        """Whether model calls go to the fleet's hub and not to a provider on the internet."""
        return _is_the_hubs(self.llm, self.hub_url, self.api_key)

    def listen_host(self, wanted: str | None) -> str:
        """Return the address to listen on: all addresses with a key, loopback without one.

        Args:
            wanted: the address that the command line names; None for the default.

        Raises:
            SettingsError: ``wanted`` is beyond loopback, and neither PIBOT_API_KEY nor PIBOT_ALLOW_OPEN is set.
        """
        open_to_all = self.api_key is not None or self.allow_open
        host = wanted or ("0.0.0.0" if open_to_all else "127.0.0.1")  # nosec B104 # with a key, or the owner's word
        if open_to_all or is_loopback(host):
            return host
        raise SettingsError(
            f"refusing to listen on {host} without a key: anyone there could run commands. "
            "Set PIBOT_API_KEY, or PIBOT_ALLOW_OPEN=1 if that is what you want"
        )


def _is_the_hubs(llm: LLMSettings, hub_url: str, api_key: Secret | None) -> bool:
    """Whether the model is asked through the hub at ``hub_url``.

    A worker installed by the playbook knows no such address; it uses the same token for the hub and for the model.
    """
    return llm.base_url.startswith(f"{hub_url}/") or (api_key is not None and llm.api_key == api_key)
