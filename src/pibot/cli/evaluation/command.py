"""The command ``pibot eval``."""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pibot.cli.terminal import say, say_json

if TYPE_CHECKING:
    from pibot.cli.evaluation.pages import PageServer
    from pibot.cli.evaluation.runs import Evaluation, Run
    from pibot.cli.evaluation.tasks import Task
    from pibot.cli.hub_client import HubClient

ALL_PASSED, NOT_ALL_PASSED, INTERRUPTED = 0, 1, 130

TIMEOUT = 300.0
"""Seconds that one task may take by default. A small model at home takes minutes."""


@click.command("eval")
@click.option("--only", multiple=True, metavar="NAME", help="Run this task; may be given several times.")
@click.option("--repeat", type=click.IntRange(1, 100), default=1, show_default=True, help="Run each task so often.")
@click.option("--budget", type=click.IntRange(1), help="Stop when this many tokens are spent.")
@click.option(
    "--timeout", type=click.FloatRange(1, 86400), default=TIMEOUT, show_default=True, help="Seconds for each task."
)
@click.option("--model", help="Refuse to start unless this is the fleet's model (MODEL_NAME on the master).")
@click.option("--page-host", metavar="HOST[:PORT]", help="This computer's address for the tasks with web pages.")
@click.option("--tasks", type=click.Path(path_type=Path), help="A folder with your own tasks, instead of PiBot's.")
@click.option("--list", "only_list", is_flag=True, help="List the tasks and run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and no table.")
def evaluate(
    only: tuple[str, ...],
    repeat: int,
    budget: int | None,
    timeout: float,
    model: str | None,
    page_host: str | None,
    tasks: Path | None,
    only_list: bool,
    as_json: bool,
) -> None:
    """Try the fleet's model with small tasks, and say which it passes and what that costs.

    The tasks run as jobs of this fleet, one after the other, and are checked without a model. Ctrl-C cancels the one
    that runs.

    \b
    pibot eval --budget 200000
    pibot eval --only command --repeat 5
    pibot eval --json > small-model.json
    """
    from pibot.cli.evaluation.tasks import chosen, read_tasks

    wanted = chosen(read_tasks(tasks), only)
    if only_list:
        width = max(len(task.name) for task in wanted)
        for task in wanted:
            say(f"{task.name:<{width}}  {task.about}")
        return
    with contextlib.ExitStack() as stack:
        pages = _pages(page_host, stack)
        hub = _hub()
        fleet = _fleet(hub, model)
        from pibot.cli.evaluation.runs import Evaluation

        evaluation = Evaluation(
            hub, pages=pages, skills=fleet.skills, timeout=timeout, budget=budget, rng=secrets.SystemRandom()
        )
        code = _evaluate(evaluation, wanted, repeat, fleet, as_json=as_json)
    sys.exit(code)


@dataclass(frozen=True)
class _Fleet:
    """What the hub says of itself and its workers. ``skills`` is None as long as a worker has not told its own."""

    url: str
    version: str
    model: str
    currency: str
    skills: frozenset[str] | None


def _fleet(hub: HubClient, model: str | None) -> _Fleet:
    """Ask the hub whether it can run the tasks.

    Args:
        model: the model that it must have; None for any.

    Raises:
        HubError: it is no hub, has another model or none, or no worker.
    """
    from pibot.cli.hub_client import HUB_ERROR, UNREACHABLE, HubError

    url, health = hub.settings.hub_url, hub.get("/health")
    if health.get("role") != "master":
        raise HubError(f"{url} is no PiBot hub; set PIBOT_HUB_URL to the hub's address", HUB_ERROR)
    if not health.get("model"):
        raise HubError("the hub has no model: set VOLC_API_KEY on the master", UNREACHABLE)
    if model is not None and health["model"] != model:
        raise HubError(
            f"the fleet's model is {health['model']}, not {model}: set MODEL_NAME on the master, restart the hub, and "
            "run this again",
            HUB_ERROR,
        )
    workers = [one for one in hub.get("/workers")["workers"] if one["status"] != "offline"]
    if not workers:
        raise HubError("no worker answers the hub; 'pibot status' says why", UNREACHABLE)
    told = [one["skills"] for one in workers]
    skills = None if None in told else frozenset(skill for names in told for skill in names)
    return _Fleet(url, health["version"], health["model"], hub.get("/usage?days=1")["currency"], skills)


def _evaluate(evaluation: Evaluation, tasks: Sequence[Task], repeat: int, fleet: _Fleet, *, as_json: bool) -> int:
    """Run the tasks, and show each when it is done, and the total; return the exit code.

    Raises:
        HubError: the hub can't be reached any more, or refuses a job. What was run is shown.
    """
    from pibot.cli.evaluation import report
    from pibot.cli.evaluation.runs import Outcome

    width = max(len(task.name) for task in tasks)
    done: list[Run] = []
    told: set[str] = set()
    interrupted = False
    if not as_json:
        say(report.heading(width, fleet.currency))
    try:
        for task in tasks:
            first = len(done)
            for run in evaluation.runs(task, repeat):
                done.append(run)
            if not as_json:
                for line in report.task_lines(task, done[first:], width, told):
                    say(line)
    except KeyboardInterrupt:
        interrupted = True
        say("pibot: interrupted; the running job was cancelled", err=True)
    finally:
        if as_json:
            say_json({**_about(fleet), "total": report.total_json(done), "runs": [*map(report.run_json, done)]})
        else:
            for line in report.total_lines(done, fleet.model, fleet.currency):
                say(line)
    if interrupted:
        return INTERRUPTED
    skipped_or_passed = all(run.outcome in (Outcome.PASSED, Outcome.SKIPPED) for run in done)
    return ALL_PASSED if skipped_or_passed and any(run.outcome is Outcome.PASSED for run in done) else NOT_ALL_PASSED


def _about(fleet: _Fleet) -> dict[str, str]:
    return {"hub": fleet.url, "version": fleet.version, "model": fleet.model, "currency": fleet.currency}


def _pages(page_host: str | None, stack: contextlib.ExitStack) -> PageServer | None:
    if page_host is None:
        return None
    from pibot.cli.evaluation.pages import PageServer, host_and_port

    return stack.enter_context(PageServer(*host_and_port(page_host)))


def _hub() -> HubClient:
    from pibot.cli.hub_client import HubClient
    from pibot.settings import Settings

    return HubClient(Settings.load())
