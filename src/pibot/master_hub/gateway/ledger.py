"""The gateway's accounts: which job a call is counted to, what it costs, and whether there is budget left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pibot.contracts import Caller
from pibot.errors import StoreError
from pibot.logs import event
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Lease
from pibot.master_components.store.spending import MASTER, Spending, Spent, total
from pibot.master_components.store.thread import StoreThread
from pibot.master_hub.gateway import errors
from pibot.master_hub.gateway.meter import Counted
from pibot.settings import GatewaySettings

log = logging.getLogger("pibot.gateway")

T = TypeVar("T")

UNWRITTEN_KEPT = 10_000
"""Calls kept in memory (some MB) until the disk can be written again; the oldest are dropped first."""


@dataclass(frozen=True)
class Account:
    """What a call is counted to.

    Args:
        caller: name of the key that the call came with, or of the hub itself.
        job_id, lease: the job, and the worker's lease of its step; None for a call that belongs to no job.
    """

    caller: str
    job_id: str | None = None
    lease: Lease | None = None


class Ledger:
    """Keeps the budgets, and writes each call's tokens to the job store. Use it within one event loop, except
    :attr:`since_start` and :meth:`today`, which any thread may use.

    Args:
        store: the job store.
        settings: the budgets and prices.
    """

    def __init__(self, store: JobStore, settings: GatewaySettings) -> None:
        self._store = store
        self._settings = settings
        self._on_disk = StoreThread()
        self._running: dict[object, tuple[Account, int]] = {}
        self._unwritten: list[Spent] = []
        self._being_written: dict[object, list[Spent]] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._sums: dict[tuple[str, str], Spending] = {}

    @property
    def since_start(self) -> tuple[Spending, ...]:
        """Tokens and costs since the hub's start, by caller and model."""
        return tuple(self._sums[key] for key in sorted(self._sums))

    async def account_of(self, caller: Caller | None, job_id: str | None = None) -> Account:
        """Return the account of a call.

        A worker runs one task at a time, so its call belongs to the job whose step is leased to it; what the worker
        itself says is ignored. A worker without a lease runs a task that was sent to it directly.

        Args:
            caller: whose key the call came with; None for the hub itself.
            job_id: the job that the hub itself calls for.

        Raises:
            GatewayError: the store can't be read.
        """
        if caller is None:
            return Account(MASTER, job_id)
        if caller.worker_id is None:
            return Account(caller.name)
        # docs/decisions.md, D58
        lease = await self._ask(self._store.accounts.lease_of, caller.worker_id)
        return Account(caller.worker_id, None if lease is None else lease.job_id, lease)

    async def begin(self, account: Account, expected: int) -> object:
        """Let a call run if there is budget left.

        The prompt tokens of running calls count as used, so that calls at the same time overshoot a budget by no more
        than their answers.

        Args:
            expected: estimated tokens of the prompt.

        Returns:
            A key for :meth:`end`.

        Raises:
            GatewayError: the budget of the job or of the day is used up, or the store can't be read.
        """
        job_tokens, day_tokens = self._settings.job_tokens, self._settings.day_tokens
        job_id = account.job_id if job_tokens is not None else None
        used, today = 0, 0
        if job_id is not None or day_tokens is not None:
            used, today = await self._ask(self._used, job_id, day_tokens is not None)
        # No await from here on: a call that begins in between would not see this one.
        running = self._not_yet_written(lambda other: other.job_id == job_id)
        if job_tokens is not None and job_id is not None and used + running >= job_tokens:
            raise errors.budget_used_up(
                f"job {job_id} has used {used:,} tokens{_and_running(running)}, and PIBOT_JOB_TOKENS on "
                f"the master allows {job_tokens:,} a job; raise it there, or ask for less in one job"
            )
        running = self._not_yet_written(lambda other: True)
        if day_tokens is not None and today + running >= day_tokens:
            day = self._store.accounts.today()
            raise errors.budget_used_up(
                f"the fleet has used {today:,} tokens on {day} (UTC){_and_running(running)}, and PIBOT_DAY_TOKENS "
                f"on the master allows {day_tokens:,} a day; raise it there, or go on tomorrow"
            )
        key = object()
        self._running[key] = account, expected
        return key

    async def end(self, key: object, model: str, counted: Counted | None) -> None:
        """End a call, and write its tokens. Ending it twice counts it once.

        Args:
            key: from :meth:`begin`.
            model: the model that was asked.
            counted: the call's tokens; None if nothing was answered, which counts nothing.
        """
        if key not in self._running:
            return
        account, _ = self._running[key]
        if counted is not None:
            spent = self._spent(account, model, counted)
            self._note(spent)
            event(
                log,
                "gateway_counted",
                caller=spent.caller,
                job=spent.job_id,
                model=spent.model,
                prompt=spent.usage.prompt_tokens,
                completion=spent.usage.completion_tokens,
                estimated=spent.estimated or None,
            )
            self._unwritten = [*self._unwritten, spent][-UNWRITTEN_KEPT:]
            del self._running[key]
            # The waiting caller may be cancelled, as the planner is with its job, but its tokens were used.
            writing = asyncio.ensure_future(self._write())
            self._writing.add(writing)
            writing.add_done_callback(self._writing.discard)
            await asyncio.shield(writing)
        else:
            del self._running[key]

    def today(self) -> Spending:
        """Return the sum of today's calls in the database; blocks for the disk."""
        return total(self._store.accounts.of_day())

    async def stop(self) -> None:
        """Write the calls that are not in the database yet."""
        await asyncio.gather(*self._writing)
        await self._write()

    def close(self) -> None:
        """End the ledger's thread."""
        self._on_disk.close()

    def _spent(self, account: Account, model: str, counted: Counted) -> Spent:
        usage = counted.usage
        cost = self._settings.cost(model, usage.prompt_tokens, usage.completion_tokens)
        return Spent(account.caller, model, usage, account.job_id, account.lease, counted.estimated, cost)

    def _note(self, spent: Spent) -> None:
        key = spent.caller, spent.model
        more = Spending(spent.usage, int(spent.estimated), spent.cost)
        known = (self._sums[key],) if key in self._sums else ()
        together = total((*known, more))
        self._sums[key] = Spending(together.usage, together.estimated, together.cost, *key)

    async def _write(self) -> None:
        """Write the waiting calls. If that fails, they are written together with the next call."""
        calls, self._unwritten = self._unwritten, []
        if not calls:
            return
        key = object()
        self._being_written[key] = calls  # so that budgets still see them
        try:
            await self._on_disk.once(self._store.spend, calls)
        except StoreError as exc:
            self._unwritten = [*calls, *self._unwritten][-UNWRITTEN_KEPT:]
            event(log, "calls_not_counted", level=logging.ERROR, number=len(self._unwritten), error=str(exc))
        finally:
            del self._being_written[key]

    def _used(self, job_id: str | None, day: bool) -> tuple[int, int]:
        """Return the tokens of the job and of today in the database; blocks for the disk."""
        accounts = self._store.accounts
        return (
            0 if job_id is None else accounts.used_by(job_id),
            self.today().usage.total_tokens if day else 0,
        )

    async def _ask(self, question: Callable[..., T], *arguments: object) -> T:
        try:
            return await self._on_disk.once(question, *arguments)
        except StoreError as exc:
            failure = errors.store_failed(exc)
        raise failure

    def _not_yet_written(self, counts: Callable[[Account], bool]) -> int:
        """Return the tokens not yet in the database: prompts of running calls, and ended calls still to be written."""
        running = sum(expected for account, expected in self._running.values() if counts(account))
        unwritten = (self._unwritten, *self._being_written.values())
        waiting = sum(s.usage.total_tokens for part in unwritten for s in part if counts(Account(s.caller, s.job_id)))
        return running + waiting


def _and_running(tokens: int) -> str:
    return f" and about {tokens:,} in calls that still run" if tokens else ""
