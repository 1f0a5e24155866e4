"""Shows a job's way while it goes: one line for each change."""

from __future__ import annotations

from typing import Any, Callable

from pibot.cli.hub_client import HubClient
from pibot.contracts import JsonObject

MARKS = {
    "completed": "✓",
    "failed": "✗",
    "cancelled": "–",
    "skipped": "–",
    "leased": "▸",
    "ready": "·",
    "waiting": "·",
}


def follow(hub: HubClient, job_id: str, say: Callable[[str], None]) -> JsonObject:
    """Say what changes in a job until it has ended.

    Args:
        say: shows one line.

    Returns:
        The job's result, as the hub's ``GET /task/<id>/result`` has it.

    Raises:
        HubError: the hub can't be asked.
    """
    seen: dict[str, str] = {}
    while True:
        status, result = hub.request("GET", f"/task/{job_id}/result", wait=1)
        for line in changes(hub.get(f"/task/{job_id}")["job"], seen):
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
        now = f"{step['status']} {len(step['attempts'])}"
        if step["status"] in ("ready", "waiting") or seen.get(step["task_id"]) == now:
            continue
        seen[step["task_id"]] = now
        lines.append(step_line(step))
    return lines


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
        lines.append(f"  Note: {plan['note']}")
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


def _short(text: Any, limit: int = 100) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
