"""Write files that survive a power cut, and files and folders that only their owner can read."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def write_durably(path: Path, text: str) -> None:
    """Write a file for its owner alone. After a power cut either the old file or the new one is there, complete.

    Raises:
        OSError: the file can't be written; the old one stays, unless only the last sync failed.
    """
    fresh = path.with_suffix(".new")
    # A file that an earlier release left there may be readable by others, and opening it would keep its mode.
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync(path.parent)  # else a power cut could bring the older file back


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def create_private(path: Path) -> None:
    """Create an empty file that only its owner can read; one that is there loses its other readers.

    Raises:
        OSError: the file can't be created.
    """
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE))
    make_private(path)


def make_private(path: Path) -> None:
    """Let only the owner read and write a file, if it is there and belongs to this user."""
    with contextlib.suppress(OSError):  # it is gone, belongs to another user, or is on a disk without modes
        mode = path.stat().st_mode
        if stat.S_ISREG(mode) and stat.S_IMODE(mode) & 0o077:
            path.chmod(stat.S_IMODE(mode) & PRIVATE_FOLDER)


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, for their owner alone. A folder that is there keeps its mode.

    Raises:
        OSError: the folder can't be made.
    """
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            folder.mkdir(PRIVATE_FOLDER, exist_ok=True)
