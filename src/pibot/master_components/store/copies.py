"""Copies of the job database: whole or not there at all."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from pathlib import Path

from pibot.contracts import Clock

COPY_EVERY = 86_400.0
"""Seconds that the last good copy is old at least before another is made: it costs an SD card some writing."""


def copy_of(path: Path) -> Path:
    """Where the last good copy of a database is kept."""
    return path.with_name(path.name + ".bak")


def is_due(path: Path, clock: Clock = time.time) -> bool:
    """Whether there is no copy of a database of this day."""
    target = copy_of(path)
    # One from the future was made before the clock was set right.
    return not (target.exists() and 0 <= clock() - target.stat().st_mtime < COPY_EVERY)


def check(db: sqlite3.Connection) -> str | None:
    """What is damaged of an open database; None where nothing is."""
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    return None if found == "ok" else " ".join(found.split())


def copy(db: sqlite3.Connection, path: Path, target: Path) -> None:
    """Make ``target`` a copy of the database ``path``, which is open; what was there before stays until the copy is
    whole and on disk. It can be read by those who can read the database.

    Raises:
        OSError, sqlite3.Error: it can't be written; there is no new copy then.
    """
    part = target.with_name(target.name + ".part")
    try:
        part.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as other:
            other.execute("PRAGMA journal_mode = OFF")
            db.backup(other)
        part.chmod(stat.S_IMODE(path.stat().st_mode))
        _sync(part)
        part.replace(target)
        _sync(target.parent)
    except (OSError, sqlite3.Error):
        part.unlink(missing_ok=True)
        raise


def keep_good_copy(db: sqlite3.Connection, path: Path, clock: Clock = time.time) -> None:
    """Make the last good copy of a database that was found sound.

    Raises:
        OSError, sqlite3.Error: it can't be written; the copy before it stays.
    """
    copy(db, path, copy_of(path))
    os.utime(copy_of(path), (clock(), clock()))


def put_aside(path: Path) -> None:
    """Keep the copy of the database that was here before from being replaced by copies of one made anew."""
    good = copy_of(path)
    with contextlib.suppress(FileNotFoundError):
        good.replace(good.with_name(good.name + ".old"))


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
