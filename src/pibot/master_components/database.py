"""The SQLite file of the jobs: opened with care, written by one connection, and its troubles said plainly."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from pibot.errors import StoreError

SCHEMA_VERSION = 1


class Database:
    """One file, one connection, behind a lock.

    SQLite before 3.51.3 can damage a file in WAL mode that two connections write
    (https://sqlite.org/wal.html#walresetbug), so there is one. ``synchronous=FULL``: in WAL mode a commit is on disk
    when it returns, and not before.

    Args:
        path: the file, made if it is not there; its folder must be.

    Raises:
        StoreError: the file can't be opened, is damaged, or comes from a newer version; it says what to do.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        try:
            self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
        except sqlite3.Error as exc:
            raise StoreError(f"the job database {path} can't be opened: {exc}; set PIBOT_DATA_DIR") from exc
        self.connection.row_factory = sqlite3.Row
        try:
            self._prepare()
        except sqlite3.Error as exc:
            self.connection.close()
            raise StoreError(f"the job database {path} can't be used: {exc}; move it away to start afresh") from exc
        except StoreError:
            self.connection.close()
            raise

    def close(self) -> None:
        """Close the file. Calling it twice is fine."""
        with self._lock:
            self.connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and on disk at the end.

        Raises:
            StoreError: it can't be written; nothing was.
        """
        with self._lock:
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self.connection
                    self.connection.execute("COMMIT")
                finally:
                    if self.connection.in_transaction:
                        self.connection.execute("ROLLBACK")
            except sqlite3.Error as exc:
                raise self._trouble("written", exc) from exc

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """For what only reads.

        Raises:
            StoreError: it can't be read.
        """
        with self._lock:
            try:
                yield self.connection
            except sqlite3.Error as exc:
                raise self._trouble("read", exc) from exc

    def _trouble(self, doing: str, exc: sqlite3.Error) -> StoreError:
        advice = "; free some space" if "full" in str(exc) else ""
        return StoreError(f"the job database {self._path} can't be {doing}: {exc}{advice}")

    def _prepare(self) -> None:
        db = self.connection
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            what = " ".join(found.split())
            raise StoreError(
                f"the job database {self._path} is damaged ({what}); restore a copy, or move it away to start afresh"
            )
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"the job database {self._path} is of version {version}, this program knows {SCHEMA_VERSION}; "
                "use the newer program again, or another PIBOT_DATA_DIR"
            )
        for number, script in enumerate(_migrations()[version:], version + 1):
            db.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")


def _migrations() -> list[str]:
    """The scripts that lead from an empty file to the newest version, one a version."""
    return [files("pibot.master_components").joinpath("schema.sql").read_text("utf-8")]
