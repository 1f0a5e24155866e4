"""Put a worker together from its settings and run it until a signal stops it."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from pibot import __version__, logs
from pibot.background import BackgroundLoop
from pibot.errors import SettingsError
from pibot.logs import event
from pibot.secrecy import keep_memory_private
from pibot.settings import DEFAULT_PORT, Settings
from pibot.tls import MASTER, server_tls
from pibot.visible import printable
from pibot.worker.approvals import WorkerApprovals
from pibot.worker.executor import TaskExecutor

if TYPE_CHECKING:
    from pibot.tool_registry import SkillLibrary
    from pibot.worker.joining import Joining

log = logging.getLogger("pibot.worker")


def run_worker(settings: Settings, *, host: str | None = None, port: int = DEFAULT_PORT) -> None:
    """Run a worker until SIGTERM or SIGINT.

    Args:
        settings: the worker's settings.
        host: the address to listen on; None lets :meth:`Settings.listen_host` choose.
        port: the port to listen on; 0 for a free one.

    Raises:
        SettingsError: a setting is wrong, or the port is taken.
    """
    from pibot import web
    from pibot.tool_registry import Policy, SkillLibrary
    from pibot.worker.agents import create_task_agents
    from pibot.worker.api import create_worker_app
    from pibot.worker.joining import Joining
    from pibot.worker.proofs import AddressProofs

    logs.configure("worker", settings.log_dir)
    address = settings.listen_host(host)
    policy = Policy(frozenset(settings.network_skills), frozenset(settings.approve))
    library = SkillLibrary(settings.skills_dir, policy)
    library.check_policy()
    _warn_of_settings(settings)
    approvals = WorkerApprovals(settings.approval_seconds)
    agents = create_task_agents(settings, library, approvals)
    loop = BackgroundLoop()
    executor = TaskExecutor(
        settings.worker_id,
        agents,
        loop,
        results_kept=settings.results_kept,
        results_ttl=settings.results_ttl,
        approvals=approvals,
    )
    joining: Joining | None = None
    proofs = AddressProofs(settings) if settings.join_hub else None

    def ready(bound_port: int) -> None:
        nonlocal joining
        if settings.join_hub:
            joining = Joining(settings, address, bound_port, proofs)
            joining.start()
        _log_ready(settings, library, f"{settings.scheme}://{address}:{bound_port}")

    def stop() -> None:
        if joining is not None:
            joining.leave()
        executor.stop(settings.stop_grace)

    # The worker's own name is allowed too: its own machine asks for its health with its own certificate.
    handshake = server_tls(settings, peers={MASTER, settings.worker_id})
    app = create_worker_app(executor, library, settings, proofs)
    web.serve(app, host=address, port=port, stop=stop, ready=ready, handshake=handshake)
    loop.run(agents.close()).result()
    loop.stop()


def start_worker(argv: list[str] | None, prog: str) -> None:
    """Run a worker as a command line says.

    Its options are defined here only, for ``pibot worker`` too. With argparse: click would cost each worker memory.

    Args:
        argv: the arguments; None for those of the process.
        prog: the command's name in the help and in errors.

    Raises:
        SettingsError: a setting is wrong, or the port is taken.
        SystemExit: the help was asked for, or an argument is wrong.
    """
    parser = argparse.ArgumentParser(prog=prog, description="Run a worker.")
    parser.add_argument(
        "--host", help="address to listen on (default: all if PIBOT_API_KEY is set, otherwise loopback)"
    )
    parser.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, help="port to listen on, 0 for any free one (default: %(default)s)"
    )
    parser.add_argument("--worker-id", help="this worker's name (default: WORKER_ID, else worker-1)")
    arguments = parser.parse_args(argv)
    keep_memory_private()
    settings = Settings.load()
    if arguments.worker_id:
        settings = settings.replace(worker_id=arguments.worker_id)
    run_worker(settings, host=arguments.host, port=arguments.port)


def main(argv: list[str] | None = None) -> int:
    """Run a worker as ``python -m pibot.worker_task_executor``, and return the exit code."""
    try:
        start_worker(argv, "python -m pibot.worker_task_executor")
    except SettingsError as exc:
        print(f"pibot worker: {printable(exc)}", file=sys.stderr)  # noqa: T201  # the command's own output
        return 2
    return 0


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a port from 0 to 65535, not {text!r}")
    return int(text)


def _warn_of_settings(settings: Settings) -> None:
    if settings.sandbox == "off":
        log.warning("PIBOT_SANDBOX=off: commands that the model picks run without confinement, as this user")


def _log_ready(settings: Settings, library: SkillLibrary, url: str) -> None:
    event(
        log,
        "worker_ready",
        worker=settings.worker_id,
        version=__version__,
        listen=url,
        model=settings.llm.model,
        skills=",".join(library.names()),
        sandbox=settings.sandbox,
        key="set" if settings.api_key else "none",
    )
