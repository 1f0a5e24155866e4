"""How much of the machine one command may take, and where it says so."""

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
"""All that a command finds in its environment, beside ``HOME``. The service's own holds keys."""


@dataclass(frozen=True)
class ReadablePath:
    """A folder or file of the owner's that commands may read.

    Args:
        path: where they find it.
        source: where it is, if not there.
    """

    path: Path
    source: Path | None = None


@dataclass(frozen=True)
class CommandLimits:
    """Limits of one command. Those of memory and CPU time hold for each of its processes, not for their sum: a sum
    takes a memory cgroup, which is off by default on Raspberry Pi kernels.

    Args:
        memory_bytes: data of one process; its whole address space may be four times that.
        processes: processes and threads at a time.
        file_bytes: size of any one file that it writes.
        cpu_seconds: processor time of one process.
        open_files: file descriptors of one process.
        tmp_bytes: what fits into its ``/tmp``, and again into its ``/dev/shm``; both are memory.
        output_chars: characters of output that are kept, its beginning and its end.
        flood_bytes: output beyond this ends the command. Up to this it is read and dropped, so that a talkative
            command still does its work.
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
        """The kernel's name and value of each limit; both soft and hard.

        Args:
            others: processes and threads that the kernel counts against the same limit.
        """
        wanted = {
            resource.RLIMIT_DATA: self.memory_bytes,
            # Shared mappings are no data. Some programs reserve a lot of addresses that they never touch.
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
    """How many processes and threads a user has, as ``RLIMIT_NPROC`` counts them."""
    count = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            # Processes end while we look.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # The folder's owner is root where the process keeps its memory private.
                if _uid(folder) == uid:
                    count += sum(1 for _ in (folder / "task").iterdir())
    return count


def _uid(process: Path) -> int:
    """The real user of a process, whom the kernel counts it for."""
    status = (process / "status").read_bytes()
    return int(status.partition(b"\nUid:")[2].split(None, 1)[0])


def _at_most_ours(which: int, value: int) -> int:
    """A process may not raise its hard limit, so where ours is lower already it stays."""
    hard = resource.getrlimit(which)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)
