"""Run a private Redis for the peers, on a free port of loopback and without files."""

from __future__ import annotations

import os
import shutil
import socket
from collections import Counter
from pathlib import Path

from benchmarks.processes import Process, Processes, free_port, wait_until


class RedisServer:
    """A running server.

    Args:
        processes: starts the server, and ends it.
        folder: the server's working directory.
    """

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        argv = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process: Process = processes.start("redis", argv, environ=os.environ, directory=folder)
        wait_until(self._answers, self._process)

    @staticmethod
    def installed() -> bool:
        return shutil.which("redis-server") is not None

    def flush(self) -> None:
        """Delete all keys."""
        self._command("FLUSHALL")

    def last_commands(self) -> Counter[str]:
        """Count the clients by their last command. An idle worker blocks in a known one."""
        lines = self._command("CLIENT LIST").splitlines()
        return Counter(field[4:] for line in lines for field in line.split() if field.startswith("cmd="))

    def _answers(self) -> bool:
        try:
            return self._command("PING").startswith("+PONG")
        except OSError:
            return False

    def _command(self, line: str) -> str:
        """Send one inline command and QUIT, and read until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(f"{line}\r\nQUIT\r\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode("utf-8", "replace")
