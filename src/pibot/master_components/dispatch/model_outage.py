"""Waits for a model whose provider is away, as dispatch waits for a worker."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from pibot.contracts import NoWorkerKind, NoWorkerReason
from pibot.logs import event
from pibot.master_components.dispatch.timing import DispatchTiming
from pibot.master_components.store.states import MAX_ATTEMPTS

MAX_SPARED = 3
"""Workers whose own fault costs a step no attempt. Beyond, the step may be what makes them sick."""

log = logging.getLogger("pibot.dispatcher")


class ModelOutage:
    """What dispatch knows of the provider. Use it in one event loop; only :attr:`reason` is for any thread.

    Args:
        timing: the clock, the sleep, and how long to wait between two tries.

    Attributes:
        reason: why the provider counts as away; None where it answers, as far as is known.
        answered_at: monotonic seconds of the last sign that it answers.
    """

    def __init__(self, timing: DispatchTiming) -> None:
        self._timing = timing
        self.reason: str | None = None
        self.answered_at = float("-inf")
        self._said_by: set[str] = set()
        self._rounds = 0
        self._try_again = 0.0

    @property
    def waits(self) -> NoWorkerReason | None:
        """Why every step waits, whatever workers there are; None if none does. May be read from any thread."""
        reason = self.reason
        return None if reason is None else NoWorkerReason(NoWorkerKind.MODEL_AWAY, f"for the model: {reason}")

    def failed_for(self, worker_id: str, reason: str, *, only_one: bool) -> bool:
        """Note that a worker says so. Its word alone must not stop the fleet (docs/decisions.md, D117).

        Args:
            only_one: the fleet has no other worker that could say so.

        Returns:
            Whether the provider counts as away; if not, it may be this worker alone that it does not answer.
        """
        self._said_by.add(worker_id)
        believed = only_one or self.reason is not None or len(self._said_by) > 1
        if believed:
            self.failed(reason)
        return believed

    def failed(self, reason: str) -> None:
        """Note that the provider did not answer. The pause before the next try doubles with each round of tries."""
        now = self._timing.monotonic()
        if self.reason is None:
            event(log, "model_away", level=logging.WARNING, error=reason)
        self.reason = reason
        if now >= self._try_again:  # steps that tried at the same time are one round
            self._rounds += 1
            self._try_again = now + self._timing.pause_after(self._rounds)

    def answered(self) -> None:
        """Note that the model answered."""
        if self.reason is not None:
            event(log, "model_back")
        self.reason, self._rounds, self._try_again = None, 0, 0.0
        self._said_by.clear()
        self.answered_at = self._timing.monotonic()

    async def over_or_next_try(self) -> None:
        """Wait until it is time to try again; return at once without an outage."""
        if self.reason is not None:
            await self._timing.sleep(max(0.0, self._try_again - self._timing.monotonic()))


@dataclass
class Patience:
    """How long one step, or the planning of one job, waits for workers and a model that can serve it.

    Args:
        outage: what is known of the provider.
        timing: the clock, and for how long.
    """

    outage: ModelOutage
    timing: DispatchTiming
    _since: float | None = field(default=None, init=False)
    _strikes: int = field(default=0, init=False)
    _spared_by: set[str] = field(default_factory=set, init=False)

    def try_began(self) -> float:
        """Return when a try begins, for :meth:`own_fault`."""
        return self.timing.monotonic()

    def own_fault(self, began: float) -> bool:
        """Return whether it is this request that the provider fails on: it answers others meanwhile, several times."""
        if self.outage.answered_at >= began:
            self._strikes += 1
        return self._strikes >= MAX_ATTEMPTS

    def spares(self, worker_id: str) -> bool:
        """Return whether a worker's own fault is no attempt: not after it struck several, since then it is the step."""
        self._spared_by.add(worker_id)
        return len(self._spared_by) <= MAX_SPARED

    def used_up(self) -> str | None:
        """Return the sentence for a wait that took too long since the first fault; None while it may go on."""
        now, seconds = self.timing.monotonic(), self.timing.no_worker
        if self._since is None:
            self._since = now
        if seconds is None or now - self._since < seconds:
            return None
        return f"not done within {seconds:g} seconds (PIBOT_NO_WORKER_SECONDS)"
