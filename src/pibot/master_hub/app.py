"""The hub's Flask app and its process."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from pibot import __version__, logs, web
from pibot.logs import event
from pibot.master_hub.access import LOG_IN, SubmitLimit, for_templates, shut, to_log_in
from pibot.master_hub.api import WAITING_PLACES, create_api_blueprint
from pibot.master_hub.gateway.routes import create_gateway_blueprint
from pibot.master_hub.login import create_login_blueprint
from pibot.master_hub.pages.routes import create_dashboard_blueprint
from pibot.master_hub.service import HubService
from pibot.settings import DEFAULT_PORT, Settings, is_loopback
from pibot.tls import server_tls

if TYPE_CHECKING:
    from flask import Flask

log = logging.getLogger("pibot.hub")

MAX_BODY = 8 * 1024 * 1024
"""Bytes of a conversation for the gateway: 200,000 tokens of Chinese, escaped as JSON does it, are about 2 MB."""

FREE_THREADS = 8
"""Threads of the server beyond those that may be held by waiting requests and by calls of the gateway."""


def create_hub_app(service: HubService, settings: Settings) -> Flask:
    """Make the hub's app.

    Args:
        service: does the work; it must have been started.
        settings: for the key.
    """
    keys = web.KeyRing.of_hub(settings)
    sessions = None if keys is None else web.Sessions(keys, settings.data_dir / "sessions.json")
    attempts = web.Attempts()
    submitting = SubmitLimit(settings.submit_per_minute)
    app = web.create_app(
        "pibot.master_hub",
        keys=keys,
        open_paths=("/health", "/openapi.json", LOG_IN),
        open_endpoints=("dashboard.static",),
        log_in=None if sessions is None else web.LogIn(sessions, to_log_in),
        attempts=attempts,
        max_body=MAX_BODY,
        certified_workers=settings.tls_cert is not None and settings.tls_ca is not None,
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.after_request(shut)
    app.context_processor(for_templates)
    app.register_blueprint(create_login_blueprint(sessions, attempts))
    app.register_blueprint(create_api_blueprint(service, submitting))
    app.register_blueprint(create_dashboard_blueprint(service, submitting))
    app.register_blueprint(create_gateway_blueprint(service.gateway, settings.llm.model))
    return app


def hub_threads(service: HubService) -> int:
    """How many threads the server needs so that ``/health`` always finds one."""
    return WAITING_PLACES + service.gateway_places + FREE_THREADS


def run_hub(settings: Settings, host: str | None = None, port: int = DEFAULT_PORT) -> None:
    """Run the hub until SIGTERM or SIGINT.

    Args:
        settings: all of it; see :class:`~pibot.settings.Settings`.
        host: the address to listen on; None for :meth:`Settings.listen_host`'s choice.
        port: where to listen.

    Raises:
        SettingsError: something is set wrong, or the port is taken.
        StoreError: the job database can't be used.
    """
    address = settings.listen_host(host)
    logs.configure("master", settings.log_dir, days=settings.log_days)
    service = HubService(settings)

    def ready(bound_port: int) -> None:
        service.start()
        event(
            log,
            "hub_ready",
            version=__version__,
            listen=f"{address}:{bound_port}",
            model=service.model or "none",
            workers=len(settings.workers),
            sandbox=settings.sandbox,
            key="set" if settings.api_key else "none",
        )
        if service.model_problem:
            event(log, "no_model", level=logging.WARNING, problem=service.model_problem)
        sys.stdout.write(ready_line(service, address, bound_port) + "\n")
        sys.stdout.flush()

    try:
        web.serve(
            create_hub_app(service, settings),
            host=address,
            port=port,
            stop=service.stop,
            ready=ready,
            threads=hub_threads(service),
            handshake=server_tls(settings, peers=None),
        )
    finally:
        service.close()


def ready_line(service: HubService, host: str, port: int) -> str:
    """What the owner wants to know once the hub is there, on one line."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") or is_loopback(host) else host  # nosec B104 # compared, not bound
    shown = f"[{shown}]" if ":" in shown else shown
    known = ", ".join(w.address.worker_id for w in service.workers()) or "none: set WORKER_1_IP"
    model = service.model or f"none: {service.model_problem}"
    url = f"{service.settings.scheme}://{shown}:{port}/dashboard"
    return f"PiBot hub {__version__} is ready: {url} · model {model} · workers {known}"
