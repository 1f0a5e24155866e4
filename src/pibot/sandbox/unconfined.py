"""Run commands as the worker's own user, for an owner who set PIBOT_SANDBOX=off: limited, but not confined."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pibot.contracts import CommandResult
from pibot.errors import ToolError
from pibot.sandbox.limits import COMMAND_ENVIRONMENT, DEFAULT_COMMAND_LIMITS, CommandLimits, tasks_of
from pibot.sandbox.pipes import Output, Pipe
from pibot.sandbox.process import CommandProcess, supervise

_SUPERVISOR = Path(__file__).resolve().with_name("supervisor.py")


class Unconfined:
    """Runs commands with resource limits and a :mod:`~pibot.sandbox.supervisor`, which ends the whole process tree.

    A command can read and write what this user can, and reach the network. A hostile one can also kill its supervisor
    and this process.

    Args:
        limits: the limits of each command.
    """

    def __init__(self, limits: CommandLimits = DEFAULT_COMMAND_LIMITS) -> None:
        self._limits = limits

    async def run(
        self, argv: Sequence[str], *, workspace: Path, timeout: float, stdin: bytes = b"", network: bool = False
    ) -> CommandResult:
        """Run a command; see :class:`~pibot.contracts.CommandRunner`. It has the network whatever ``network`` says."""
        output = Output(self._limits.output_chars)
        # The kernel counts all processes of the user; this limit is for those that the command adds.
        limits = self._limits.rlimits(others=tasks_of(os.geteuid()) + 1)
        with contextlib.ExitStack() as fds:
            status = Pipe(fds)
            start = [sys.executable, "-I", "-S", str(_SUPERVISOR), str(os.getpid()), str(status.write_end)]
            try:
                child = CommandProcess(
                    [*start, json.dumps(limits), *argv],
                    env={**COMMAND_ENVIRONMENT, "HOME": str(workspace)},
                    cwd=workspace,
                    stdin=stdin,
                    pass_fds=(status.write_end,),
                    output=output,
                    flood_bytes=self._limits.flood_bytes,
                )
            except (OSError, ValueError) as exc:
                # Of this one start: too long, a NUL in it, a workspace that is gone, too many processes.
                raise ToolError(f"the command can't be started: {exc}") from exc

            async def end() -> None:
                child.signal(signal.SIGTERM)
                child.signal(signal.SIGCONT)  # the command may have stopped it
                await child.ended

            timed_out = await supervise(child, timeout=timeout, begin=status.close_write_end, end=end)
            account: dict[str, Any] = json.loads(status.read_rest() or "{}")
        text, truncated = output.text()
        if "error" in account:
            raise ToolError(f"{argv[0]} can't be started: {account['error']}")
        if "exit-code" not in account and child.exit_code >= 0:
            raise ToolError(f"the command can't be run: its supervisor failed: {text.strip()}")
        flooded = child.flooded.done()
        code = -signal.SIGKILL if timed_out or flooded else account.get("exit-code", child.exit_code)
        return CommandResult(code, text, truncated or flooded, timed_out)
