"""The commands. Each imports what it needs when it runs, so that ``pibot --help`` starts fast."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import click

from pibot import __version__
from pibot.cli import parts
from pibot.cli.evaluation.command import evaluate
from pibot.cli.terminal import discard_output, flush, replace_unknown_characters, say, say_json
from pibot.errors import PibotError, SettingsError
from pibot.visible import one_line, printable_json

if TYPE_CHECKING:
    from pibot.cli.hub_client import HubClient
    from pibot.contracts import JsonObject

JOB_FAILED = 1
INTERRUPTED = 130

MAX_EXPLAINED = 5
"""How many unfinished jobs 'pibot jobs' explains: each takes a request."""

EPILOG = """\b
Exit codes:
  0    done; for 'run', the job completed
  1    the job failed or was cancelled; a task of an evaluation did not pass
  2    the command line or a setting is wrong
  3    the hub can't be reached, or can't serve now
  4    the hub refused the key
  5    the hub refused the request
  130  interrupted

Settings are read from the environment, and from .env in the working directory:
docs/settings.md lists them."""


class Command(click.Group):
    """Prints PiBot's errors as one line each, and exits with their code."""

    def invoke(self, ctx: click.Context) -> Any:
        replace_unknown_characters()
        try:
            result = super().invoke(ctx)
            flush()
            return result
        except BrokenPipeError:  # whoever read the output has enough of it, such as head
            discard_output()
            ctx.exit(0)
        except PibotError as exc:
            say(f"pibot: {one_line(exc)}", err=True)
            ctx.exit(getattr(exc, "exit_code", 2 if isinstance(exc, SettingsError) else JOB_FAILED))
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


@click.group(cls=Command, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pibot")
def main() -> None:
    """An LLM-agent fleet for Raspberry Pis: a master plans jobs, workers run them.

    \b
    Try it on this computer:     pibot demo
    Ask the fleet for something: pibot run "Report the system's temperature, memory and load"
    """


# --- asking the fleet -------------------------------------------------------


@main.command()
@click.argument("description")
@click.option(
    "--skills", help="Comma-separated skills: run the job as one step with these, without planning ('' for no skill)."
)
@click.option("--timeout", type=float, help="Seconds that the whole job may take.")
@click.option("--priority", type=int, default=0, show_default=True, help="-100 to 100; a higher one runs first.")
@click.option("--no-wait", is_flag=True, help="Print the job's id and exit, without waiting for the result.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and no progress.")
def run(
    description: str, skills: str | None, timeout: float | None, priority: int, no_wait: bool, as_json: bool
) -> None:
    """Give the fleet a job, wait for it, and print the answer.

    DESCRIPTION says what to do; '-' reads it from standard input. The answer goes to standard output, the progress to
    standard error. The job continues after Ctrl-C.

    \b
    pibot run "Download https://example.com and return the title"
    pibot run --skills shell_exec "List files in home directory"
    echo "What is the date?" | pibot run --json -
    """
    from pibot.cli.follow import follow, spent_line

    body: JsonObject = {"description": sys.stdin.read() if description == "-" else description, "priority": priority}
    if skills is not None:
        body["skills"] = [name.strip() for name in skills.split(",") if name.strip()]
    if timeout is not None:
        body["timeout"] = timeout
    hub = _hub()
    job_id = hub.post("/task", body)["job_id"]
    if no_wait:
        say(json.dumps({"job_id": job_id}) if as_json else job_id)
        return
    tell = _silent if as_json else _to_stderr
    try:
        tell(f"Job {job_id}")
        result = follow(hub, job_id, tell)
    except KeyboardInterrupt:
        say(f"\nThe job continues: 'pibot job {job_id}' shows it, 'pibot cancel {job_id}' ends it.", err=True)
        sys.exit(INTERRUPTED)
    if as_json:
        say_json(result)
    else:
        if result["output"]:
            say(result["output"])
        if result["status"] == "cancelled":
            say("pibot: the job was cancelled", err=True)
        elif not result["success"]:
            say(f"pibot: the job failed: {result.get('error')}", err=True)
        spent = spent_line(result)
        if spent:
            tell(spent)
    sys.exit(0 if result["success"] else JOB_FAILED)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def status(as_json: bool) -> None:
    """Show the hub, its model and its workers."""
    hub = _hub()
    health, workers, usage = hub.get("/health"), hub.get("/workers"), hub.get("/usage?days=1")
    if as_json:
        say_json({"hub": health, "workers": workers["workers"], "today": usage["today"]})
        return
    jobs = ", ".join(f"{number} {state}" for state, number in health["jobs"].items() if number) or "none yet"
    say(f"hub      {hub.settings.hub_url}, version {health['version']}")
    say(f"model    {health['model'] or 'none: set VOLC_API_KEY on the master'}")
    say(f"jobs     {jobs}")
    say(f"today    {_today(usage)}")
    for job_id in dict.fromkeys(approval["job_id"] for approval in hub.get("/approvals")["approvals"]):
        say(f"waits    for your approval: pibot approve {job_id}")
    if health.get("problem"):
        say(f"problem  {health['problem']}")
    if not workers["workers"]:
        say("workers  none: set WORKER_1_IP on the master, or PIBOT_HUB_URL on a worker")
    for worker in workers["workers"]:
        doing = "; ".join(filter(None, (worker["current_task"], worker["error"], *_notes(worker))))
        say(f"{worker['id']:<12} {worker['status']:<8} {worker['url']:<28} {one_line(doing)}".rstrip())


@main.command()
@click.option(
    "--status", "state", help="Show only jobs that are queued, planning, running, completed, failed or cancelled."
)
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="Show at most this many.")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def jobs(state: str | None, limit: int, as_json: bool) -> None:
    """List the jobs, newest first, and why some of them can't go on."""
    from pibot.cli.follow import waits_of

    hub, before = _hub(), None
    rows: list[JsonObject] = []
    while len(rows) < limit:  # a page may end before its number of jobs
        asked = {"limit": limit - len(rows), "status": state, "before": before}
        page = hub.get(f"/tasks?{urlencode({name: value for name, value in asked.items() if value})}")
        rows += page["tasks"]
        before = page.get("next")
        if before is None:
            break
    if as_json:
        say_json(rows)
        return
    if not rows:
        say('There are no jobs. Try: pibot run "…"')
    for row in rows:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["created_at"]))
        text = one_line(row["description"])
        state_now = "approve?" if row["waiting_for_approval"] else row["status"]
        say(f"{row['job_id']:<28} {state_now:<10} {when}  {text[:80]}")
    unfinished = [row for row in rows if row["status"] in ("queued", "planning", "running")]
    for row in unfinished[-MAX_EXPLAINED:]:  # the oldest, which come first
        for reason in waits_of(hub.get(f"/task/{quote(row['job_id'], safe='')}")["job"]):
            say(f"{row['job_id']} waits: {reason}")


