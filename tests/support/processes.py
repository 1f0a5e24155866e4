"""The product's own processes, started as a user starts them, for tests of the whole."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without anything that would set up PiBot, and ``more``."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not re.match(r"(PIBOT|WORKER|VOLC|OPENAI|MODEL)_|MODEL_NAME", name)
    }
    return {**kept, **more}


@dataclass
class Running:
    """A process that serves, and where.

    Attributes:
        process: it.
        port: where it listens, on 127.0.0.1.
        directory: its working directory.
    """

    process: subprocess.Popen[bytes]
    port: int
    directory: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def serving_process(
    directory: Path,
    arguments: list[str],
    environment: Mapping[str, str],
    *,
    port_pattern: str = r"listen=http://\S+:(\d+)",
) -> Iterator[Running]:
    """Run ``python -m …`` in ``directory`` until the block ends; its output goes to ``output.txt`` there.

    Args:
        arguments: after ``python``; it is told to listen on port 0.
        environment: all of it.
        port_pattern: finds the port in what it prints when it is ready.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "output.txt").open("wb") as copy:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=directory,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        try:
            port = _read_port(process.stdout, copy, port_pattern)
            drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=copy)
            process.stdout.close()
            yield Running(process, port, directory)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)
        drain.wait(10)


def _read_port(stdout: IO[bytes], copy: IO[bytes], pattern: str) -> int:
    seen = b""
    for line in stdout:
        seen += line
        copy.write(line)
        match = re.search(pattern, line.decode(errors="replace"))
        if match:
            copy.flush()
            return int(match.group(1))
    raise AssertionError(f"the process ended before it was ready; it printed:\n{seen.decode(errors='replace')}")


def processes_with(token: str) -> list[int]:
    """The processes on this machine, in whichever namespace, that have ``token`` in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if token.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
    return found
