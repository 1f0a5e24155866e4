"""A skill that sleeps in a process of its own, which must not be left over."""

from __future__ import annotations

import os

from chaos import runs
from pibot.contracts import ToolContext
from pibot.errors import ToolError


async def slow(context: ToolContext, job: str, step: str, seconds: float) -> str:
    """Sleep in a command.

    Args:
        job: the job.
        step: its step.
        seconds: how long.
    """
    run_id = runs.begin(job, step, context.task_id)
    # Commands get a fresh environment, so the shell carries the mark in its command line, and sets it for its child.
    script = f'{runs.MARK}="$0" sleep {seconds:g} & wait'
    command = ["/bin/sh", "-c", script, os.environ[runs.MARK]]
    result = await context.commands.run(command, workspace=context.workspace, timeout=seconds + 30)
    if result.exit_code != 0:
        raise ToolError(f"the command ended with {result.exit_code}: {result.output}")
    runs.end(run_id)
    return f"run {run_id}"
