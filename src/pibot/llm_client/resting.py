"""Remember which models are not to be asked for now, because their providers asked to be left alone."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Generic, TypeVar

from pibot.contracts import Clock
from pibot.errors import LLMAway
from pibot.llm_client.retry import Failure, in_words

T = TypeVar("T")


@dataclass(frozen=True)
class ModelRest:
    """A model's rest.

    Args:
        until: seconds on the clock at which it ends.
        reason: what the provider said, as a sentence.
    """

    until: float
    reason: str


class RestingModels(Generic[T]):
    """The models that rest, in memory: after a restart, each is asked once. Any thread may read.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rests: dict[T, ModelRest] = {}

    def begin(self, model: T, failure: Failure) -> None:
        """Let a model rest after a failure that names for how long."""
        if failure.rest is not None:
            self._rests[model] = ModelRest(self._clock() + failure.rest, str(failure.error))

    def all(self) -> list[tuple[T, ModelRest]]:
        """Return every model that rests, with its rest."""
        now = self._clock()
        return [(model, rest) for model, rest in list(self._rests.items()) if rest.until > now]

    def get(self, model: T) -> ModelRest | None:
        """Return a model's rest; None if it may be asked."""
        rest = self._rests.get(model)
        return rest if rest is not None and rest.until > self._clock() else None

    def failure(self, model: T) -> Failure | None:
        """Return the failure of a call that is not made because the model rests; None if it may be asked."""
        rest = self.get(model)
        if rest is None:
            return None
        left = rest.until - self._clock()
        error = LLMAway(f"{rest.reason}; it is not asked for another {in_words(left)}")
        error.rest = left
        return Failure(error, retry_after=left)


def shown(epoch: float) -> str:
    """Return a time for people, in UTC: a hub and its owner may live in different zones."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(math.ceil(epoch)))
