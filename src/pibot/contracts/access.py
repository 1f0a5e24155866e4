"""Who asks, and what they may."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Optional


class Scope(Enum):
    """What a key is good for."""

    READ = "read"
    """See jobs, workers and figures."""

    SUBMIT = "submit"
    """Send jobs and cancel them, and see what READ does."""

    ADMIN = "admin"
    """Everything."""

    WORKER = "worker"
    """Ask the gateway's model, and come and go as the worker whose token it is; nothing else."""


_ALSO = {Scope.SUBMIT: frozenset({Scope.READ}), Scope.ADMIN: frozenset(Scope)}


@dataclass(frozen=True)
class Caller:
    """Whose key was shown.

    Args:
        name: the key's name, for people.
        scope: what it is good for.
        worker_id: whose token it is; None for a person's key.
    """

    name: str
    scope: Scope
    worker_id: Optional[str] = None

    def may(self, scope: Scope) -> bool:
        """Whether that is within what the key is good for."""
        return scope is self.scope or scope in _ALSO.get(self.scope, ())
