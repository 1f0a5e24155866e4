"""The sandbox service as systemd would start it: a process that is handed its listening socket."""

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

# Hands over the socket as descriptor 3, as sd_listen_fds(3) has it.
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
        runner: a client of it.
        process: its process.
        listener: the socket; it goes on when the process has ended, as systemd keeps it.
    """

    path: Path
    runner: RemoteSandbox
    process: subprocess.Popen[bytes]
    listener: socket.socket


@contextlib.contextmanager
def sandbox_service(
    folder: Path, workspaces: Path, *arguments: str, client: str | None = None, program: str = _HAND_OVER
) -> Iterator[Served]:
    """Start a service whose socket is in ``folder``, and end it."""
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
