"""Run the sandbox service as systemd does: as a process that inherits its listening socket."""

from __future__ import annotations

import contextlib
import getpass
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pibot.sandbox.remote import RemoteSandbox

# Passes the socket as descriptor 3, as sd_listen_fds(3) describes.
_HAND_OVER = """
import os, sys
fd = int(sys.argv[1])
os.dup2(fd, 3) if fd != 3 else os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-I", "-m", "pibot.sandbox.service", *sys.argv[2:]])
"""


@dataclass(frozen=True)
class Served:
    """A running service.

    Args:
        path: of its socket.
        runner: a client of the service.
        process: the service's process.
        listener: the socket, which stays open after the process has ended, as systemd's does.
    """

    path: Path
    runner: RemoteSandbox
    process: subprocess.Popen[bytes]
    listener: socket.socket


@contextlib.contextmanager
def sandbox_service(
    folder: Path, workspaces: Path, *arguments: str, client: str | None = None, program: str = _HAND_OVER
) -> Iterator[Served]:
    """Run a service with its socket in ``folder`` until the block ends."""
    path = folder / "sandbox.socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        options = ["--workspaces", str(workspaces), "--client", client or getpass.getuser(), *arguments]
        command = [sys.executable, "-c", program, str(listener.fileno()), *options]
        process = subprocess.Popen(command, pass_fds=[listener.fileno()])
        try:
            yield Served(path, RemoteSandbox(path, workspaces), process, listener)
        finally:
            process.terminate()
            process.wait()
