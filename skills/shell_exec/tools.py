"""One tool: run a shell command, confined as this machine confines commands."""

from __future__ import annotations

import signal
from pathlib import Path

from pibot.contracts import CommandResult, ToolContext
from pibot.errors import ToolError

MAX_TIMEOUT = 600
"""Seconds that one command may run. The task's own time limit counts as well."""

_HINTS = {
    signal.SIGKILL: "killed, perhaps because memory ran out",
    signal.SIGXCPU: "it used up its processor time",
    signal.SIGXFSZ: "a file grew beyond the size allowed",
    signal.SIGSEGV: "it crashed, perhaps because memory ran out",
}


async def shell_exec(context: ToolContext, command: str, timeout: int = 60) -> str:
    """Run a shell command in the task's folder and return its exit code and its output (stdout and stderr).

    Args:
        command: the command line, for bash.
        timeout: seconds after which it is ended, with everything it started.
    """
    if not command.strip():
        raise ToolError("command is empty; give a shell command such as 'ls -la'")
    if "\0" in command:
        raise ToolError("command holds a NUL character, which no command line can; write it as \\0 for printf")
    if timeout < 1:
        raise ToolError(f"timeout must be 1 to {MAX_TIMEOUT} seconds, not {timeout}")
    seconds = min(timeout, MAX_TIMEOUT)
    result = await context.commands.run(
        [_shell(), "-c", command], workspace=context.workspace, timeout=seconds, network=context.network
    )
    return _answer(result, seconds)


def _shell() -> str:
    """Return the path of bash, since models write for it; else of sh."""
    return next((shell for shell in ("/bin/bash", "/usr/bin/bash") if Path(shell).exists()), "/bin/sh")


def _answer(result: CommandResult, seconds: float) -> str:
    lines = [f"exit code: {result.exit_code}"]
    output = result.output.rstrip("\n")
    if output:
        lines.append(output)
    elif not result.timed_out:
        lines.append("(no output)")
    if result.timed_out:
        lines.append(
            f"[ended after {seconds:g} seconds, before it was done; give a longer timeout, or do less at a time]"
        )
    elif result.exit_code < 0:
        lines.append(f"[ended by {_named(-result.exit_code)}]")
    elif result.exit_code == 127:
        lines.append("[127: a program was not found; use another one that is installed]")
    return "\n".join(lines)


def _named(number: int) -> str:
    """Return a signal's name, with its most likely cause."""
    try:
        name = signal.Signals(number)
    except ValueError:
        return f"signal {number}"
    hint = _HINTS.get(name)
    return f"{name.name}: {hint}" if hint else name.name
