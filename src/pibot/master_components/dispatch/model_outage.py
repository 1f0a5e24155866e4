"""Waits for a model whose provider is away, as dispatch waits for a worker."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from pibot.contracts import NoWorkerKind, NoWorkerReason
from pibot.llm_client.resting import shown
from pibot.logs import event
from pibot.master_components.dispatch.timing import DispatchTiming
from pibot.master_components.store.states import MAX_ATTEMPTS

MAX_REST = 86400.0
"""Seconds of a rest that are believed; then the provider is asked again, which costs one call."""

# docs/decisions.md, D132
MAX_TOLD_REST = 3600.0
"""Seconds of a rest that workers are believed, where there are several. Two that lie must not stop the fleet for
longer."""

MAX_SPARED = 3
"""Workers whose own fault costs a step no attempt. Beyond, the step may be what makes them sick."""

log = logging.getLogger("pibot.dispatcher")


@dataclass(frozen=True)
class _Rest:
    """A time for which the provider asked to be left alone.

    Args:
        noted: monotonic seconds at which dispatch learnt of it.
        until: monotonic seconds at which it ends.
        shown: the same for people.
    """

    noted: float
    until: float
    shown: str


class ModelOutage:
    """What dispatch knows of the provider. Use it in one event loop; only :attr:`waits` is for any thread.

    Args:
        timing: the clock, the sleep, and how long to wait between two tries.

    Attributes:
        reason: why the provider counts as away; None where it answers, as far as is known.
        answered_at: monotonic seconds of the last task or plan that it answered.
    """

    def __init__(self, timing: DispatchTiming) -> None:
        self._timing = timing
        self.reason: str | None = None
        self.answered_at = float("-inf")
        self._said_by: set[str] = set()
        self._rounds = 0
        self._try_again = 0.0
        self._rest: _Rest | None = None
        self._over: set[asyncio.Event] = set()

    @property
    def waits(self) -> NoWorkerReason | None:
        """Why every step waits, whatever workers there are; None if none does. May be read from any thread."""
        reason, rest = self.reason, self._rest
        if reason is None:
            return None
        if rest is None or rest.until <= self._timing.monotonic():
            return NoWorkerReason(NoWorkerKind.MODEL_AWAY, f"for the model: {reason}")
        return NoWorkerReason(NoWorkerKind.MODEL_RESTS, f"for the model, which rests until {rest.shown}: {reason}")

    def failed_for(self, worker_id: str, reason: str, *, only_one: bool, rest: float | None = None) -> bool:
        """Note that a worker says so. Its word alone must not stop the fleet (docs/decisions.md, D117).

        Args:
            only_one: the fleet has no other worker that could say so.
            rest: seconds for which the provider asked it to be left alone.

        Returns:
            Whether the provider counts as away; if not, it may be this worker alone that it does not answer.
        """
        self._said_by.add(worker_id)
        believed = only_one or self.reason is not None or len(self._said_by) > 1
        if believed:
            self.failed(reason, rest=None if rest is None else rest if only_one else min(rest, MAX_TOLD_REST))
        return believed

    def failed(self, reason: str, *, rest: float | None = None) -> None:
        """Note that the provider did not answer. The pause before the next try doubles with each round of tries.

        Args:
            rest: seconds for which it asked to be left alone; no try comes before.
        """
        now = self._timing.monotonic()
        if self.reason is None:
            event(log, "model_away", level=logging.WARNING, error=reason)
        resting = self._rest is not None and self._rest.until > now
        if now >= self._try_again:  # steps that tried at the same time are one round
            self._rounds += 1
            self._try_again = now + self._timing.pause_after(self._rounds)
        until = now + min(rest or 0.0, MAX_REST)
        if until > self._try_again + 1.0 or (rest and not resting):
            self._try_again = max(until, self._try_again)
            self._rest = _Rest(now, until, shown(self._timing.wall() + until - now))
            event(log, "model_rests", level=logging.WARNING, until=self._rest.shown, error=reason)
            self.reason = reason
        elif not resting:
            self.reason = reason

    def answered(self, began: float) -> None:
        """Note that the model answered a task or a plan.

        Args:
            began: monotonic seconds at which the try began.
        """
        self.answered_at = self._timing.monotonic()
        self.seen_to_answer(began)

    def seen_to_answer(self, began: float) -> None:
        """Note that the provider answered a call. A call from before a rest does not end it."""
        now, rest = self._timing.monotonic(), self._rest
        if rest is not None and rest.until > now and began <= rest.noted:
            return
        if self.reason is not None:
            event(log, "model_back")
        self.reason, self._rounds, self._try_again, self._rest = None, 0, 0.0, None
        self._said_by.clear()
        for over in self._over:
            over.set()

    async def over_or_next_try(self, most: float | None = None) -> None:
        """Wait until it is time to try again, or the outage is over; return at once without one.

        Args:
            most: seconds that the caller can wait; None for no limit.
        """
        if self.reason is None:
            return
        seconds = max(0.0, self._try_again - self._timing.monotonic())
        over = asyncio.Event()
        self._over.add(over)
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(over.wait())]
        waits.append(asyncio.ensure_future(self._sleep(seconds if most is None else min(seconds, most))))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._over.discard(over)
            for wait in waits:
                wait.cancel()

    @property
    def rests(self) -> bool:
        """Whether the provider asked to be left alone for now."""
        return self._rest is not None and self._rest.until > self._timing.monotonic()

    async def _sleep(self, seconds: float) -> None:
        await self._timing.sleep(seconds)


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

    def own_fault(self, began: float, rest: float | None) -> bool:
        """Return whether it is this request that the provider fails on: it answers others meanwhile, several times.

        Args:
            began: when the try began.
            rest: seconds for which the provider asked to be left alone. One that does so fails on no request.
        """
        if rest is None and self.outage.answered_at >= began:
            self._strikes += 1
        return self._strikes >= MAX_ATTEMPTS

    def spares(self, worker_id: str) -> bool:
        """Return whether a worker's own fault is no attempt: not after it struck several, since then it is the step."""
        self._spared_by.add(worker_id)
        return len(self._spared_by) <= MAX_SPARED

    def used_up(self) -> str | None:
        """Return the sentence for a wait that took too long since the first fault; None while it may go on."""
        left = self._left()
        if left is None or left > 0:
            return None
        return f"not done within {self.timing.no_worker:g} seconds (PIBOT_NO_WORKER_SECONDS)"

    async def wait_for_model(self) -> str | None:
        """Wait until the model may be asked again.

        Returns:
            The sentence for a wait that took too long while the model still rests; else None.
        """
        if self.outage.reason is None:
            return None
        await self.outage.over_or_next_try(self._left())
        waits = self.outage.waits
        used_up = self.used_up() if self.outage.rests else None
        return None if used_up is None else f"{used_up}; it waited {waits}"

    def _left(self) -> float | None:
        """Return the seconds that it may still wait, from the first fault on; None for no limit."""
        now, seconds = self.timing.monotonic(), self.timing.no_worker
        if self._since is None:
            self._since = now
        return None if seconds is None else max(0.0, self._since + seconds - now)
