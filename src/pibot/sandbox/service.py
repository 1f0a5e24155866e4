"""The sandbox service, which runs a worker's commands as another user, one without secrets.

``python -I -m pibot.sandbox.service --workspaces FOLDER --client USER``. systemd starts it when the worker connects to
its socket (sd_listen_fds(3)). It ends after a while without work, so that it costs nothing when idle. It takes commands
from that one user, for folders directly below that one folder, and runs them under bubblewrap.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import os
import pwd
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pibot.contracts import CommandRunner
from pibot.errors import SandboxUnavailable, ToolError
from pibot.sandbox import ReadablePath, create_command_runner
from pibot.sandbox.sharing import OPEN_FOLDER, open_to_group, take_ownership
from pibot.sandbox.wire import MAX_STDIN, BadMessage, encoded, read_message

log = logging.getLogger("pibot.sandbox")

DEFAULT_IDLE = 60.0
"""Seconds without work after which the service ends."""

REQUEST_SECONDS = 60.0
"""Seconds within which the whole request must arrive."""

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_CREDENTIALS = struct.Struct("3i")


# docs/decisions.md, D49, D51
class SandboxService:
    """Accepts connections and runs the command of each, until it had no work for a while.

    Args:
        runner: confines and runs the commands.
        workspaces: the parent of the tasks' folders; the service's own user must not be able to write to it.
        client: the id of the only user whose commands it runs.
        network: whether a command may have the network.
        idle: seconds without work after which :meth:`run` returns.
    """

    def __init__(self, runner: CommandRunner, workspaces: Path, client: int, *, network: bool, idle: float) -> None:
        self._runner = runner
        self._workspaces = workspaces
        self._client = client
        self._network = network
        self._idle_seconds = idle
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self, listener: socket.socket) -> None:
        """Serve until there was no work for a while or the caller is cancelled. No command is left when it returns."""
        loop = asyncio.get_running_loop()
        idle = self._idle = loop.create_future()
        listener.setblocking(False)
        self._wait_for_work()
        loop.add_reader(listener, self._accept, listener)
        try:
            await idle
        finally:
            loop.remove_reader(listener)
            for task in self._connections:
                task.cancel()
            if self._connections:
                await asyncio.wait(self._connections)

    def _wait_for_work(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._enough)

    def _enough(self) -> None:
        if not self._idle.done():
            self._idle.set_result(None)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        # The timer stops before anything else: an accepted connection is always served. One that was not accepted
        # waits in the socket for the next service.
        self._timer.cancel()
        task = asyncio.ensure_future(self._serve_connection(connection))
        self._connections.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, connection: asyncio.Task[None]) -> None:
        self._connections.discard(connection)
        if not connection.cancelled() and connection.exception() is not None:
            log.error("connection_broke", exc_info=connection.exception())
        if not self._connections:
            self._wait_for_work()

    async def _serve_connection(self, connection: socket.socket) -> None:
        """Serve one connection. Its end ends the command; when this side closes it, no process is left."""
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        try:
            answer = self._refusal(connection) or await self._answer(reader)
            if answer is not None:
                writer.write(encoded(answer))
                await writer.drain()
        except ConnectionError:
            pass  # the worker is gone, and its command with it
        finally:
            writer.close()

    def _refusal(self, connection: socket.socket) -> dict[str, Any] | None:
        packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, _ = _CREDENTIALS.unpack(packed)
        if user == self._client:
            return None
        log.warning("refused user=%s: this service runs commands of user %s alone", user, self._client)
        return _error("unavailable", f"user {user} may not have commands run by this sandbox service")

    async def _answer(self, reader: asyncio.StreamReader) -> dict[str, Any] | None:
        """Run the request and return its answer; None if the worker withdrew it."""
        try:
            request = await asyncio.wait_for(read_message(reader), REQUEST_SECONDS)
            stdin = await asyncio.wait_for(reader.readexactly(_size(request)), REQUEST_SECONDS)
            work = asyncio.ensure_future(self._do(request, stdin))
        except asyncio.IncompleteReadError:
            return None
        except (BadMessage, asyncio.TimeoutError) as exc:
            return _error("refused", str(exc) or f"the whole request did not arrive within {REQUEST_SECONDS:g} seconds")
        # The worker sends nothing more, so a readable connection means that it was closed.
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
        return None if work.cancelled() else work.result()

    async def _do(self, request: Mapping[str, Any], stdin: bytes) -> dict[str, Any]:
        try:
            kind, name = request["do"], request["workspace"]
            if kind == "run":
                return await self._run_command(name, request, stdin)
            if kind == "clear":
                await asyncio.get_running_loop().run_in_executor(None, self._clear, name)
                return {"result": {}}
            raise BadMessage(f"'do' must be run or clear, not {kind!r}")
        except SandboxUnavailable as exc:
            return _error("unavailable", str(exc))
        except ToolError as exc:
            return _error("tool", str(exc))
        except (BadMessage, KeyError, TypeError, ValueError) as exc:
            return _error("refused", f"{type(exc).__name__}: {exc}")
        except Exception as exc:  # a defect: logged, and the service goes on
            log.error("command_broke", exc_info=exc)
            return _error("tool", f"a defect in the sandbox service: {type(exc).__name__}: {exc}")

    async def _run_command(self, name: str, request: Mapping[str, Any], stdin: bytes) -> dict[str, Any]:
        network = bool(request["network"])
        if network and not self._network:
            raise ToolError(
                "commands have no network on this machine; its owner can give it with pibot_sandbox_network: true"
            )
        argv = [str(argument) for argument in request["argv"]]
        with contextlib.closing(_Folder(self._workspaces, name)) as folder:
            take_ownership(folder.fd)
            try:
                result = await self._runner.run(
                    argv, workspace=folder.path, timeout=float(request["timeout"]), stdin=stdin, network=network
                )
            finally:
                open_to_group(folder.fd)
        return {"result": asdict(result)}

    def _clear(self, name: str) -> None:
        """Remove the content of a task's folder, as far as this user can."""
        with contextlib.closing(_Folder(self._workspaces, name)) as folder:
            path = str(folder.path)
            for command in (["chmod", "-R", "u+rwx", path], ["find", path, "-mindepth", "1", "-delete"]):
                subprocess.run(command, stderr=subprocess.DEVNULL, check=False)  # nosec B603 # no shell; a task's folder


