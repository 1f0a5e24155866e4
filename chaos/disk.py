"""A disk for the hub's data that a run can fill and empty."""

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
    """The disk under the hub's data folder."""

    how: str

    def fill(self, hub_pid: int | None) -> None:
        """Use up all space, so that writing fails."""
        ...

    def empty(self, hub_pid: int | None) -> None:
        """Free the space."""
        ...

    def remove(self) -> None:
        """Remove the disk. Calling it twice is fine."""
        ...


class SmallDisk:
    """A small file system in memory that a file fills up. Writing fails as on a full SD card (ENOSPC).

    Args:
        folder: an empty folder to mount it on.

    Raises:
        OSError: this user may not mount.
    """

    how = f"a tmpfs of {SIZE_MIB} MiB, filled up with a file"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ballast = folder / "ballast"
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=755", "chaos", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # nosec B603 # no shell; mounts on a folder of this run
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
            # Lazy, since a process that was just killed may still hold a file there for a moment.
            subprocess.run(["umount", "--lazy", str(self._folder)], check=True)  # nosec B603 B607 # no shell; a folder of this run
            self._mounted = False


class LimitedFiles:
    """A limit on the size of the running hub's files, for users who may not mount.

    A file can't grow then: EFBIG, which SQLite reports as an I/O error and not as a full disk.
    """

    how = "a limit on the size of the hub's files (this user may not mount a small disk)"

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


# docs/decisions.md, D70
def small_disk(folder: Path) -> Disk:
    """Create ``folder`` with a :class:`SmallDisk`, or with :class:`LimitedFiles` if this user may not mount."""
    folder.mkdir(parents=True)
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            return SmallDisk(folder)
    return LimitedFiles(folder)
