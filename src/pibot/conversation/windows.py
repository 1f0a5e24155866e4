"""What a worker knows of its model's window: as set, as learnt from refusals and counts, or assumed."""

from __future__ import annotations

import time

from pibot.contracts import Clock

ASSUMED_WINDOW = 128_000
"""Tokens of a model of which nothing is known. One with less says so in its first refusal."""

LEARNT_SECONDS = 3600.0
"""How long a learnt window is believed: it may have been a fallback's, or the server was started anew with more."""


class ModelWindows:
    """The window of the model, for all tasks of one process.

    Args:
        known: tokens, from what is known of the model by its name; None where nothing is.
        chosen: tokens, as this machine's owner says; None where that is nothing.
        clock: returns seconds.

    Attributes:
        ratio: the provider's tokens for each estimated one, as its last count had it; None before the first.
    """

    def __init__(self, known: int | None = None, chosen: int | None = None, clock: Clock = time.monotonic) -> None:
        self._chosen = chosen
        self._known = known
        self._clock = clock
        self._told: int | None = None
        self._learnt: int | None = None
        self._learnt_at = 0.0
        self.ratio: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        known = self._chosen or self._told or self._known or ASSUMED_WINDOW
        if self._learnt is not None and self._clock() - self._learnt_at < LEARNT_SECONDS:
            return min(known, self._learnt)
        return known

    def tell(self, tokens: int | None) -> None:
        """Note the window of the model that answered, as the fleet's gateway says; None where it says nothing."""
        self._told = tokens

    def learn(self, tokens: int) -> None:
        """Note a window that the provider named, or showed."""
        self._learnt, self._learnt_at = tokens, self._clock()
