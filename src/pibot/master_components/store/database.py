"""The SQLite file of the job database: opens and checks it, locks it, and turns SQLite's errors into advice."""

from __future__ import annotations

import contextlib
import logging
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from pibot.contracts import Clock
from pibot.disk import create_private, make_private
from pibot.errors import StoreError, StoreUnreadable, StoreUnwritable
from pibot.logs import event
from pibot.master_components.store.copies import aside_of, check, copy_of, is_due, keep_good_copy, put_aside
from pibot.master_components.store.file_lock import FileLock
from pibot.master_components.store.schema import check_version, migrate, migrations, version_of

log = logging.getLogger("pibot.store")

_MAY_PASS = (sqlite3.OperationalError, sqlite3.DatabaseError)
"""Errors of the disk. Classes derived from these are defects, such as a violated constraint."""

_STATEMENT = re.compile(r"no such |near |unrecognized token|incomplete input|cannot |table .* has no column")
"""How SQLite's messages begin for a wrong statement (SQLITE_ERROR). Python before 3.11 does not give the code."""


class Database:
    """One file, used by one process through one connection, behind a lock.

    SQLite before 3.51.3 can damage a file in WAL mode if two connections write it
    (https://sqlite.org/wal.html#walresetbug), so there is one connection. With ``synchronous=FULL``, a commit in WAL
    mode is on disk when it returns.

    Args:
        path: the file; its folder must exist.
        clock: seconds since the epoch, for the age of the last good copy.

    Raises:
        StoreError: another hub has the file, or it can't be opened, is damaged, or comes from a newer release; the
            message says what to do.
    """

    def __init__(self, path: Path, *, clock: Clock = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.RLock()
        self.trouble: str | None = None
        """Why the file can't be written, from a failed write until one succeeds; else None."""
        self.damage: str | None = None
        """What was found damaged while the file was open, and what to do; else None. The next start checks again."""
        self._process_lock = FileLock(path)
        try:
            self._existed = path.exists()
            if self._existed:
                self._refuse_empty(path.stat().st_size == 0)  # SQLite would also delete the log of an empty file
            else:
                put_aside(path)
            for file in path.parent.glob(f"{path.name}*"):  # an earlier release left these readable by others
                make_private(file)
            create_private(path)
            self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
            self.connection.row_factory = sqlite3.Row
            try:
                self._prepare()
            except BaseException:
                self.connection.close()
                raise
        except sqlite3.Error as exc:
            self._process_lock.release()
            problem = f"is damaged ({exc})" if "malformed" in str(exc) else f"can't be used: {exc}"
            raise StoreError(f"the job database {path} {problem}; {self._advice(exc)}") from exc
        except OSError as exc:
            self._process_lock.release()
            raise StoreError(
                f"the job database {path} can't be used: {exc}; set PIBOT_DATA_DIR to a folder that can be written"
            ) from exc
        except StoreError:
            self._process_lock.release()
            raise

    def close(self) -> None:
        """Close the file. Calling it twice is fine."""
        with self._lock:
            self.connection.close()
            self._process_lock.release()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the ``with`` block as one transaction. It is on disk at the end, all of it or nothing.

        Raises:
            StoreUnwritable: the file can't be written now; nothing was written.
            StoreError: a statement is wrong or breaks a constraint, or the file is damaged; nothing was written.
        """
        with self._lock:
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                before = self.connection.total_changes
                try:
                    yield self.connection
                    self.connection.execute("COMMIT")
                finally:
                    if self.connection.in_transaction:
                        self.connection.execute("ROLLBACK")
            except sqlite3.Error as exc:
                self._note_damage(exc)
                if type(exc) is sqlite3.DatabaseError:
                    advice = "; start the hub again: it says how to get a good copy back"
                else:
                    advice = "; free some space" if "full" in str(exc) else ""
                message = f"the job database {self._path} can't be written: {exc}{advice}"
                if type(exc) not in _MAY_PASS or _is_defect(exc):
                    raise StoreError(message) from exc
                self.trouble = message
                self._make_room()
                raise StoreUnwritable(message) from exc
            if self.connection.total_changes > before:  # an empty commit succeeds on a full disk too
                self.trouble = None

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Run the ``with`` block, which only reads.

        Raises:
            StoreUnreadable: the file can't be read now.
            StoreError: the file is damaged, or a statement is wrong.
        """
        with self._lock:
            try:
                yield self.connection
            except sqlite3.Error as exc:
                if self._note_damage(exc):
                    raise StoreError(self.damage) from exc
                kind = StoreUnreadable if type(exc) in _MAY_PASS and not _is_defect(exc) else StoreError
                raise kind(f"the job database {self._path} can't be read: {exc}") from exc

    def keep_good_copy(self) -> None:
        """Copy the file if it is sound and the last good copy is a day old. Other threads may write it meanwhile.

        Raises:
            StoreError: the file is damaged, or can't be read.
        """
        if not is_due(self._path, self._clock):
            return
        # This connection only reads, and needs no lock: only a second one that writes can damage the file.
        uri = f"{self._path.absolute().as_uri()}?mode=ro"
        try:
            with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10.0)) as db:
                self._refuse_damaged(db)
                self._copy(db)
        except sqlite3.Error as exc:
            self._note_damage(exc)
            raise StoreError(f"the job database {self._path} can't be read: {exc}") from exc

    def _make_room(self) -> None:
        """Free the write-ahead log, up to 4 MB, if the file itself has room for its pages."""
        with contextlib.suppress(sqlite3.Error):  # without room, the log stays as it is
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _prepare(self) -> None:
        db = self.connection
        scripts = migrations()
        check_version(db, self._path, scripts)
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        self._refuse_damaged(db)
        is_new = version_of(db) == 0
        self._refuse_empty(self._existed and is_new)
        migrate(db, self._path, scripts)
        if not is_new and is_due(self._path, self._clock):
            self._copy(db)

    def _refuse_empty(self, is_empty: bool) -> None:
        """Refuse a file without a job database beside a good copy: something has emptied it."""
        # A start that failed after it had set the copy aside leaves an empty file too.
        good = next((copy for copy in (copy_of(self._path), aside_of(self._path)) if copy.exists()), None)
        if not is_empty or good is None:
            return
        name = self._path.name
        raise StoreError(
            f"the job database {self._path} is empty, but its last good copy {good} of {_day_of(good)} is there; copy "
            f"that to {name} to go on with its jobs, or remove {name} to start afresh"
        )

    def _refuse_damaged(self, db: sqlite3.Connection) -> None:
        damage = check(db)
        if damage is not None:
            self.damage = f"the job database {self._path} is damaged ({damage}); stop the hub, then {self._way_back()}"
            raise StoreError(f"the job database {self._path} is damaged ({damage}); {self._way_back()}")

    def _note_damage(self, exc: sqlite3.Error) -> bool:
        """Return whether an error means that the file is damaged; keep it as :attr:`damage` if so."""
        if type(exc) is not sqlite3.DatabaseError:
            return False
        self.damage = f"the job database {self._path} is damaged ({exc}); stop the hub, then {self._way_back()}"
        return True

    def _copy(self, db: sqlite3.Connection) -> None:
        try:
            keep_good_copy(db, self._path, self._clock)
        except (OSError, sqlite3.Error) as exc:  # the hub runs without a copy
            event(log, "no_copy", level=logging.WARNING, file=str(copy_of(self._path)), error=str(exc))

    def _advice(self, exc: sqlite3.Error) -> str:
        if isinstance(exc, sqlite3.OperationalError) and "malformed" not in str(exc):
            return "free some space if the disk is full, or set PIBOT_DATA_DIR to a folder that can be written"
        return self._way_back()

    def _way_back(self) -> str:
        """Say what to do about a damaged file."""
        name, good = self._path.name, copy_of(self._path)
        if not good.exists():
            return f"move it and its {name}-wal and {name}-shm away to start afresh"
        return (
            f"move it and its {name}-wal and {name}-shm away, then start afresh, or copy {good} of {_day_of(good)}, "
            f"the last good one, to {name}"
        )


def _day_of(copied: Path) -> str:
    return datetime.fromtimestamp(copied.stat().st_mtime, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _is_defect(exc: sqlite3.Error) -> bool:
    """Return whether the statement is wrong, so that another try would fail too."""
    code = getattr(exc, "sqlite_errorcode", None)
    return _STATEMENT.match(str(exc)) is not None if code is None else code & 0xFF == 1
