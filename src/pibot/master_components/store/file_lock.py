"""Lets one process at a time have a job database. The kernel releases the lock if the process is killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from pibot.errors import StoreError


class FileLock:
    """Holds a lock on ``<path>.lock`` until :meth:`release`.

    The lock file stays, because two processes could each hold a lock if it were removed (docs/decisions.md, D41).

    Args:
        path: the database.

    Raises:
        StoreError: another hub has the database, or it can't be locked; the message says what to do.
    """

    def __init__(self, path: Path) -> None:
        lock = path.with_name(path.name + ".lock")
        try:
            self._file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise StoreError(f"the job database {path} can't be opened: {exc}; set PIBOT_DATA_DIR") from exc
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.pread(self._file, 20, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            if not isinstance(exc, BlockingIOError):
                raise StoreError(f"the job database {path} can't be locked: {exc}; set PIBOT_DATA_DIR") from exc
            who = f" (process {holder})" if holder else ""
            raise StoreError(
                f"another hub{who} runs with the job database {path}; stop that one, or set another PIBOT_DATA_DIR"
            ) from exc
        with contextlib.suppress(OSError):  # on a full disk the lock holds, but does not name its holder
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Release the lock. Calling it twice is fine."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
