"""Puts a worker together from its settings, and runs it until it is told to stop."""

from __future__ import annotations

import argparse
import logging
import sys

from pibot import __version__, logs
from pibot.background import BackgroundLoop
from pibot.errors import SettingsError
from pibot.logs import event
from pibot.secrecy import keep_memory_private
from pibot.settings import DEFAULT_PORT, Settings
from pibot.tls import MASTER, server_tls
from pibot.worker.approvals import WorkerApprovals
from pibot.worker.executor import TaskExecutor

log = logging.getLogger("pibot.worker")


def run_worker(settings: Settings, *, host: str | None = None, port: int = DEFAULT_PORT) -> None:
    """Run a worker until SIGTERM or SIGINT.

    Args:
        settings: all of it; see :class:`~pibot.settings.Settings`.
        host: the address to listen on; None for :meth:`Settings.listen_host`'s choice.
        port: where to listen.

    Raises:
        SettingsError: something is set wrong, or the port is taken.
    """
    from pibot import web
    from pibot.tool_registry import Policy, SkillLibrary
    from pibot.worker.agents import create_task_agents
    from pibot.worker.api import create_worker_app
    from pibot.worker.joining import Joining

    logs.configure("worker", settings.log_dir)
    address = settings.listen_host(host)
    policy = Policy(frozenset(settings.network_skills), frozenset(settings.approve))
    library = SkillLibrary(settings.skills_dir, policy)
    if settings.sandbox == "off":
        log.warning("PIBOT_SANDBOX=off: commands that the model picks run without confinement, as this user")
    for name in library.unknown(settings.approve):
        log.warning("PIBOT_APPROVE names %s, which is no skill and no tool of one here: nothing waits for it", name)
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
    app = create_worker_app(executor, library, settings)

    joining: list[Joining] = []

    def ready(bound_port: int) -> None:
        if settings.join_hub:
            joining.append(Joining(settings, address, bound_port))
            joining[0].start()
        event(
            log,
            "worker_ready",
            worker=settings.worker_id,
            version=__version__,
            listen=f"{settings.scheme}://{address}:{bound_port}",
            model=settings.llm.model,
            skills=",".join(library.names()),
            sandbox=settings.sandbox,
            key="set" if settings.api_key else "none",
        )

    def stop() -> None:
        for hub in joining:
            hub.leave()
        executor.stop(settings.stop_grace)

    # With its own certificate the worker is asked for its health by its own machine.
    handshake = server_tls(settings, peers={MASTER, settings.worker_id})
    web.serve(app, host=address, port=port, stop=stop, ready=ready, handshake=handshake)
    loop.run(agents.close()).result()
    loop.stop()


def main(argv: list[str] | None = None) -> int:
    """Start a worker from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pibot.worker_task_executor", description="Run a PiBot worker.")
    parser.add_argument("--host", help="address to listen on (default: all with PIBOT_API_KEY set, else loopback)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port to listen on (default: %(default)s)")
    parser.add_argument("--worker-id", help="this worker's name (default: WORKER_ID, else worker-1)")
    arguments = parser.parse_args(argv)
    keep_memory_private()
    try:
        settings = Settings.load()
        if arguments.worker_id:
            settings = settings.replace(worker_id=arguments.worker_id)
        run_worker(settings, host=arguments.host, port=arguments.port)
    except SettingsError as exc:
        print(f"pibot worker: {exc}", file=sys.stderr)  # noqa: T201  # the command's own output
        return 2
    return 0
