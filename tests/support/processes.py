"""The product's processes, started as a user starts them."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Callable

ROOT = Path(__file__).resolve().parents[2]

READY_SECONDS = 120.0
"""How long a process may take until it serves, on a busy machine."""

NOWHERE = "http://127.0.0.1:9"
"""An address at which no hub listens."""


def clean_environment(**more: str) -> dict[str, str]:
    """Return this process's environment with ``more``, and without any setting of PiBot's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not re.match(r"(PIBOT|WORKER|VOLC|OPENAI|MODEL)_|MODEL_NAME", name)
    }
    return {**kept, **more}


class _Output:
    """Copies the output of a process to a file, and waits for a matching line.

    Args:
        printed: called after each line.
    """

    def __init__(self, stdout: IO[bytes], copy: Path, printed: Callable[[], object]) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._printed = printed
        self._thread = threading.Thread(target=self._read, args=(stdout, copy), daemon=True)
        self._thread.start()

    def wait_for(self, pattern: str, within: float) -> re.Match[str]:
        found: list[re.Match[str]] = []

        def is_there() -> bool:
            found.extend(filter(None, (re.search(pattern, line) for line in self._lines)))
            return bool(found) or self._ended

        with self._changed:
            self._changed.wait_for(is_there, within)
            printed = "".join(self._lines)
        assert found, f"within {within:g} s the process printed no line like {pattern!r}, but:\n{printed}"
        return found[0]

    def join(self) -> None:
        """Wait until everything is copied."""
        self._thread.join(10)
        assert not self._thread.is_alive(), "a process that was started by this one holds its output open"

    def _read(self, stdout: IO[bytes], copy: Path) -> None:
        with stdout, copy.open("wb") as file:
            for line in stdout:
                file.write(line)
                file.flush()
                with self._changed:
                    self._lines.append(line.decode(errors="replace"))
                    self._changed.notify_all()
                self._printed()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def pibot_command(*arguments: str, url: str = NOWHERE, key: str | None = None) -> tuple[list[str], dict[str, str]]:
    """Return the command line and environment of ``pibot`` for the hub at ``url``."""
    own = {"PIBOT_HUB_URL": url} if key is None else {"PIBOT_HUB_URL": url, "PIBOT_API_KEY": key}
    return [sys.executable, "-m", "pibot", *arguments], clean_environment(**own)


def pibot(
    *arguments: str, url: str = NOWHERE, key: str | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run ``pibot`` to its end."""
    argv, environment = pibot_command(*arguments, url=url, key=key)
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, env=environment, timeout=60)


@dataclass
class Running:
    """A process that serves.

    Attributes:
        process: for signals and its exit status.
        port: where it listens, on 127.0.0.1.
        directory: its working directory.
    """

    process: subprocess.Popen[bytes]
    port: int
    directory: Path
    _output: _Output

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_for_line(self, pattern: str, within: float = 60.0) -> None:
        """Wait until the process has printed a line in which this regular expression is found.

        Raises:
            AssertionError: it ended before, or ``within`` seconds are over.
        """
        self._output.wait_for(pattern, within)


@contextlib.contextmanager
def serving_process(
    directory: Path,
    arguments: list[str],
    environment: Mapping[str, str],
    *,
    port_pattern: str = r"listen=http://\S+:(\d+)",
    printed: Callable[[], object] = lambda: None,
) -> Iterator[Running]:
    """Run ``python …`` in ``directory`` until the block ends; its output goes to ``output.txt`` there.

    Args:
        arguments: after ``python``.
        environment: the whole of it.
        port_pattern: finds the port in the line that it prints when it is ready.
        printed: called after each line that it prints, in another thread.
    """
    directory.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=directory,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    output = _Output(process.stdout, directory / "output.txt", printed)
    try:
        port = int(output.wait_for(port_pattern, READY_SECONDS).group(1))
        yield Running(process, port, directory, output)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)
    output.join()


def processes_with(token: str) -> list[int]:
    """Return the ids of this machine's processes, of any namespace, that have ``token`` in their command line.

    While a process calls execve(2) its command line reads as empty, and a child of a process that ends meanwhile may be
    on neither side of a listing of /proc. So an empty command line is read again, and nothing is found only if two
    listings agree.
    """
    return _listed_with(token) or _listed_with(token)


def _listed_with(token: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if token.encode() in _command_line(folder):
                    found.append(int(folder.name))
    return found


def _command_line(folder: Path) -> bytes:
    for _ in range(1000):  # some program may have emptied its own for good
        line = (folder / "cmdline").read_bytes()
        if line or _has_none(folder):
            break
    return line


def _has_none(folder: Path) -> bool:
    """Return whether this is a process without a command line: one that has ended, or one of the kernel's own."""
    # pid (name) state parent group session tty foreground flags …; the name may hold anything, parentheses too.
    state, *_, flags = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:7]
    return state in (b"Z", b"X") or bool(int(flags) & _PF_KTHREAD)


_PF_KTHREAD = 0x00200000  # include/linux/sched.h
