"""A skill that does nothing, and notes that it was called."""

from __future__ import annotations

from chaos import runs
from pibot.contracts import ToolContext


def noop(context: ToolContext, job: str, step: str) -> str:
    """Do nothing.

    Args:
        job: the job.
        step: its step.
    """
    run_id = runs.begin(job, step, context.task_id)
    runs.end(run_id)
    return f"run {run_id}"
