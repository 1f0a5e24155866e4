"""Keep the job database within its limits: refuse jobs when it is full, and delete old ones."""

from __future__ import annotations

import sqlite3

from pibot.errors import QueueFull
from pibot.master_components.store.database import Database
from pibot.master_components.store.queries import JobQueries
from pibot.master_components.store.states import ENDED_JOBS, UNFINISHED_JOBS, listed
from pibot.master_components.store.tables import Tables

MB = 1_000_000


class StoreLimits:
    """The limits of one job database. Methods block for as long as the disk takes; any thread may call them.

    Args:
        file: the open database.
        tables: the statements on it.
        queries: the reading half of the store.
        max_queued: how many unfinished jobs there may be; None for any number.
        queue_bytes: how many bytes the unfinished jobs may take when another one comes; None for any number.
    """

    def __init__(
        self, file: Database, tables: Tables, queries: JobQueries, max_queued: int | None, queue_bytes: int | None
    ) -> None:
        self._transaction = file.transaction
        self._tables = tables
        self._queries = queries
        self._max_queued = max_queued
        self._queue_bytes = queue_bytes

    def refuse_when_full(self, more: int) -> None:
        """Refuse another job with ``more`` bytes if there is no room for it.

        Raises:
            QueueFull: the message says which limit is reached, and how to raise it.
        """
        taken = self._queries.stored().unfinished
        if self._queue_bytes is not None and taken + more > self._queue_bytes:
            raise QueueFull(
                f"the queue is full: the jobs that have not ended take {taken / MB:.1f} MB, and PIBOT_QUEUE_MB on the "
                f"master allows {self._queue_bytes // MB}; send it again when some have ended"
            )
        counts = self._queries.counts()
        waiting = sum(counts[state] for state in UNFINISHED_JOBS)
        if self._max_queued is not None and waiting >= self._max_queued:
            raise QueueFull(
                f"the queue is full: {waiting} jobs have not ended, and PIBOT_MAX_QUEUED on the master allows "
                f"{self._max_queued}; send it again when some have"
            )

    def prune(
        self, *, keep_seconds: float, keep_jobs: int, keep_bytes: int | None = None, limit: int | None = None
    ) -> int:
        """Delete ended jobs: the oldest beyond ``keep_jobs`` and ``keep_bytes``, and those older than ``keep_seconds``.

        Args:
            keep_seconds: seconds in which a hub ran.
            keep_jobs: how many ended jobs to keep.
            keep_bytes: how many bytes of ended jobs to keep, and at least the job that ended last; None for any number.
            limit: how many to delete at most, so that other callers do not wait long for the file.

        Returns:
            How many jobs were deleted.
        """
        ended = f"state IN {listed(ENDED_JOBS)}"
        found = f"SELECT seq FROM job INDEXED BY job_ended WHERE {ended}"  # nosec B608 # an enum's values
        with self._transaction() as db:

            def delete(which: str, *values: float) -> int:
                return db.execute(f"DELETE FROM job WHERE seq IN ({which})", values).rowcount  # nosec B608 # one of the two statements below

            (number,) = db.execute(f"SELECT coalesce(sum(number), 0) FROM tally WHERE {ended}").fetchone()  # nosec B608 # an enum's values
            at_once = number if limit is None else limit
            beyond = delete(f"{found} ORDER BY finished_run, seq LIMIT ?", min(max(0, number - keep_jobs), at_once))  # nosec B608 # see found
            oldest_kept = self._tables.running_time() - keep_seconds
            old = delete(f"{found} AND finished_run < ? LIMIT ?", oldest_kept, at_once - beyond)
            left = min(at_once, number - 1) - beyond - old
            return beyond + old + (0 if keep_bytes is None else self._prune_to(db, keep_bytes, left))

    def _prune_to(self, db: sqlite3.Connection, keep_bytes: int, limit: int) -> int:
        """Delete up to ``limit`` of the oldest ended jobs, until the others take at most ``keep_bytes``."""
        excess = self._queries.stored().ended - keep_bytes
        if excess <= 0 or limit <= 0:
            return 0
        oldest = db.execute(
            "SELECT seq, bytes FROM job INDEXED BY job_ended CROSS JOIN size USING (job_id)"
            f" WHERE state IN {listed(ENDED_JOBS)} ORDER BY finished_run, seq LIMIT ?",  # nosec B608 # an enum's values
            (limit,),
        ).fetchall()
        gone = []
        for row in oldest:
            if excess <= 0:
                break
            gone.append((row["seq"],))
            excess -= row["bytes"]
        db.executemany("DELETE FROM job WHERE seq = ?", gone)
        return len(gone)
