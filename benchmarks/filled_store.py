"""A job database that holds any number of ended jobs, made in a second: one real job, copied by SQL."""

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


def run_one(store: JobStore, job_id: str | None = None) -> str:
    """Bring one job of one step to its end, through the store's own methods; its id."""
    job = store.submit(Submission("Do nothing", skills=(), job_id=job_id))
    lease = store.lease(job.job_id, STEP, "worker-1", 60.0)
    result = TaskResult(STEP, "worker-1", TaskState.COMPLETED, output="done", started_at=0.0, finished_at=0.0)
    store.complete(lease, result, finish_job=True)
    return job.job_id


def fill(path: Path, jobs: int) -> None:
    """Make the database ``path`` hold ``jobs`` ended jobs, with their steps, attempts and events.

    Whatever columns the tables have are copied, so this knows nothing of the schema but the tables' names.
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
            # The names are the schema's own.
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
        run_one(store)  # the store drops the events beyond those that it keeps, every so many
    store.close()
