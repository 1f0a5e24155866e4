"""The keys that a process accepts, and what each view asks for."""

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
"""Who shows PIBOT_API_KEY, and everyone where no key is asked for."""


class KeyRing:
    """Knows a caller by the key that is shown.

    Args:
        keys: each key, and whose it is.

    Raises:
        SettingsError: one key is of two callers, who may not do the same.
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
        """The keys of people and the workers' tokens; None where PIBOT_API_KEY is not set, and so none asked for.

        Raises:
            SettingsError: there are keys of people without it: whoever set them does not want everyone let in.
        """
        if settings.api_key is None:
            if settings.keys:
                name = settings.keys[0].name.upper()
                raise SettingsError(
                    f"PIBOT_KEY_{name} is set without PIBOT_API_KEY, so no key would be asked for; set that too"
                )
            return None
        people = [(key.secret, Caller(key.name, key.scope)) for key in settings.keys]
        tokens = [*settings.worker_tokens.items(), *settings.previous_worker_tokens.items()]
        workers = [(token, Caller(name, Scope.WORKER, name)) for name, token in tokens]
        return cls([*_owners(settings), *people, *workers])

    @classmethod
    def of_worker(cls, settings: Settings) -> Optional[KeyRing]:
        """The one key that a worker accepts: the fleet's, or its own token."""
        return cls(_owners(settings)) if settings.api_key is not None else None

    def find(self, shown: bytes) -> Optional[Caller]:
        """Whose key it is. Takes the same time whichever it is, and whether it is any."""
        digest = _digest(shown)
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def mark(self, key: bytes, by: bytes) -> str:
        """What :meth:`marked` knows the key by; it tells nothing of it to who does not have ``by``."""
        return hmac.new(by, _digest(key), hashlib.sha256).hexdigest()

    def marked(self, mark: str, by: bytes) -> Optional[Caller]:
        """Whose key it was that gave the mark; None where it is no key any more."""
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(hmac.new(by, known, hashlib.sha256).hexdigest().encode(), mark.encode()):
                found = caller
        return found


def _owners(settings: Settings) -> list[tuple[Secret, Caller]]:
    """PIBOT_API_KEY, and the one before for as long as it is changed."""
    return [(key, OWNER) for key in (settings.api_key, settings.previous_api_key) if key is not None]


def needs(scope: Scope) -> Callable[[V], V]:
    """Say what a view asks of its caller. Without it that is READ for views that only read, and ADMIN for others."""

    def mark(view: V) -> V:
        view.needs = scope  # type: ignore[attr-defined]  # functions have any attribute
        return view

    return mark


def needed(view: Optional[Callable[..., Any]], method: str) -> Scope:
    """What a view asks of the caller of that method."""
    return cast(Scope, getattr(view, "needs", Scope.READ if method in ("GET", "HEAD") else Scope.ADMIN))


def current_caller() -> Caller:
    """Who makes the request that is being answered."""
    return cast(Caller, g.caller)


def _digest(key: bytes) -> bytes:
    # Digests are of one length, so that comparing them tells nothing of the key's.
    return hashlib.sha256(key).digest()