class _Folder:
    """A task's folder, opened by its bare name: it can be none but one directly below ``workspaces``.

    Raises:
        BadMessage: there is no such folder.
        ToolError: it can't be opened now.
    """

    def __init__(self, workspaces: Path, name: str) -> None:
        if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
            raise BadMessage(f"{name!r} is not the name of a task's folder")
        self.path = workspaces / name
        try:
            self.fd = os.open(self.path, OPEN_FOLDER)
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise BadMessage(f"there is no folder {name!r} in {workspaces}: {exc.strerror}") from exc
            # A command can cause that, as by 'chmod 000' of its workspace.
            raise ToolError(f"the folder {name!r} in {workspaces} can't be opened: {exc.strerror}") from exc

    def close(self) -> None:
        os.close(self.fd)


def _size(request: Mapping[str, Any]) -> int:
    size = request.get("stdin", 0)
    if not isinstance(size, int) or not 0 <= size <= MAX_STDIN:
        raise BadMessage(f"stdin must have up to {MAX_STDIN} bytes, not {size!r}")
    return size


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message}}


# --- the process ------------------------------------------------------------


def listener(environ: Mapping[str, str]) -> socket.socket:
    """Return the socket that systemd hands over; see sd_listen_fds(3).

    Raises:
        SandboxUnavailable: there is none.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()) or environ.get("LISTEN_FDS") != "1":
        raise SandboxUnavailable("systemd starts the sandbox service, through pibot-sandbox.socket; start that")
    if not stat.S_ISSOCK(os.fstat(_FIRST_FD).st_mode):
        raise SandboxUnavailable("systemd handed over something that is not a socket; check pibot-sandbox.socket")
    os.set_inheritable(_FIRST_FD, False)
    return socket.socket(fileno=_FIRST_FD)


async def _serve(service: SandboxService, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(service.run(sock))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def _readable_path(pair: str) -> ReadablePath:
    source, _, path = pair.partition(":")
    return ReadablePath(Path(path), Path(source))


def main(argv: list[str] | None = None) -> int:
    """Serve until there is no more work, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pibot.sandbox.service", description="Run a worker's commands.")
    parser.add_argument("--workspaces", type=Path, required=True, help="the parent of the tasks' folders")
    parser.add_argument("--client", required=True, help="the only user whose commands it runs")
    parser.add_argument(
        "--read", action="append", default=[], metavar="SOURCE:PATH", help="a path that commands may read"
    )
    parser.add_argument("--network", action="store_true", help="a command may have the network")
    parser.add_argument("--idle", type=float, default=DEFAULT_IDLE, help="seconds without work after which it ends")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    try:
        client = pwd.getpwnam(arguments.client).pw_uid
        sock = listener(os.environ)
    except KeyError:
        log.error("there is no user %s", arguments.client)
        return 2
    except SandboxUnavailable as exc:
        log.error("%s", exc)
        return 2
    runner = create_command_runner("bwrap", readable=[_readable_path(pair) for pair in arguments.read])
    service = SandboxService(runner, arguments.workspaces, client, network=arguments.network, idle=arguments.idle)
    asyncio.run(_serve(service, sock))
    return 0


if __name__ == "__main__":
    sys.exit(main())
