"""Have the sandbox service run commands: another process of another user, behind a UNIX socket."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pibot.contracts import CommandResult
from pibot.errors import SandboxUnavailable, ToolError
from pibot.sandbox.wire import MAX_STDIN, BadMessage, encoded, read_message

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("pibot.sandbox")

ANSWER_SECONDS = 120.0
"""Seconds beyond a command's own time that the service may take to answer, its start included."""


class RemoteSandbox:
    """Has the sandbox service run commands. Where the service can't be reached, none is run.

    Args:
        socket: the service's socket.
        workspaces: the parent of the tasks' folders. The service knows it too, so a request names a folder without it.
        slack: seconds beyond a command's own time that the service may take to answer, and seconds that it may take to
            end a withdrawn command.
    """

    def __init__(self, socket: Path, workspaces: Path, *, slack: float = ANSWER_SECONDS) -> None:
        self._socket = socket
        self._slack = slack
        self._workspaces = workspaces

    async def run(
        self, argv: Sequence[str], *, workspace: Path, timeout: float, stdin: bytes = b"", network: bool = False
    ) -> CommandResult:
        """Run a command; see :class:`~pibot.contracts.CommandRunner`.

        Raises:
            ToolError: among others, the service ended meanwhile; what the command did before that stays done.
        """
        if len(stdin) > MAX_STDIN:
            raise ToolError(f"a command can be given {MAX_STDIN} bytes to read, not {len(stdin)}; put them into a file")
        request = {"do": "run", "argv": list(argv), "timeout": timeout, "network": network, "stdin": len(stdin)}
        return CommandResult(**await self._ask(request, workspace, timeout + self._slack, stdin))

    async def clear(self, workspace: Path) -> None:
        """Have the service remove what commands left in ``workspace``, since this process is another user.

        Raises:
            ToolError: the service could not be reached, or ended meanwhile.
        """
        await self._ask({"do": "clear"}, workspace, self._slack)

    async def _ask(
        self, request: dict[str, Any], workspace: Path, timeout: float, stdin: bytes = b""
    ) -> dict[str, Any]:
        """Send one request and return its answer. No process of it is left afterwards, unless the service is stuck."""
        import asyncio

        from pibot.sandbox.process import run_to_end

        if workspace.parent != self._workspaces:
            raise SandboxUnavailable(f"commands run in a task's folder in {self._workspaces} only, not in {workspace}")
        try:
            message = encoded({**request, "workspace": workspace.name})
        except BadMessage as exc:
            raise ToolError(f"the command is too long: {exc}") from exc
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError as exc:
            raise SandboxUnavailable(
                f"commands can't be confined, so none is run: the sandbox service can't be reached at {self._socket} "
                f"({exc.strerror or exc}). To fix it, run 'sudo systemctl restart pibot-sandbox.socket'"
            ) from exc
        try:
            writer.write(message)
            writer.write(stdin)
            answer = await asyncio.wait_for(read_message(reader), timeout)
        except (ConnectionError, asyncio.IncompleteReadError) as exc:
            raise ToolError(
                "the sandbox service ended while the command ran, and the command with it; what the command did before "
                "that stays. Try again; 'journalctl -u pibot-sandbox' on the worker may say why"
            ) from exc
        except asyncio.TimeoutError as exc:
            raise ToolError("the sandbox service did not answer; restart pibot-sandbox.service on the worker") from exc
        except BadMessage as exc:
            raise ToolError(f"the sandbox service answered with {exc}; update PiBot on the worker") from exc
        finally:
            await run_to_end(_withdraw(reader, writer, self._slack))
        return _result(answer)


async def _withdraw(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Withdraw the request if it still runs, and wait until the service has ended its processes."""
    import asyncio
    import contextlib

    async def closed() -> None:  # the service closes when no process of the request is left
        while await reader.read(65536):
            pass

    # On any error the connection is gone, and then the service ends the command by itself.
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()
    try:
        with contextlib.suppress(OSError):
            await asyncio.wait_for(closed(), seconds)
    except asyncio.TimeoutError:  # waiting on would block every later task until somebody notices
        log.error("sandbox_stuck: the sandbox service did not end a command in %g s; restart pibot-sandbox", seconds)
    writer.close()


def _result(answer: dict[str, Any]) -> dict[str, Any]:
    error = answer.get("error")
    if error is None:
        result: dict[str, Any] = answer["result"]
        return result
    raise (ToolError if error["kind"] == "tool" else SandboxUnavailable)(error["message"])