@main.command()
@click.argument("job_id")
@click.option("--json", "as_json", is_flag=True, help="Print the job's record as JSON.")
def job(job_id: str, as_json: bool) -> None:
    """Show one job: its plan, its steps and its answer."""
    from pibot.cli.follow import job_lines

    record = _hub().get(f"/task/{quote(job_id, safe='')}")["job"]
    if as_json:
        say_json(record)
        return
    for line in job_lines(record):
        say(line)


@main.command()
@click.argument("job_id")
@click.option("--output", type=click.Path(dir_okay=False), help="Write to this file instead of standard output.")
def export(job_id: str, output: str | None) -> None:
    """Print everything stored about a job as JSON.

    That is its plan, steps, attempts with their errors, late results and events. The hub keeps running.

    \b
    pibot export job-20261124-081418-3f9a2c --output job.json
    """
    record = _hub().get(f"/task/{quote(job_id, safe='')}/export")
    if output is None:
        say_json(record)
        return
    try:
        Path(output).write_text(printable_json(record) + "\n", "utf-8")
    except OSError as exc:
        raise SettingsError(f"the job's record can't be written: {exc}; choose another --output") from exc


@main.command()
@click.argument("job_id")
def cancel(job_id: str) -> None:
    """Cancel a job, and its running tasks on the workers."""
    say(f"{job_id} {_hub().post(f'/task/{quote(job_id, safe=str())}/cancel')['status']}")


@main.command()
@click.argument("job_id")
@click.option("--refuse", is_flag=True, help="Refuse the calls; the model is told so and continues.")
@click.option("--reason", default="", help="Why you refuse, for the model.")
@click.option("--yes", is_flag=True, help="Decide about all of them without asking.")
def approve(job_id: str, refuse: bool, reason: str, yes: bool) -> None:
    """Approve or refuse the tool calls of a job that wait for you.

    Shows each call exactly as it would run. Your approval is for that call only.

    \b
    pibot approve job-20261124-081418-3f9a2c
    pibot approve job-20261124-081418-3f9a2c --refuse --reason "not on a weekday"
    """
    from pibot.cli.approving import approve_calls

    hub = _hub()
    record = hub.get(f"/task/{quote(job_id, safe='')}")["job"]
    if not approve_calls(hub, record, refuse=refuse, reason=reason, yes=yes):
        say(f"pibot: no call of {job_id} waits for approval; the job is {record['status']}", err=True)
        sys.exit(JOB_FAILED)


@main.command()
@click.argument("worker_id")
def drain(worker_id: str) -> None:
    """Give a worker no new tasks.

    It finishes the task that it runs; 'pibot status' shows when it is idle.
    """
    say(f"{worker_id} {_hub().post(f'/workers/{quote(worker_id, safe=str())}/drain')['status']}")


@main.command()
@click.argument("worker_id")
def undrain(worker_id: str) -> None:
    """Give a drained worker new tasks again."""
    say(f"{worker_id} {_hub().post(f'/workers/{quote(worker_id, safe=str())}/undrain')['status']}")


for command in (evaluate, parts.hub, parts.worker, parts.rehearsal, parts.demo):
    main.add_command(command)


def _today(usage: JsonObject) -> str:
    """Return today's tokens, model calls and cost, and what is left of the budget."""
    from pibot.cli.follow import counted

    today = usage["today"]
    cost = "" if today["cost"] is None else f", {today['cost']:g} {usage['currency']}".rstrip()
    left = "" if today["left"] is None else f", {today['left']:,} of {today['budget']:,} left"
    return f"{today['total_tokens']:,} tokens in {counted(today['llm_calls'], 'model call')}{cost}{left}"


def _notes(worker: JsonObject) -> list[str | None]:
    """Why a worker gets no task, for people."""
    until = worker.get("set_aside_until")
    return [
        "draining" if worker.get("draining") else None,
        worker.get("resting"),
        f"set aside until {time.strftime('%H:%M:%S', time.localtime(until))}" if until else None,
    ]


# --- helpers ----------------------------------------------------------------


def _hub() -> HubClient:
    from pibot.cli.hub_client import HubClient
    from pibot.settings import Settings

    return HubClient(Settings.load())


def _to_stderr(line: str) -> None:
    say(line, err=True)


def _silent(_: str) -> None:
    return None
