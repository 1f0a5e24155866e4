"""Copies the job database. A copy is whole, or there is none."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from pathlib import Path

from pibot.contracts import Clock
from pibot.disk import create_private, sync

COPY_EVERY = 86_400.0
"""Seconds between two good copies. Each one wears the SD card."""


def copy_of(path: Path) -> Path:
    """Return the path of a database's last good copy."""
    return path.with_name(path.name + ".bak")


def is_due(path: Path, clock: Clock = time.time) -> bool:
    """Return whether the last good copy is missing or a day old."""
    target = copy_of(path)
    # A copy from the future was made before the clock was set right.
    return not (target.exists() and 0 <= clock() - target.stat().st_mtime < COPY_EVERY)


def check(db: sqlite3.Connection) -> str | None:
    """Return what is damaged in an open database; None if it is sound."""
    try:
        (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as exc:
        if type(exc) is not sqlite3.DatabaseError:  # an error of the disk, or a defect
            raise
        return str(exc)
    return None if found == "ok" else " ".join(found.split())


def copy(db: sqlite3.Connection, path: Path, target: Path) -> None:
    """Copy the open database ``path`` to ``target``, with the same file mode.

    An old ``target`` stays until the copy is whole and on disk.

    Raises:
        OSError, sqlite3.Error: the copy can't be written; the old ``target`` stays.
    """
    part = target.with_name(target.name + ".part")
    try:
        part.unlink(missing_ok=True)
        create_private(part)
        with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as other:
            other.execute("PRAGMA journal_mode = OFF")
            db.backup(other)
        part.chmod(stat.S_IMODE(path.stat().st_mode))
        sync(part)
        part.replace(target)
        sync(target.parent)
    except (OSError, sqlite3.Error):
        part.unlink(missing_ok=True)
        raise


def keep_good_copy(db: sqlite3.Connection, path: Path, clock: Clock = time.time) -> None:
    """Replace the last good copy. Call it for a database that :func:`check` found sound.

    Raises:
        OSError, sqlite3.Error: the copy can't be written; the old one stays.
    """
    copy(db, path, copy_of(path))
    os.utime(copy_of(path), (clock(), clock()))


def aside_of(path: Path) -> Path:
    """Return where :func:`put_aside` keeps the copy of an earlier database."""
    good = copy_of(path)
    return good.with_name(good.name + ".old")


def put_aside(path: Path) -> None:
    """Rename the good copy of an earlier database, so that copies of a new one do not replace it."""
    with contextlib.suppress(FileNotFoundError):
        copy_of(path).replace(aside_of(path))
