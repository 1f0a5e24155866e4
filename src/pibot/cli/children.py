"""Child processes of the demo: started, waited for until they are ready, and gone when their parent is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from pibot.errors import PibotError

READY = re.compile(r"_ready .*?listen=(?:http://)?[^\s:]+:(\d+)")

READY_SECONDS = 60.0
STOP_SECONDS = 30.0

PR_SET_PDEATHSIG = 1
"""From ``linux/prctl.h``: the signal that a process gets when its parent dies, also by SIGKILL."""

_OWN_NAMES = re.compile(r"(PIBOT|WORKER|VOLC|OPENAI)_|MODEL_NAME\Z")


class Child:
    """``python -m pibot …`` in a folder of its own, which holds its log too.

    Args:
        folder: its working directory; made here.
        arguments: after ``pibot``.
        settings: its PiBot settings; none of the parent's reach it.
    """

    def __init__(self, folder: Path, arguments: list[str], settings: Mapping[str, str]) -> None:
        folder.mkdir()
        self._name = folder.name
        self._log = folder / "output.log"
        self._port: int | None = None
        self._decided = threading.Event()
        inherited = {name: value for name, value in os.environ.items() if not _OWN_NAMES.match(name)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pibot", *arguments],
            cwd=folder,
            env={**inherited, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the demo, which stops its children in order
            preexec_fn=_die_with_parent,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> int:
        """The port where it listens, once it does.

        Raises:
            PibotError: it ended before, or was not ready in time; with what it said last.
        """
        if self._decided.wait(READY_SECONDS) and self._port is not None:
            return self._port
        said = self._log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
        raise PibotError(f"{self._name} did not start; it said: {said[0]}")

    def stop(self) -> None:
        """End it, gently at first."""
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
        """Keep what it says, and find its port in it."""
        with stdout, self._log.open("w") as log:
            for line in stdout:
                log.write(line)
                log.flush()
                match = READY.search(line)
                if match and self._port is None:
                    self._port = int(match.group(1))
                    self._decided.set()
        self._decided.set()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
