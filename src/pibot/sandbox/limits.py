"""The resources and the environment of one command."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024

COMMAND_ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}
"""A command's whole environment, besides ``HOME``. The environment of the process that starts it holds keys."""


@dataclass(frozen=True)
class ReadablePath:
    """A folder or file of the owner's that confined commands may read.

    Args:
        path: its path inside the sandbox.
        source: its path on the machine; None for the same path.
    """

    path: Path
    source: Path | None = None


@dataclass(frozen=True)
class CommandLimits:
    """The limits of one command.

    Memory and processor time are limited for each process, not for all of them together: that takes a memory cgroup,
    which is off by default on Raspberry Pi kernels. The buffers of sockets and pipes are the kernel's and not limited.

    Args:
        memory_bytes: data of one process; its address space may be four times that.
        processes: processes and threads at one time.
        file_bytes: size of any file that it writes.
        cpu_seconds: processor time of one process.
        open_files: file descriptors of one process.
        tmp_bytes: size of its ``/tmp``, and of its ``/dev/shm``; both are memory.
        output_chars: characters of output to keep, half from the beginning and half from the end.
        flood_bytes: output after which the command is killed. Output between the two limits is read and dropped, so
            that a talkative command still does its work.
    """

    memory_bytes: int = 256 * MIB
    processes: int = 64
    file_bytes: int = 64 * MIB
    cpu_seconds: int = 600
    open_files: int = 256
    tmp_bytes: int = 32 * MIB
    output_chars: int = 18_000
    flood_bytes: int = 64 * MIB

    def rlimits(self, *, others: int = 0) -> dict[int, int]:
        """Return the value of each kernel limit (``RLIMIT_…``), soft and hard alike.

        Args:
            others: processes and threads outside the command that the kernel counts against its limit.
        """
        wanted = {
            resource.RLIMIT_DATA: self.memory_bytes,
            # RLIMIT_DATA leaves out shared mappings. Some programs reserve many addresses that they never touch.
            resource.RLIMIT_AS: 4 * self.memory_bytes,
            resource.RLIMIT_NPROC: self.processes + others,
            resource.RLIMIT_FSIZE: self.file_bytes,
            resource.RLIMIT_CPU: self.cpu_seconds,
            resource.RLIMIT_NOFILE: self.open_files,
            resource.RLIMIT_CORE: 0,
        }
        return {which: _at_most_ours(which, value) for which, value in wanted.items()}


DEFAULT_COMMAND_LIMITS = CommandLimits()


def tasks_of(uid: int) -> int:
    """Count the processes and threads of a user, as ``RLIMIT_NPROC`` does."""
    count = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            # Processes end while we read.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # Not the folder's owner: that is root for a process that is not dumpable.
                if _uid(folder) == uid:
                    count += sum(1 for _ in (folder / "task").iterdir())
    return count


def _uid(process: Path) -> int:
    """Return the real user of a process, against whose limit the kernel counts it."""
    status = (process / "status").read_bytes()
    return int(status.partition(b"\nUid:")[2].split(None, 1)[0])


def _at_most_ours(which: int, value: int) -> int:
    """Return ``value``, or our own hard limit where that is lower: a process may not raise it."""
    hard = resource.getrlimit(which)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)
