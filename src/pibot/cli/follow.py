"""Follow a running job: one line of text for each change."""

from __future__ import annotations

import time
from typing import Any, Callable

from pibot.cli.hub_client import UNREACHABLE, HubClient, HubError
from pibot.contracts import Clock, JsonObject, NoWorkerKind
from pibot.visible import exact, one_line, printable, shown_call

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
"""Seconds to keep asking a hub that does not answer. A Pi restarts in less, and then continues its jobs."""

_WAITS_FOR_ITS_TURN = (NoWorkerKind.ALL_BUSY.value, NoWorkerKind.NEXT.value)
"""Kinds of ``waiting_for_kind`` that no owner has to do anything about."""


def follow(
    hub: HubClient,
    job_id: str,
    say: Callable[[str], None],
    *,
    watch: Callable[[JsonObject], None] = lambda _: None,
    patience: float = PATIENCE,
    clock: Clock = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> JsonObject:
    """Report each change of a job until it ends.

    Args:
        say: shows one line.
        watch: gets the job's record each time that it was read; raises what should end the following.
        patience: seconds without an answer before giving up.
        clock: monotonic seconds.
        pause: waits for a number of seconds before the next try.

    Returns:
        The job's result, as ``GET /task/<id>/result`` answers it.

    Raises:
        HubError: the hub refuses the request, or has not answered for ``patience`` seconds.
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
                say("The hub does not answer. The job continues when it is back; trying again …")
            silent = True
            pause(1.0)
            continue
        heard, silent = clock(), False
        for line in changes(job, seen):
            say(line)
        if status == 200:
            return result
        watch(job)


def changes(job: JsonObject, seen: dict[str, str]) -> list[str]:
    """Return a line for each change of ``job`` since the last call.

    Args:
        job: its record.
        seen: what was shown already; updated here.
    """
    lines = []
    waits = job.get("waiting_for")
    if waits and seen.get("planning") != waits:
        seen["planning"] = waits
        lines.append(f"Planning waits {printable(waits)}")
    plan = job.get("plan")
    if plan is not None and "plan" not in seen:
        seen["plan"] = "shown"
        lines += plan_lines(job)
    for change in job.get("plan_changes", ()):
        key = f"plan {change['version']}"
        if key not in seen:
            seen[key] = "shown"
            lines += change_lines(job, change)
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
    """Return two lines for each tool call that waits for approval and is not in ``seen``."""
    lines = []
    for approval in job.get("approvals", ()):
        key = f"approval {approval['approval_id']}"
        if approval["status"] == "waiting" and key not in seen:
            seen[key] = "shown"
            call = _short(f"{exact(approval['tool'])}: {shown_call(approval['arguments'])}")
            lines.append(f"  ? {approval['task_id']} waits for your approval of {call}")
            lines.append(f"    see it and decide: pibot approve {job['job_id']}")
    return lines


def lost_attempts(step: JsonObject, seen: dict[str, str]) -> list[str]:
    """Return a line for each failed attempt that is not in ``seen``."""
    lines = []
    for number, attempt in enumerate(step["attempts"], 1):
        key, error = f"{step['task_id']} attempt {number}", attempt.get("error")
        # A failed step shows the error of its last attempt itself.
        if error and key not in seen and error != step["error"]:
            seen[key] = "shown"
            lines.append(f"  ! {step['task_id']} attempt {number} was lost: {_short(error, 160)}")
    return lines


def waiting_for(step: JsonObject) -> str:
    """Return why no worker can run a ready step; empty if it only has to wait for its turn."""
    if step.get("waiting_for_kind") in _WAITS_FOR_ITS_TURN:
        return ""
    return printable(step.get("waiting_for") or "")


def waits_of(job: JsonObject) -> list[str]:
    """Return why a job can't go on now, each reason once; none if it can, or only waits for its turn."""
    planning = [printable(job["waiting_for"])] if job.get("waiting_for") else []
    return list(dict.fromkeys(planning + [why for why in map(waiting_for, job["subtasks"]) if why]))


def job_lines(job: JsonObject) -> list[str]:
    """Return the lines that show a job's record as it is now."""
    lines = [f"{job['job_id']} {job['status']}: {printable(job['description'])}"]
    if job.get("waiting_for"):
        lines.append(f"Planning waits {printable(job['waiting_for'])}")
    if job["plan"]:
        lines += plan_lines(job)
        for change in job.get("plan_changes", ()):
            lines += change_lines(job, change)
        for step in job["subtasks"]:
            waits = waiting_for(step)
            lines += [*lost_attempts(step, {}), step_line(step) + (f", waits: {waits}" if waits else "")]
    lines += waiting_calls(job, {})
    if job["error"]:
        lines.append(f"Error: {printable(job['error'])}")
    spent = spent_line(job)
    if spent:
        lines.append(f"Model: {spent}")
    if job["answer"]:
        lines.append(f"\n{printable(job['answer'])}")
    return lines


def plan_lines(job: JsonObject) -> list[str]:
    """Return the lines that show a job's plan."""
    plan = job["plan"]
    if plan["handle_locally"]:
        return ["The master answers this itself, without workers."]
    steps = _steps_of(job, 1)
    lines = [f"The plan ({plan['complexity']}): {counted(len(steps), 'step')}", *map(_planned_step, steps)]
    if plan["note"]:
        lines.append(f"  Note: {printable(plan['note'])}")
    return lines


def change_lines(job: JsonObject, change: JsonObject) -> list[str]:
    """Return the lines that show a further version of a job's plan."""
    steps = _steps_of(job, change["version"])
    why = printable(change["why"])
    lines = [
        f"Plan {change['version']} ({counted(len(steps), 'further step')}), since {why}",
        *map(_planned_step, steps),
    ]
    return lines + ([f"  Note: {printable(change['reasoning'])}"] if change["reasoning"] else [])


def _steps_of(job: JsonObject, version: int) -> list[JsonObject]:
    """Return the steps of one version of the plan. An older hub has one version."""
    return [step for step in job["subtasks"] if step.get("version", 1) == version]


def _planned_step(step: JsonObject) -> str:
    needs = f" — after {', '.join(step['depends_on'])}" if step["depends_on"] else ""
    return f"  {step['task_id']}: {_short(step['description'])} [{', '.join(step['skills']) or 'no skills'}]{needs}"


def step_line(step: JsonObject) -> str:
    """Return the line that shows the state of one step."""
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
    """Return an ended job's tokens, model calls and cost in words; empty without model calls."""
    usage = result.get("usage") or {}
    if not usage.get("total_tokens"):
        return ""
    cost = result.get("cost")
    priced = "" if cost is None else f", {cost:g} {printable(result.get('currency', ''))}".rstrip()
    return f"{usage['total_tokens']:,} tokens in {counted(usage.get('llm_calls', 0), 'model call')}{priced}"


def counted(number: int, noun: str) -> str:
    """Return the number with the noun, which gets an ``s`` if there is not exactly one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _short(text: Any, limit: int = 100) -> str:
    line = one_line(text)
    return line if len(line) <= limit else line[: limit - 1] + "…"
