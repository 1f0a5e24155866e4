"""Build the hub's Flask app, and run it as a process."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from pibot import __version__, logs, web
from pibot.logs import event
from pibot.master_hub.access import LOG_IN, RateLimit, for_templates, shut, to_log_in
from pibot.master_hub.api import WAITING_PLACES, create_api_blueprint
from pibot.master_hub.gateway.routes import create_gateway_blueprint
from pibot.master_hub.login import create_login_blueprint
from pibot.master_hub.pages.data import PageData
from pibot.master_hub.pages.routes import create_dashboard_blueprint
from pibot.master_hub.service import HubService
from pibot.settings import DEFAULT_PORT, Settings, is_loopback
from pibot.tls import server_tls

if TYPE_CHECKING:
    from flask import Flask

log = logging.getLogger("pibot.hub")

MAX_BODY = 8 * 1024 * 1024
"""Bytes of a request, which may be a conversation for the gateway: 200,000 tokens of Chinese, escaped as in JSON, are
about 2 MB."""

FREE_THREADS = 8
"""Threads of the server beyond those that waiting requests and model calls may hold."""


def create_hub_app(hub: HubService, settings: Settings) -> Flask:
    """Make the hub's app.

    Args:
        hub: the started hub.
        settings: name the keys, the certificates and the limit on submitted jobs.
    """
    keys = web.KeyRing.of_hub(settings)
    sessions = None if keys is None else web.Sessions(keys, settings.data_dir / "sessions.json")
    guesses = web.KeyGuesses()
    submitting = RateLimit(settings.submit_per_minute)
    app = web.create_app(
        "pibot.master_hub",
        keys=keys,
        open_paths=("/health", "/openapi.json", LOG_IN),
        open_endpoints=("dashboard.static",),
        log_in=None if sessions is None else web.LogIn(sessions, to_log_in),
        guesses=guesses,
        max_body=MAX_BODY,
        certified_workers=settings.tls_cert is not None and settings.tls_ca is not None,
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.after_request(shut)
    app.context_processor(for_templates)
    app.register_blueprint(create_login_blueprint(sessions, guesses))
    app.register_blueprint(create_api_blueprint(hub, submitting))
    app.register_blueprint(create_dashboard_blueprint(_page_data(hub), hub.jobs, hub.skills, submitting))
    model = settings.llm.model
    app.register_blueprint(create_gateway_blueprint(hub.gateway, model, settings.gateway.models_beside(model)))
    return app


def _page_data(hub: HubService) -> PageData:
    return PageData(
        store=hub.store,
        pool=hub.pool,
        jobs=hub.jobs,
        spending=hub.spending,
        settings=hub.settings,
        model=hub.model,
        model_problem=hub.model_problem,
        resting=hub.gateway.resting,
        uptime=hub.uptime,
    )


def hub_threads(hub: HubService) -> int:
    """Return how many threads the server needs so that ``/health`` always finds a free one."""
    return WAITING_PLACES + hub.gateway_places + FREE_THREADS


def run_hub(settings: Settings, host: str | None = None, port: int = DEFAULT_PORT) -> None:
    """Run the hub until SIGTERM or SIGINT.

    Args:
        settings: all settings.
        host: the address to listen on; None leaves it to :meth:`Settings.listen_host`.
        port: the port to listen on.

    Raises:
        SettingsError: a setting is wrong, or the port is taken.
        StoreError: the job database can't be used.
    """
    address = settings.listen_host(host)
    logs.configure("master", settings.log_dir, days=settings.log_days)
    hub = HubService(settings)

    def ready(bound_port: int) -> None:
        hub.start()
        event(
            log,
            "hub_ready",
            version=__version__,
            listen=f"{address}:{bound_port}",
            model=hub.model or "none",
            workers=len(settings.workers),
            sandbox=settings.sandbox,
            key="set" if settings.api_key else "none",
        )
        if hub.model_problem:
            event(log, "no_model", level=logging.WARNING, problem=hub.model_problem)
        sys.stdout.write(ready_line(hub, address, bound_port) + "\n")
        sys.stdout.flush()

    try:
        web.serve(
            create_hub_app(hub, settings),
            host=address,
            port=port,
            stop=hub.stop,
            ready=ready,
            threads=hub_threads(hub),
            handshake=server_tls(settings, peers=None),
        )
    finally:
        hub.close()


def ready_line(hub: HubService, host: str, port: int) -> str:
    """Return the line that tells the owner that the hub is ready: its page, its model and its workers."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") or is_loopback(host) else host  # nosec B104 # compared, not bound
    shown = f"[{shown}]" if ":" in shown else shown
    known = ", ".join(w.address.worker_id for w in hub.pool.statuses()) or "none: set WORKER_1_IP"
    model = hub.model or f"none: {hub.model_problem}"
    url = f"{hub.settings.scheme}://{shown}:{port}/dashboard"
    return f"PiBot hub {__version__} is ready: {url} · model {model} · workers {known}"
