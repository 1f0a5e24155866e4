"""Copies of the job database: whole or not there at all."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path

from pibot.contracts import Clock

COPY_EVERY = 86_400.0
"""Seconds. The last good copy is this old at least before a start makes another: it costs an SD card some writing."""


def copy_of(path: Path) -> Path:
    """Where the last good copy of a database is kept."""
    return path.with_name(path.name + ".bak")


def copy(db: sqlite3.Connection, target: Path) -> None:
    """Make ``target`` a copy of the open database; what was there before stays until the copy is whole and on disk.

    Raises:
        OSError, sqlite3.Error: it can't be written; there is no new copy then.
    """
    part = target.with_name(target.name + ".part")
    try:
        part.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as other:
            other.execute("PRAGMA journal_mode = OFF")
            db.backup(other)
        _sync(part)
        part.replace(target)
        _sync(target.parent)
    except (OSError, sqlite3.Error):
        part.unlink(missing_ok=True)
        raise


def keep_good_copy(db: sqlite3.Connection, path: Path, clock: Clock = time.time) -> bool:
    """Copy a database that was found sound, unless there is a copy of this day; whether one was made.

    Raises:
        OSError, sqlite3.Error: it can't be written.
    """
    target, now = copy_of(path), clock()
    # One from the future was made before the clock was set right.
    if target.exists() and 0 <= now - target.stat().st_mtime < COPY_EVERY:
        return False
    copy(db, target)
    os.utime(target, (now, now))
    return True


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
