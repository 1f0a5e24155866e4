"""The keys that a process accepts, and the scope that each view requires."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Any, Callable, Optional, TypeVar, cast

from flask import g

from pibot.contracts import Caller, Scope
from pibot.errors import SettingsError
from pibot.settings import Secret, Settings

V = TypeVar("V", bound=Callable[..., Any])

OWNER = Caller("owner", Scope.ADMIN)
"""The caller with PIBOT_API_KEY, and every caller of a process without keys."""


class KeyRing:
    """Finds the caller that a key belongs to.

    Args:
        keys: each key with its caller.

    Raises:
        SettingsError: two callers have the same key.
    """

    def __init__(self, keys: Iterable[tuple[Secret, Caller]]) -> None:
        self._callers = tuple((_digest(key.reveal().encode()), caller) for key, caller in keys)
        owners: dict[bytes, Caller] = {}
        for digest, caller in self._callers:
            if owners.setdefault(digest, caller) != caller:
                raise SettingsError(
                    f"{owners[digest].name} and {caller.name} have the same key; give each one of its own "
                    "(PIBOT_API_KEY, PIBOT_KEY_…, WORKER_n_TOKEN)"
                )

    @classmethod
    def of_hub(cls, settings: Settings) -> Optional[KeyRing]:
        """Collect people's keys and workers' tokens; None without PIBOT_API_KEY: then no key is required.

        Raises:
            SettingsError: people have keys without PIBOT_API_KEY being set. Their owner does not want an open hub.
        """
        if settings.api_key is None:
            if settings.keys:
                name = settings.keys[0].name.upper()
                raise SettingsError(
                    f"PIBOT_KEY_{name} is set without PIBOT_API_KEY, so no key would be required; set PIBOT_API_KEY too"
                )
            return None
        people = [(key.secret, Caller(key.name, key.scope)) for key in settings.keys]
        tokens = [*settings.worker_tokens.items(), *settings.previous_worker_tokens.items()]
        workers = [(token, Caller(name, Scope.WORKER, name)) for name, token in tokens]
        return cls([*_owners(settings), *people, *workers])

    @classmethod
    def of_worker(cls, settings: Settings) -> Optional[KeyRing]:
        """Collect the key that a worker accepts: the fleet's, or the worker's own token."""
        return cls(_owners(settings)) if settings.api_key is not None else None

    def find(self, shown: bytes) -> Optional[Caller]:
        """Return the caller with this key, or None. Takes the same time for every key, known or not."""
        digest = _digest(shown)
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def mark(self, key: bytes, by: bytes) -> str:
        """Return a mark of the key for :meth:`marked`. Without ``by`` it reveals nothing of the key."""
        return hmac.new(by, _digest(key), hashlib.sha256).hexdigest()

    def marked(self, mark: str, by: bytes) -> Optional[Caller]:
        """Return the caller whose key gave the mark; None if the key is no longer accepted."""
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(hmac.new(by, known, hashlib.sha256).hexdigest().encode(), mark.encode()):
                found = caller
        return found


def _owners(settings: Settings) -> list[tuple[Secret, Caller]]:
    """PIBOT_API_KEY, and the previous one while the key is being changed."""
    return [(key, OWNER) for key in (settings.api_key, settings.previous_api_key) if key is not None]


def needs(scope: Scope) -> Callable[[V], V]:
    """Declare the scope that a view requires. Without it, GET and HEAD require READ, other methods ADMIN."""

    def mark(view: V) -> V:
        view.needs = scope  # type: ignore[attr-defined]  # functions have any attribute
        return view

    return mark


def needed(view: Optional[Callable[..., Any]], method: str) -> Scope:
    """Return the scope that a view requires for this method."""
    # docs/decisions.md, D19
    return cast(Scope, getattr(view, "needs", Scope.READ if method in ("GET", "HEAD") else Scope.ADMIN))


def current_caller() -> Caller:
    """Return the caller of the current request."""
    return cast(Caller, g.caller)


def _digest(key: bytes) -> bytes:
    # Digests have one length, so a comparison reveals nothing of the key's.
    return hashlib.sha256(key).digest()
