"""Show the runs: a row for each task, and a total."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pibot.cli.evaluation.runs import Outcome, Run
from pibot.cli.evaluation.tasks import Task
from pibot.cli.follow import counted
from pibot.contracts import JsonObject
from pibot.visible import one_line

MARKS = {Outcome.PASSED: "✓", Outcome.FAILED: "✗", Outcome.SKIPPED: "–", Outcome.STOPPED: "–"}

SHOWN_CHARS = 160
"""Characters of an answer that the table shows."""


def heading(width: int, currency: str) -> str:
    """Return the table's heading.

    Args:
        width: of the column with the tasks' names.
        currency: the owner's; may be empty.
    """
    return _row("", "task".ljust(width), "passed", "steps", "calls", "tokens", currency or "cost", "seconds")


def task_lines(task: Task, runs: Sequence[Run], width: int, told: set[str]) -> list[str]:
    """Return a task's row, whose figures are means of its runs, and why runs did not pass.

    Args:
        width: of the column with the tasks' names.
        told: why earlier runs had no job; such a reason is shown once. The reasons of these runs are added.
    """
    tried = [run for run in runs if run.job_id]
    passed = sum(run.outcome is Outcome.PASSED for run in runs)
    worst = max((run.outcome for run in runs), key=list(Outcome).index)
    mark = MARKS[Outcome.FAILED if any(run.outcome is Outcome.FAILED for run in runs) else worst]
    costs = [run.cost for run in tried if run.cost is not None]
    row = _row(
        mark,
        task.name.ljust(width),
        f"{passed}/{len(runs)}" if len(runs) > 1 else worst.value,
        *(_mean([getattr(run, name) for run in tried]) for name in ("steps", "calls", "tokens")),
        _mean(costs, 4),
        _mean([run.seconds for run in tried], 1),
    )
    return [row, *(line for run in runs if run.reason for line in _why(run, len(runs), told))]


def total_lines(runs: Sequence[Run], model: str, currency: str) -> list[str]:
    """Return the total of all runs, and which models answered if they are not ``model`` alone."""
    total = total_json(runs)
    parts = [f"{total[outcome.value]} {outcome.value}" for outcome in Outcome if total[outcome.value]]
    cost = "" if total["cost"] is None else f", {total['cost']:g} {currency}".rstrip()
    spent = f"{total['tokens']:,} tokens in {counted(total['calls'], 'model call')}{cost}, {total['seconds']:.1f} s"
    lines = [f"{model}: {', '.join(parts) or 'nothing was run'} of {counted(len(runs), 'run')}; {spent}"]
    if set(total["models"]) - {model}:
        shares = ", ".join(f"{name} {counted(calls, 'call')}" for name, calls in sorted(total["models"].items()))
        lines.append(f"More than one model answered, so this is no measure of one alone: {shares}")
    return lines


def total_json(runs: Iterable[Run]) -> JsonObject:
    """Return the total of all runs for programs."""
    runs = list(runs)
    costs = [run.cost for run in runs if run.cost is not None]
    models: dict[str, int] = {}
    for run in runs:
        for name, calls in run.models.items():
            models[name] = models.get(name, 0) + calls
    return {
        "runs": len(runs),
        **{outcome.value: sum(run.outcome is outcome for run in runs) for outcome in Outcome},
        "steps": sum(run.steps for run in runs),
        "calls": sum(run.calls for run in runs),
        "tokens": sum(run.tokens for run in runs),
        "cost": round(sum(costs), 6) if costs else None,
        "seconds": round(sum(run.seconds for run in runs), 3),
        "models": models,
    }


def run_json(run: Run) -> JsonObject:
    """Return one run for programs."""
    return {
        "task": run.task,
        "run": run.number,
        "outcome": run.outcome.value,
        "reason": run.reason,
        "answer": run.answer,
        "job_id": run.job_id,
        "steps": run.steps,
        "calls": run.calls,
        "tokens": run.tokens,
        "cost": run.cost,
        "seconds": round(run.seconds, 3),
        "models": dict(run.models),
    }


def _why(run: Run, runs: int, told: set[str]) -> list[str]:
    """Return why a run did not pass, and what the fleet answered."""
    which = f"run {run.number}: " if runs > 1 else ""
    if not run.job_id:
        if run.reason in told:
            return []
        told.add(run.reason)
        return [f"    {which}{run.reason}"]
    answer = one_line(run.answer)
    shown = answer if len(answer) <= SHOWN_CHARS else f"{answer[:SHOWN_CHARS]}…"
    return [f"    {which}{run.reason} (pibot job {run.job_id})", f"      it answered: {shown or 'nothing'}"]


def _row(*cells: str) -> str:
    mark, name, passed, steps, calls, tokens, cost, seconds = cells
    return f"{mark:1} {name}  {passed:8} {steps:>5} {calls:>5} {tokens:>8} {cost:>9} {seconds:>8}".rstrip()


def _mean(numbers: Sequence[Any], digits: int = 0) -> str:
    return f"{sum(numbers) / len(numbers):,.{digits}f}" if numbers else "–"
