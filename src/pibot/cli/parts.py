"""The commands that are a part of the fleet: the hub, a worker, the offline model, and all of them for a demo."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pibot.settings import Settings


class Port(click.IntRange):
    """A port in ASCII digits; Python reads those of any script."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and not value.isascii():
            self.fail(f"{value!r} is no port", param, ctx)
        return super().convert(value, param, ctx)


@click.command()
@click.option("--host", help="Address to listen on. Default: all of them if PIBOT_API_KEY is set, otherwise loopback.")
@click.option("--port", type=Port(0, 65535), default=5000, show_default=True, help="Port; 0 for any free one.")
def hub(host: str | None, port: int) -> None:
    """Run the master: API, planner, job queue and dashboard."""
    from pibot.master_hub import run_hub
    from pibot.secrecy import keep_memory_private

    keep_memory_private()
    run_hub(_settings(), host, port)


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> None:
    """Run a worker, which runs one task at a time."""
    # Its options are defined there: a worker that starts without this command does not import click.
    from pibot.worker.process import start_worker

    start_worker(list(arguments), "pibot worker")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=Port(0, 65535), default=5009, show_default=True, help="Port; 0 for any free one.")
def rehearsal(host: str, port: int) -> None:
    """Run the offline model, for trying things out without a key.

    It answers a real model's protocol by fixed rules; it is no AI.

    \b
    Settings for a worker and a hub that use it:
      VOLC_API_KEY=rehearsal VOLC_BASE_URL=http://127.0.0.1:5009/v1 MODEL_NAME=pibot-rehearsal-not-an-ai
    """
    from pibot.rehearsal import run_rehearsal

    run_rehearsal(host, port)


@click.command()
@click.option("--once", is_flag=True, help="End after the job, with code 0 if it succeeded.")
def demo(once: bool) -> None:
    """Run a whole fleet on this computer with an example job."""
    from pibot.cli.demo import run_demo

    sys.exit(run_demo(_settings(), once=once))


def _settings() -> Settings:
    from pibot.settings import Settings

    return Settings.load()
