"""Adds up the model calls in the job database: by job, by day, by caller and by model."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from pibot.contracts import Clock, Usage
from pibot.master_components.store.database import Database
from pibot.master_components.store.records import Lease
from pibot.master_components.store.rows import lease_from
from pibot.master_components.store.spending import Spending, Spent
from pibot.master_components.store.states import StepState
from pibot.master_components.store.tables import LEASE

DAYS_KEPT = 400
"""How many days with model calls are kept: a little over a year. They are counted, because a Pi's clock may jump by
years."""

_SUMS = (
    "prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
    " completion_tokens = completion_tokens + excluded.completion_tokens,"
    " calls = calls + excluded.calls, estimated = estimated + excluded.estimated,"
    " cost = CASE WHEN excluded.cost IS NULL THEN cost ELSE coalesce(cost, 0) + excluded.cost END"
)


class Accounts:
    """Stores model calls and their sums. Methods block for as long as the disk takes.

    Args:
        file: the open job database.
        clock: seconds since the epoch.
    """

    def __init__(self, file: Database, clock: Clock) -> None:
        self._transaction: Callable[[], AbstractContextManager[sqlite3.Connection]] = file.transaction
        self._reading: Callable[[], AbstractContextManager[sqlite3.Connection]] = file.reading
        self._clock = clock

    def today(self) -> str:
        """Return today's date in UTC, as ``2026-11-24``."""
        return time.strftime("%Y-%m-%d", time.gmtime(self._clock()))

    def add(self, calls: Sequence[Spent]) -> None:
        """Store all of ``calls`` or none: under today, and with their jobs if those still exist.

        Raises:
            StoreUnwritable: the database can't be written now.
        """
        day = self.today()
        with self._transaction() as db:
            for call in calls:
                _add_to_day(db, day, call)
                if call.job_id is not None and _add_to_job(db, call.job_id, call) and call.lease is not None:
                    _add_to_attempt(db, call.lease, call.usage)

    def lease_of(self, worker_id: str) -> Lease | None:
        """Return the lease that a worker holds; None if it holds none."""
        with self._reading() as db:
            row = db.execute(
                f"SELECT {LEASE} FROM subtask WHERE state = '{StepState.LEASED.value}' AND worker_id = ?"  # nosec B608 # an enum's value
                " ORDER BY expires_at DESC LIMIT 1",
                (worker_id,),
            ).fetchone()
        return None if row is None else lease_from(row)

    def used_by(self, job_id: str) -> int:
        """Return a job's tokens, including those that only its workers reported; 0 for an unknown job."""
        with self._reading() as db:
            row = db.execute(
                "SELECT prompt_tokens + completion_tokens AS tokens FROM job WHERE job_id = ?", (job_id,)
            ).fetchone()
        return 0 if row is None else int(row["tokens"])

    def of_job(self, job_id: str) -> tuple[Spending, ...]:
        """Sum up a job's model calls by caller and model."""
        with self._reading() as db:
            return _rows(db.execute("SELECT * FROM job_spending WHERE job_id = ? ORDER BY caller, model", (job_id,)))

    def of_day(self, day: str | None = None) -> tuple[Spending, ...]:
        """Sum up a day's model calls by caller and model; today's by default."""
        with self._reading() as db:
            found = db.execute(
                "SELECT * FROM day_spending WHERE day = ? ORDER BY caller, model", (day or self.today(),)
            )
            return _rows(found)

    def days(self, limit: int) -> tuple[tuple[str, Spending], ...]:
        """Return the last ``limit`` days with model calls, the newest first, each with its sum."""
        with self._reading() as db:
            found = db.execute(
                "SELECT day, '' AS caller, '' AS model, sum(prompt_tokens) AS prompt_tokens,"
                " sum(completion_tokens) AS completion_tokens, sum(calls) AS calls, sum(estimated) AS estimated,"
                " sum(cost) AS cost FROM day_spending GROUP BY day ORDER BY day DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return tuple((row["day"], _spending(row)) for row in found)

    def prune(self, keep: int = DAYS_KEPT) -> int:
        """Delete all but the last ``keep`` days; return how many rows that were."""
        with self._transaction() as db:
            # In a subquery of the DELETE, SQLite (3.40, 3.46) ignores the OFFSET.
            last = db.execute(
                "SELECT day FROM day_spending GROUP BY day ORDER BY day DESC LIMIT 1 OFFSET ?", (keep,)
            ).fetchone()
            return 0 if last is None else db.execute("DELETE FROM day_spending WHERE day <= ?", (last["day"],)).rowcount


def _add_to_day(db: sqlite3.Connection, day: str, call: Spent) -> None:
    db.execute(
        "INSERT INTO day_spending VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        f" ON CONFLICT (day, caller, model) DO UPDATE SET {_SUMS}",  # nosec B608 # a constant
        (day, call.caller, call.model, *_figures(call)),
    )


def _add_to_job(db: sqlite3.Connection, job_id: str, call: Spent) -> bool:
    """Add a call to its job; return whether the job still exists."""
    done = db.execute(
        "UPDATE job SET prompt_tokens = prompt_tokens + ?, completion_tokens = completion_tokens + ?,"
        " llm_calls = llm_calls + ?, cost = CASE WHEN ? IS NULL THEN cost ELSE coalesce(cost, 0) + ? END"
        " WHERE job_id = ?",
        (*_tokens(call.usage), call.cost, call.cost, job_id),
    )
    if done.rowcount == 0:
        return False
    db.execute(
        "INSERT INTO job_spending VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        f" ON CONFLICT (job_id, caller, model) DO UPDATE SET {_SUMS}",  # nosec B608 # a constant
        (job_id, call.caller, call.model, *_figures(call)),
    )
    return True


def _add_to_attempt(db: sqlite3.Connection, lease: Lease, usage: Usage) -> None:
    db.execute(
        "UPDATE attempt SET prompt_tokens = prompt_tokens + ?, completion_tokens = completion_tokens + ?,"
        " llm_calls = llm_calls + ? WHERE job_id = ? AND task_id = ? AND token = ?",
        (*_tokens(usage), lease.job_id, lease.task_id, lease.token),
    )


def _figures(call: Spent) -> tuple[int, int, int, int, float | None]:
    return (*_tokens(call.usage), int(call.estimated), call.cost)


def _tokens(usage: Usage) -> tuple[int, int, int]:
    return usage.prompt_tokens, usage.completion_tokens, usage.llm_calls


def _rows(found: sqlite3.Cursor) -> tuple[Spending, ...]:
    return tuple(_spending(row) for row in found)


def _spending(row: sqlite3.Row) -> Spending:
    usage = Usage(row["prompt_tokens"], row["completion_tokens"], row["calls"])
    return Spending(usage, row["estimated"], row["cost"], row["caller"], row["model"])
