"""Commands run by the sandbox service, another process of another user, behind a UNIX socket."""

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
"""Seconds beyond a command's own time in which the service must have answered; its start is among them."""


class RemoteSandbox:
    """Has commands run by the sandbox service, and not at all where it can't be reached.

    Args:
        socket: where the service listens.
        workspaces: the folder that holds the tasks' own; the service knows it too, and is told bare names.
        slack: seconds beyond a command's own in which the service must have answered; then again, in which it must
            have ended a command that was taken back.
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
            ToolError: also where the service ended meanwhile; what the command did until then stays done.
        """
        if len(stdin) > MAX_STDIN:
            raise ToolError(f"a command can be given {MAX_STDIN} bytes to read, not {len(stdin)}; put them into a file")
        request = {"do": "run", "argv": list(argv), "timeout": timeout, "network": network, "stdin": len(stdin)}
        return CommandResult(**await self._ask(request, workspace, timeout + self._slack, stdin))

    async def clear(self, workspace: Path) -> None:
        """Remove what commands have left in ``workspace`` and this process can't, being another user.

        Raises:
            ToolError: the service could not be reached, or ended meanwhile.
        """
        await self._ask({"do": "clear"}, workspace, self._slack)

    async def _ask(
        self, request: dict[str, Any], workspace: Path, timeout: float, stdin: bytes = b""
    ) -> dict[str, Any]:
        """The service's answer to one request. No process of it is left afterwards, unless the service is stuck."""
        import asyncio

        from pibot.sandbox.child import to_its_end

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
                f"({exc.strerror or exc}). To mend it, run 'sudo systemctl restart pibot-sandbox.socket'"
            ) from exc
        try:
            writer.write(message)
            writer.write(stdin)
            answer = await asyncio.wait_for(read_message(reader), timeout)
        except (ConnectionError, asyncio.IncompleteReadError) as exc:
            raise ToolError(
                "the sandbox service ended while the command ran, and the command with it; what it had done by then "
                "stays. Try again; 'journalctl -u pibot-sandbox' on the worker may say why"
            ) from exc
        except asyncio.TimeoutError as exc:
            raise ToolError("the sandbox service did not answer; restart pibot-sandbox.service on the worker") from exc
        except BadMessage as exc:
            raise ToolError(f"the sandbox service answered with {exc}; update PiBot on the worker") from exc
        finally:
            await to_its_end(_take_back(reader, writer, self._slack))
        return _result(answer)


async def _take_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """End the request, if it has not ended: the service closes when no process of it is left."""
    import asyncio
    import contextlib

    async def closed() -> None:
        while await reader.read(65536):
            pass

    # Whichever error it is, the connection is gone, and then the service ends the command by itself.
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()
    try:
        with contextlib.suppress(OSError):
            await asyncio.wait_for(closed(), seconds)
    except asyncio.TimeoutError:  # a worker that waited on would take no other task until somebody looks
        log.error("sandbox_stuck: the sandbox service did not end a command in %g s; restart pibot-sandbox", seconds)
    writer.close()


def _result(answer: dict[str, Any]) -> dict[str, Any]:
    error = answer.get("error")
    if error is None:
        result: dict[str, Any] = answer["result"]
        return result
    raise (ToolError if error["kind"] == "tool" else SandboxUnavailable)(error["message"])
