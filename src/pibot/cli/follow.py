"""Shows a job's way while it goes: one line for each change."""

from __future__ import annotations

import re
import time
from typing import Any, Callable

from pibot.cli.hub_client import UNREACHABLE, HubClient, HubError
from pibot.contracts import Clock, JsonObject, shown_call

MARKS = {
    "completed": "✓",
    "failed": "✗",
    "cancelled": "–",
    "skipped": "–",
    "leased": "▸",
    "ready": "·",
    "waiting": "·",
}


PATIENCE = 180.0
"""Seconds. A Pi restarts in less, and its jobs go on then."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: object) -> str:
    """``text`` without what would steer the terminal: a model or a web page may have written it."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", str(text).replace("\r\n", "\n"))


def follow(
    hub: HubClient,
    job_id: str,
    say: Callable[[str], None],
    *,
    patience: float = PATIENCE,
    clock: Clock = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> JsonObject:
    """Say what changes in a job until it has ended.

    Args:
        say: shows one line.
        patience: seconds without an answer after which the hub is given up.
        clock: seconds, for how long the hub has been silent.
        pause: waits that many seconds before the hub is asked again.

    Returns:
        The job's result, as the hub's ``GET /task/<id>/result`` has it.

    Raises:
        HubError: the hub refuses, or has not answered for ``patience``.
    """
    seen: dict[str, str] = {}
    heard, silent = clock(), False
    while True:
        try:
            status, result = hub.request("GET", f"/task/{job_id}/result", wait=1)
            job = hub.get(f"/task/{job_id}")["job"]
        except HubError as error:
            if error.exit_code != UNREACHABLE or clock() - heard > patience:
                raise
            if not silent:
                say("The hub does not answer; the job goes on once it is back. Asking again …")
            silent = True
            pause(1.0)
            continue
        heard, silent = clock(), False
        for line in changes(job, seen):
            say(line)
        if status == 200:
            return result


def changes(job: JsonObject, seen: dict[str, str]) -> list[str]:
    """The lines for what is new in ``job`` since ``seen``, which is brought up to date."""
    lines = []
    plan = job.get("plan")
    if plan is not None and "plan" not in seen:
        seen["plan"] = "shown"
        lines += plan_lines(job)
    for step in job.get("subtasks", ()):
        lines += lost_attempts(step, seen)
        now = f"{step['status']} {len(step['attempts'])}"
        if step["status"] == "ready":
            now = waiting_for(step)
        if not now or step["status"] == "waiting" or seen.get(step["task_id"]) == now:
            continue
        seen[step["task_id"]] = now
        lines.append(
            f"  {MARKS['ready']} {step['task_id']} waits: {now}" if step["status"] == "ready" else step_line(step)
        )
    return lines + waiting_calls(job, seen)


def waiting_calls(job: JsonObject, seen: dict[str, str]) -> list[str]:
    """A line for each call that waits for the owner, once."""
    lines = []
    for approval in job.get("approvals", ()):
        key = f"approval {approval['approval_id']}"
        if approval["status"] == "waiting" and key not in seen:
            seen[key] = "shown"
            call = _short(f"{approval['tool']}: {shown_call(approval['arguments'])}")
            lines.append(f"  ? {approval['task_id']} waits for your approval of {call}")
            lines.append(f"    look at it and decide: pibot approve {job['job_id']}")
    return lines


def lost_attempts(step: JsonObject, seen: dict[str, str]) -> list[str]:
    """A line for each attempt that came to nothing, once."""
    lines = []
    for number, attempt in enumerate(step["attempts"], 1):
        key, error = f"{step['task_id']} attempt {number}", attempt.get("error")
        # The last one's error is the step's own where the step has ended.
        if error and key not in seen and error != step["error"]:
            seen[key] = "shown"
            lines.append(f"  ! {step['task_id']} attempt {number} was lost: {_short(error, 160)}")
    return lines


def waiting_for(step: JsonObject) -> str:
    """Why a step can't be run now; empty where it is only others' turn, or the reason changes with each second."""
    reason = printable(step.get("waiting_for") or "")
    if reason in ("every worker is busy", "a worker is free: its turn is next"):
        return ""
    return re.sub(r"set aside for \d+ s", "set aside", reason)


def plan_lines(job: JsonObject) -> list[str]:
    """What the planner made of a job."""
    plan = job["plan"]
    if plan["handle_locally"]:
        return ["The master answers this by itself."]
    steps = plan["subtasks"]
    lines = [f"The plan ({plan['complexity']}): {len(steps)} step{'' if len(steps) == 1 else 's'}"]
    for step in steps:
        needs = f" — after {', '.join(step['depends_on'])}" if step["depends_on"] else ""
        lines.append(
            f"  {step['task_id']}: {_short(step['description'])} [{', '.join(step['skills']) or 'no skills'}]{needs}"
        )
    if plan["note"]:
        lines.append(f"  Note: {printable(plan['note'])}")
    return lines


def step_line(step: JsonObject) -> str:
    """Where one step is."""
    mark = MARKS.get(step["status"], "?")
    where = f" on {step['worker_id']}" if step["worker_id"] else ""
    tries = f" (attempt {len(step['attempts'])})" if len(step["attempts"]) > 1 else ""
    status = "running" if step["status"] == "leased" else step["status"]
    line = f"  {mark} {step['task_id']} {status}{where}{tries}"
    if step["error"]:
        line += f": {_short(step['error'])}"
    elif step["status"] == "completed" and step["output"]:
        line += f": {_short(step['output'])}"
    return line


def spent_line(result: JsonObject) -> str:
    """What an ended job's models were asked for; empty where they were not."""
    usage = result.get("usage") or {}
    if not usage.get("total_tokens"):
        return ""
    cost = result.get("cost")
    priced = "" if cost is None else f", {cost:g} {printable(result.get('currency', ''))}".rstrip()
    return f"{usage['total_tokens']:,} tokens in {usage.get('llm_calls', 0)} calls{priced}"


def _short(text: Any, limit: int = 100) -> str:
    line = " ".join(printable(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
