"""Start the benchmark's processes in process groups of their own, measure them, and end them by their ids."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

STOP_SECONDS = 10.0
"""Seconds that a process gets to end after SIGTERM."""


class BenchmarkError(Exception):
    """A measured program failed; the message says which, and holds the end of its log."""


class Process:
    """One program in a process group of its own, with its output in a log.

    Args:
        name: of the log.
        argv: the program and its arguments.
        logs: the folder of the logs.
        environ: the whole environment.
        directory: the working directory.
        pipes: whether stdin and stdout are pipes to this process, instead of the log.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        logs: Path,
        environ: Mapping[str, str],
        directory: Path,
        pipes: bool = False,
    ) -> None:
        self.log = logs / f"{name}.log"
        with self.log.open("wb") as output:
            self.started = time.perf_counter()
            self._popen = subprocess.Popen(  # nosec B603 # no shell; the peers' own commands
                list(argv),
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else output,
                stderr=output,
                env=dict(environ),
                cwd=directory,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    @property
    def pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """The process's stdin and stdout."""
        stdin, stdout = self._popen.stdin, self._popen.stdout
        assert stdin is not None
        assert stdout is not None
        return stdin, stdout

    def check(self) -> None:
        """Check that the process still runs.

        Raises:
            BenchmarkError: it has ended.
        """
        if self._has_ended():
            raise BenchmarkError(f"{self.log.stem} ended unexpectedly:\n{self.tail()}")

    def tail(self, lines: int = 12) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

    def stop(self) -> None:
        """End the process, and everything left in its process group."""
        if self._popen.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        end = time.monotonic() + STOP_SECONDS
        while not self._has_ended() and time.monotonic() < end:
            time.sleep(0.01)
        # The leader is not reaped yet, so the id of its group can't belong to others.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def tree(self) -> list[int]:
        """Return the ids of the process and all its descendants."""
        parents = _parents()
        members = [self.pid]
        for member in members:
            members.extend(pid for pid, parent in parents.items() if parent == member)
        return members

    def memory(self) -> Memory:
        """Return the current memory of the process and its descendants."""
        rollups = [_rollup(pid) for pid in self.tree()]
        return Memory(sum(r["Pss"] for r in rollups) / 1024, sum(r["Rss"] for r in rollups) / 1024)

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class Memory:
    """Memory of a process tree in MiB. ``pss`` divides shared pages among their users; ``rss`` counts them in full."""

    def __init__(self, pss: float, rss: float) -> None:
        self.pss = pss
        self.rss = rss


class Processes:
    """Starts processes, and stops them in reverse order at the end of the ``with`` block."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._started: list[Process] = []

    def start(
        self, name: str, argv: Sequence[str], *, environ: Mapping[str, str], directory: Path, pipes: bool = False
    ) -> Process:
        process = Process(name, argv, logs=self._logs, environ=environ, directory=directory, pipes=pipes)
        self._started.append(process)
        return process

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        # Delay a Ctrl-C until all are stopped, since it would leave some of them behind.
        came: list[int] = []
        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in signals}
        try:
            for process in reversed(self._started):
                process.stop()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        if came and kind is None:
            signal.raise_signal(came[0])


class Client:
    """A caller in a process of its own, controlled with :mod:`benchmarks.protocol`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def calls(self, count: int, seconds: float) -> list[float]:
        """Make consecutive calls, and return the seconds of each."""
        answered: list[float] = self._ask(op="calls", count=count, seconds=seconds)["seconds"]
        return answered

    def load(self, callers: int, seconds: float) -> float:
        """Return the calls a second of this many parallel callers."""
        answered = self._ask(op="load", callers=callers, seconds=seconds)
        return float(answered["calls"] / answered["seconds"])

    def guide(self) -> float:
        """Run the guide's load test, and return its seconds. Only PiBot's client knows it."""
        return float(self._ask(op="guide")["seconds"])

    def _ask(self, **request: Any) -> dict[str, Any]:
        stdin, stdout = self._process.pipes
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise BenchmarkError(f"{self._process.log.stem} failed:\n{self._process.tail()}")
        answered: dict[str, Any] = json.loads(line)
        return answered


def wait_until(condition: Callable[[], bool], process: Process, seconds: float = 30.0, pause: float = 0.002) -> float:
    """Wait until ``condition`` holds, and return the seconds since ``process`` was started.

    Raises:
        BenchmarkError: it did not hold in time, or the process ended first.
    """
    end = time.monotonic() + seconds
    while not condition():
        process.check()
        if time.monotonic() > end:
            raise BenchmarkError(f"{process.log.stem} was not ready within {seconds:g} s:\n{process.tail()}")
        time.sleep(pause)
    return time.perf_counter() - process.started


def answers_health(port: int) -> bool:
    """Return whether ``GET /health`` answers 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _parents() -> dict[int, int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # It may end between the listing and the reading.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return parents


def _rollup(pid: int) -> dict[str, int]:
    """Return ``Pss`` and ``Rss`` in KiB; see proc(5) on smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("Pss:", "Rss:"))}
