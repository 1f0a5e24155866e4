"""Remembers which models are not to be asked for now, because their providers asked to be left alone."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from pibot.contracts import Clock
from pibot.errors import LLMAway
from pibot.llm_client.retry import Failure, in_words


@dataclass(frozen=True)
class ModelRest:
    """A model's rest.

    Args:
        until: seconds on the clock at which it ends.
        reason: what the provider said, as a sentence.
    """

    until: float
    reason: str


class RestingModels:
    """The models that rest, in memory: after a restart, each is asked once. Any thread may call :meth:`get`.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rests: dict[Hashable, ModelRest] = {}

    def begin(self, model: Hashable, failure: Failure) -> None:
        """Let a model rest after a failure that names for how long."""
        if failure.rest is not None:
            self._rests[model] = ModelRest(self._clock() + failure.rest, str(failure.error))

    def end(self, model: Hashable) -> None:
        """End a model's rest: it answered."""
        self._rests.pop(model, None)

    def get(self, model: Hashable) -> ModelRest | None:
        """Return a model's rest; None if it may be asked."""
        rest = self._rests.get(model)
        return rest if rest is not None and rest.until > self._clock() else None

    def failure(self, model: Hashable) -> Failure | None:
        """Return the failure of a call that is not made because the model rests; None if it may be asked."""
        rest = self.get(model)
        if rest is None:
            return None
        left = rest.until - self._clock()
        error = LLMAway(f"{rest.reason}; it is not asked for another {in_words(left)}")
        error.rest = left
        return Failure(error, retry_after=left)
