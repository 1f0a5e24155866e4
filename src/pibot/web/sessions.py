"""Browser sessions: the browser keeps a random id in a cookie, the hub keeps a record of the id.

The record reveals neither the id nor the key. It holds a digest of the id, and a mark of the key that takes the id to
compute. So a session ends with its key, a log-out ends it for good, and a restart ends none (docs/decisions.md, D14).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import secrets
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from pibot.contracts import Caller
from pibot.disk import write_durably
from pibot.logs import event
from pibot.web.keys import KeyRing

log = logging.getLogger("pibot.web")

LIFETIME = 7 * 24 * 3600
"""Seconds until a session ends by itself, so that a phone at home need not log in every day."""

MAX_SESSIONS = 100
"""Sessions of one key. Beyond it that key's oldest session ends, so that the file stays small however often somebody
logs in, and no key ends the sessions of another."""


@dataclass(frozen=True)
class Session:
    """A browser that is logged in.

    Args:
        session_id: the cookie's value.
        caller: the owner of the key that was used, with the key's scope now.
    """

    session_id: str = field(repr=False)
    caller: Caller

    @property
    def form_token(self) -> str:
        """The token that a changing request must carry beside the cookie; no other site's page can know it."""
        return hmac.new(self.session_id.encode(), b"form", hashlib.sha256).hexdigest()


class _Kept(NamedTuple):
    """The record of a session.

    Args:
        mark: of its key; see :meth:`KeyRing.mark`.
        until: when it expires, in seconds since the epoch.
        owner: scope and name of the key; empty in a file of an earlier release.
    """

    mark: str
    until: float
    owner: str = ""

    @classmethod
    def from_json(cls, row: Any) -> _Kept:
        mark, until, *owner = row
        return cls(str(mark), float(until), *map(str, owner[:1]))


# docs/decisions.md, D14
class Sessions:
    """The sessions of one hub. Methods may be called from any thread.

    Args:
        keys: the keys that may log in.
        path: the file that keeps the sessions over a restart; None keeps them in memory only.
        now: seconds since the epoch.
    """

    def __init__(self, keys: KeyRing, path: Optional[Path] = None, now: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._path = path
        self._now = now
        self._lock = threading.Lock()
        self._kept = _load(path)  # by the digest of the id; the oldest first

    def begin(self, key: bytes) -> Optional[Session]:
        """Log in with a key; None if it is unknown, or a worker's token."""
        caller = self._keys.find(key)
        if caller is None or caller.worker_id is not None:
            return None
        session_id = secrets.token_urlsafe(32)
        mark = self._keys.mark(key, session_id.encode())
        with self._lock:
            now = self._now()
            self._kept = {name: kept for name, kept in self._kept.items() if kept.until > now}
            owner = f"{caller.scope.value} {caller.name}"
            self._kept[_digest(session_id)] = _Kept(mark, now + LIFETIME, owner)
            same_key = [name for name, kept in self._kept.items() if kept.owner == owner]
            for name in same_key[:-MAX_SESSIONS]:
                del self._kept[name]
            self._save()
        return Session(session_id, caller)

    def find(self, session_id: str) -> Optional[Session]:
        """Return the session with this id, if it has not expired and its key is still valid."""
        kept = self._kept.get(_digest(session_id))
        if kept is None or kept.until <= self._now():
            return None
        caller = self._keys.marked(kept.mark, session_id.encode())
        return None if caller is None else Session(session_id, caller)

    def end(self, session: Session) -> None:
        """Log a browser out."""
        with self._lock:
            if self._kept.pop(_digest(session.session_id), None) is not None:
                self._save()

    def _save(self) -> None:
        """Write the sessions to the file. If that fails, remove it: a restart must not restore an older state."""
        if self._path is None:
            return
        try:
            write_durably(self._path, json.dumps(self._kept))
        except OSError as exc:
            event(log, "sessions_not_kept", level=logging.WARNING, path=str(self._path), error=str(exc))
            with contextlib.suppress(OSError):  # the failure is logged already
                self._path.unlink()


def _load(path: Optional[Path]) -> dict[str, _Kept]:
    """Read the sessions; empty without a file, or if it can't be read, so that everybody logs in again."""
    if path is None or not path.exists():
        return {}
    try:
        rows = json.loads(path.read_text("utf-8"))
        return {str(name): _Kept.from_json(row) for name, row in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        event(log, "sessions_not_read", level=logging.WARNING, path=str(path), error=str(exc))
        return {}


def _digest(session_id: str) -> str:
    return hashlib.sha256(session_id.encode("utf-8", "surrogateescape")).hexdigest()
