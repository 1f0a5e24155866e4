"""Brings a job database to the newest version. Each numbered script in ``migrations`` leads to the next version.

See docs/decisions.md, D43.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from pibot.errors import StoreError
from pibot.master_components.store.copies import copy


def migrations() -> list[str]:
    """Read the scripts that lead from an empty file to the newest version, one a version."""
    found = {}
    for script in files("pibot.master_components.store").joinpath("migrations").iterdir():
        match = re.fullmatch(r"(\d{3})_\w+\.sql", script.name)
        if match:
            found[int(match[1])] = script.read_text("utf-8")
    assert sorted(found) == list(range(1, len(found) + 1)), "a version's script is missing"
    return [found[number] for number in sorted(found)]


def version_of(db: sqlite3.Connection) -> int:
    """Return the version of an open database; 0 for an empty one."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def check_version(db: sqlite3.Connection, path: Path, scripts: Sequence[str]) -> None:
    """Refuse a database that a newer release has written.

    Raises:
        StoreError: the database is too new; the message says what to do.
    """
    version, known = version_of(db), len(scripts)
    if version <= known:
        return
    older = copy_before(path, known)
    way_back = (
        f"move it and its {path.name}-wal and {path.name}-shm away and copy {older}, the jobs as they were before "
        f"the newer one, to {path.name}"
        if older.exists()
        else "set another PIBOT_DATA_DIR"
    )
    raise StoreError(
        f"the job database {path} is of version {version}, this program knows {known}; use the newer program again, "
        f"or {way_back}"
    )


def copy_before(path: Path, version: int) -> Path:
    """Return the path of the copy that is made before a database is migrated from ``version``."""
    return path.with_name(f"{path.name}.v{version}")


def migrate(db: sqlite3.Connection, path: Path, scripts: Sequence[str]) -> None:
    """Bring an open database to the newest version, all the way or not at all.

    A copy of the old version stays beside it, for a return to the older release.

    Raises:
        StoreError: the migration failed; the database is unchanged.
    """
    version = version_of(db)
    if version == len(scripts):
        return
    steps = "\n".join(scripts[version:])
    try:
        if version:
            copy(db, path, copy_before(path, version))
        db.executescript(f"BEGIN IMMEDIATE;\n{steps}\nPRAGMA user_version = {len(scripts)};\nCOMMIT;")
    except (OSError, sqlite3.Error) as exc:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise StoreError(
            f"the job database {path} can't be brought from version {version} to {len(scripts)}: {exc}; it is as it "
            "was: free some space if the disk is full, else use the older program again"
        ) from exc
