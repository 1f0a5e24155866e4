"""A disk for the hub's data that can be filled up and emptied again."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
from pathlib import Path
from typing import Protocol

SIZE_MIB = 48


class Disk(Protocol):
    """Where the hub keeps its data."""

    how: str

    def fill(self, hub_pid: int | None) -> None:
        """Leave no room: what is written now fails."""
        ...

    def empty(self, hub_pid: int | None) -> None:
        """Give the room back."""
        ...

    def remove(self) -> None:
        """Undo all of it. Calling it twice is fine."""
        ...


class SmallDisk:
    """A file system of its own in memory, filled with a file: the error is the one of a full SD card (ENOSPC).

    Args:
        folder: where it is mounted; an empty folder.

    Raises:
        OSError: this user may mount nothing here.
    """

    how = f"a tmpfs of {SIZE_MIB} MiB, filled up with a file"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ballast = folder / "ballast"
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=755", "chaos", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # nosec B603 # no shell; mount, of a folder of the run's own
        except FileNotFoundError as exc:
            raise OSError(errno.ENOENT, "there is no mount command") from exc
        if done.returncode:
            raise OSError(errno.EPERM, done.stderr.strip() or "mount failed")
        self._mounted = True

    def fill(self, hub_pid: int | None) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * size) == size:
                        pass

    def empty(self, hub_pid: int | None) -> None:
        self._ballast.unlink(missing_ok=True)

    def remove(self) -> None:
        if self._mounted:
            # Lazily: a process that was just killed may still hold a file there for a moment.
            subprocess.run(["umount", "--lazy", str(self._folder)], check=True)  # nosec B603 B607 # no shell; a folder of the run's own
            self._mounted = False


class LimitedFiles:
    """For who may mount nothing: the hub's limit on the size of a file is lowered while it runs, so that a file that
    would grow does not (EFBIG, which SQLite reports as an I/O error and not as a full disk)."""

    how = "the limit on the size of the hub's files (no right to mount a small disk)"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fill(self, hub_pid: int | None) -> None:
        sizes = [path.stat().st_size for path in self._folder.iterdir() if path.suffix != ".db-shm"]
        self._limit(hub_pid, max(sizes, default=4096))

    def empty(self, hub_pid: int | None) -> None:
        self._limit(hub_pid, resource.RLIM_INFINITY)

    def remove(self) -> None:
        return

    @staticmethod
    def _limit(hub_pid: int | None, size: int) -> None:
        if hub_pid is not None:
            with contextlib.suppress(ProcessLookupError):
                _, hard = resource.prlimit(hub_pid, resource.RLIMIT_FSIZE)
                resource.prlimit(hub_pid, resource.RLIMIT_FSIZE, (size, hard))


def small_disk(folder: Path) -> Disk:
    """The best of the two that can be had here; ``folder`` is made."""
    folder.mkdir(parents=True)
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            return SmallDisk(folder)
    return LimitedFiles(folder)
