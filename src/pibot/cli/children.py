"""The demo's child processes: start them, wait until they are ready, and end them with their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO

from pibot.errors import PibotError

READY = re.compile(r"_ready .*?listen=(?:http://)?[^\s:]+:(\d+)")

READY_SECONDS = 60.0
STOP_SECONDS = 30.0
KEEPER_SECONDS = 5.0

PR_SET_PDEATHSIG = 1
"""From ``linux/prctl.h``: sets the signal that the kernel sends a process when its parent dies, even by SIGKILL."""

_OWN_NAMES = re.compile(r"(PIBOT|WORKER|VOLC|OPENAI)_|MODEL_NAME\Z")


# Removes the folder once every process has closed the other end of its standard input.
_KEEPER = "import shutil, sys; sys.stdin.buffer.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"


class Scratch:
    """A temporary folder that is removed when the last process holding it has ended, even by SIGKILL.

    Args:
        prefix: the start of the folder's name.
    """

    def __init__(self, prefix: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._keeper = subprocess.Popen(  # nosec B603 # no shell; this Python runs the program above
            [sys.executable, "-I", "-S", "-c", _KEEPER, str(self.path)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # a signal to the demo's process group does not reach it
        )

    @property
    def hold(self) -> int:
        """A file descriptor. The folder stays for as long as any process has it open."""
        assert self._keeper.stdin is not None
        return self._keeper.stdin.fileno()

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        with contextlib.suppress(
            subprocess.TimeoutExpired
        ):  # another process still holds it; the keeper waits for that
            self._keeper.wait(KEEPER_SECONDS)


class Child:
    """Run ``python -m pibot …`` in a folder of its own, which also holds its log.

    Args:
        scratch: gets the folder.
        name: of the folder, and of the process in messages.
        arguments: after ``pibot``.
        settings: its PiBot settings; it inherits none of the parent's.
    """

    def __init__(self, scratch: Scratch, name: str, arguments: list[str], settings: Mapping[str, str]) -> None:
        folder = scratch.path / name
        folder.mkdir()
        self._name = name
        self._log = folder / "output.log"
        self._port: int | None = None
        self._decided = threading.Event()
        inherited = {name: value for name, value in os.environ.items() if not _OWN_NAMES.match(name)}
        self._process = subprocess.Popen(  # nosec B603 # no shell; PiBot's own processes
            [sys.executable, "-m", "pibot", *arguments],
            cwd=folder,
            env={**inherited, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # only the demo gets Ctrl-C; it stops its children in order
            pass_fds=(scratch.hold,),
            preexec_fn=partial(_die_with_parent, os.getpid()),
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> int:
        """Wait until the process listens, and return its port.

        Raises:
            PibotError: it ended first, or was not ready in time. The message holds its last line of output.
        """
        if self._decided.wait(READY_SECONDS) and self._port is not None:
            return self._port
        said = self._log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
        raise PibotError(f"{self._name} did not start; its last output: {said[0]}")

    def stop(self) -> None:
        """End the process with SIGTERM, and with SIGKILL if that is not enough."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _read(self, stdout: IO[str]) -> None:
        """Copy the output to the log, and find the port in it."""
        with stdout, self._log.open("w") as log:
            for line in stdout:
                log.write(line)
                log.flush()
                match = READY.search(line)
                if match and self._port is None:
                    self._port = int(match.group(1))
                    self._decided.set()
        self._decided.set()


def _die_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # the parent died before the signal was set
        os._exit(1)
