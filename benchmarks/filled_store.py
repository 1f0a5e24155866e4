"""Fill a job database with any number of ended jobs in a second, by copying one real job with SQL."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from pibot.contracts import TaskResult, TaskState
from pibot.master_components import JobStore
from pibot.master_components.store.records import Submission

PATTERN = "pattern"
STEP = "step-1"
SETTLING = 30
"""Jobs to run afterwards, so that the store drops the events above its limit, which it does at intervals."""


def run_one(store: JobStore, job_id: str | None = None) -> str:
    """Run one job of one step to its end with the store's own methods, and return its id."""
    job = store.submit(Submission("Do nothing", skills=(), job_id=job_id))
    lease = store.leases.grant(job.job_id, STEP, "worker-1", 60.0)
    result = TaskResult(STEP, "worker-1", TaskState.COMPLETED, output="done", started_at=0.0, finished_at=0.0)
    store.leases.complete(lease, result, finish_job=True)
    return job.job_id


def fill(path: Path, jobs: int) -> None:
    """Create the database ``path`` with ``jobs`` ended jobs and their steps, attempts and events.

    Copies whatever columns the tables have, so it depends on the tables' names only.
    """
    store = JobStore(path)
    run_one(store, PATTERN)
    store.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        for table in ("job", "subtask", "attempt", "event"):
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] not in ("seq", "job_id")]
            names = ", ".join(columns)
            db.execute(
                f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                f" INSERT INTO {table} (job_id, {names})"  # nosec B608 # the schema's own names
                f" SELECT 'filled-' || i, {names} FROM n, {table} WHERE job_id = ?",
                (jobs - 1, PATTERN),
            )
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store = JobStore(path)
    for _ in range(SETTLING):
        run_one(store)
    store.close()
