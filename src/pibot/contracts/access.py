"""Callers and the scopes of their keys."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Optional


class Scope(Enum):
    """What a key allows."""

    READ = "read"
    """Read jobs, workers and metrics."""

    SUBMIT = "submit"
    """Submit and cancel jobs, and everything that READ allows."""

    ADMIN = "admin"
    """Everything."""

    WORKER = "worker"
    """Call the gateway, and join and leave as the worker that owns the token; nothing else."""


_ALSO = {Scope.SUBMIT: frozenset({Scope.READ}), Scope.ADMIN: frozenset(Scope)}


@dataclass(frozen=True)
class Caller:
    """The caller of a request, known by its key.

    Args:
        name: the key's name, for people.
        scope: what the key allows.
        worker_id: the worker that owns the token; None for a person's key.
    """

    name: str
    scope: Scope
    worker_id: Optional[str] = None

    def may(self, scope: Scope) -> bool:
        """Return whether the key allows what this scope allows."""
        return scope is self.scope or scope in _ALSO.get(self.scope, ())
