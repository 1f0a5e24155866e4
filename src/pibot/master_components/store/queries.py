"""Reads the job database."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, replace

from pibot.contracts import SubTask
from pibot.master_components.store.database import Database
from pibot.master_components.store.records import Attempt, Event, Job, JobRecord, Lease, StepRecord
from pibot.master_components.store.rows import job_from, lease_from
from pibot.master_components.store.states import UNFINISHED_JOBS, JobState, StepState, listed
from pibot.master_components.store.tables import LEASE, Tables

EXCERPT_CHARS = 500
"""Characters of a job's texts in a listing. The job itself has all of them."""


def _start(column: str) -> str:
    """Read one character more than an excerpt has, so that a cut can be seen, and not the whole text."""
    return f"substr({column}, 1, {EXCERPT_CHARS + 1})"


_LISTED = (
    f"SELECT job_id, {_start('description')} AS description, state, priority, timeout, NULL AS plan,"  # nosec B608 # constants
    f" {_start('answer')} AS answer, {_start('error')} AS error, prompt_tokens, completion_tokens, llm_calls, cost,"
    " created_at, started_at, finished_at, cancel_requested, accepted_run FROM job"
)
"""The columns that a listing needs, with the starts of the long texts."""


@dataclass(frozen=True)
class StoredBytes:
    """The bytes of the jobs' texts in the database.

    Args:
        unfinished, ended: of the jobs that have not ended, and of those that have.
    """

    unfinished: int
    ended: int


class JobQueries:
    """Answers questions about jobs, steps and events. Methods block for as long as the disk takes.

    Args:
        file: the open database.
        tables: the statements on it.
    """

    def __init__(self, file: Database, tables: Tables) -> None:
        self._reading = file.reading
        self._tables = tables

    def job(self, job_id: str) -> Job:
        """Return a job with its steps and their attempts.

        Raises:
            JobNotFound: no job has that id.
        """
        with self._reading():
            return self._tables.job(job_id)

    def export(self, job_id: str) -> JobRecord:
        """Return everything that is stored about a job.

        Raises:
            JobNotFound: no job has that id.
        """
        with self._reading() as db:
            rows = db.execute("SELECT * FROM event WHERE job_id = ? ORDER BY seq", (job_id,)).fetchall()
            return JobRecord(self._tables.job(job_id), tuple(Event(**dict(row)) for row in rows))

    def jobs(self, *, state: JobState | None = None, limit: int = 50, before: str | None = None) -> tuple[Job, ...]:
        """Return jobs, the newest first, with excerpts of their texts, and without plans and steps.

        Args:
            state: only jobs in this state.
            limit: how many at most.
            before: a job's id; only jobs that were accepted before it.

        Raises:
            JobNotFound: no job has the id ``before``.
        """
        conditions, values = [], []
        with self._reading() as db:
            if state is not None:
                conditions.append("state = ?")
                values.append(state.value)
            if before is not None:
                conditions.append("seq < ?")
                values.append(self._tables.row(before)["seq"])
            where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
            # The conditions are the constants above; the callers' values are bound.
            rows = db.execute(f"{_LISTED} {where} ORDER BY seq DESC LIMIT ?", (*values, limit))  # nosec B608 # where holds question marks
            return tuple(map(_excerpt_from, rows))

    def at_work(self, limit: int) -> tuple[Job, ...]:
        """Return the newest running jobs as :meth:`jobs` does, each with its leased steps and their last attempts."""
        with self._reading() as db:
            jobs = self.jobs(state=JobState.RUNNING, limit=limit)
            return tuple(replace(job, steps=_leased_steps(db, job)) for job in jobs)

    def unfinished(self, limit: int = -1) -> tuple[str, ...]:
        """Return the ids of the first ``limit`` jobs that have not ended, by priority, then by age."""
        with self._reading() as db:
            rows = db.execute(
                # SQLite would choose the index by state, and sort all queued jobs.
                f"SELECT job_id FROM job INDEXED BY job_unfinished WHERE state IN {listed(UNFINISHED_JOBS)}"  # nosec B608 # an enum's values
                " ORDER BY priority DESC, seq LIMIT ?",
                (limit,),
            )
            return tuple(row["job_id"] for row in rows)

    def deadlines(self) -> dict[str, float]:
        """Return the seconds left of each job that has a timeout and has not ended."""
        now = self.running_time()
        with self._reading() as db:
            rows = db.execute(
                "SELECT job_id, accepted_run + timeout AS ends FROM job INDEXED BY job_unfinished"
                f" WHERE state IN {listed(UNFINISHED_JOBS)} AND timeout IS NOT NULL"  # nosec B608 # an enum's values
            )
            return {row["job_id"]: max(0.0, row["ends"] - now) for row in rows}

    def leases(self) -> tuple[Lease, ...]:
        """Return the leases of the jobs that have not ended, at most one for each worker."""
        with self._reading() as db:
            rows = db.execute(
                f"SELECT {LEASE} FROM job INDEXED BY job_unfinished JOIN subtask USING (job_id)"  # nosec B608 # a constant
                f" WHERE job.state IN {listed(UNFINISHED_JOBS)} AND subtask.state = '{StepState.LEASED.value}'"  # nosec B608 # an enum's values
                " ORDER BY job.priority DESC, job.seq"
            )
            return tuple(map(lease_from, rows))

    def to_cancel(self) -> tuple[str, ...]:
        """Return the ids of the jobs that are to be cancelled and have not ended."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT job_id FROM job INDEXED BY job_unfinished"
                f" WHERE state IN {listed(UNFINISHED_JOBS)} AND cancel_requested"  # nosec B608 # an enum's values
            )
            return tuple(row["job_id"] for row in rows)

    def counts(self) -> dict[JobState, int]:
        """Count the jobs in each state."""
        with self._reading() as db:
            known = {row["state"]: row["number"] for row in db.execute("SELECT * FROM tally")}
        return {state: known.get(state.value, 0) for state in JobState}

    def stored(self) -> StoredBytes:
        """Return the bytes that the jobs take, from the database's running sums."""
        with self._reading() as db:
            sums = {row["ended"]: row["bytes"] for row in db.execute("SELECT ended, bytes FROM stored")}
        return StoredBytes(unfinished=sums[0], ended=sums[1])

    def open_steps(self) -> dict[StepState, int]:
        """Count the steps of unfinished jobs in each state."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT subtask.state, count(*) AS number FROM job JOIN subtask USING (job_id)"
                f" WHERE job.state IN {listed(UNFINISHED_JOBS)} GROUP BY subtask.state"  # nosec B608 # an enum's values
            )
            known = {row["state"]: row["number"] for row in rows}
        return {state: known.get(state.value, 0) for state in StepState}

    def time_left(self, job: Job) -> float | None:
        """Return the seconds until a job's timeout, at least 0; None if it has no timeout.

        Only time in which a hub ran counts, so that neither a power cut nor a jump of the clock ends a job.
        """
        if job.timeout is None:
            return None
        return max(0.0, job.accepted_run + job.timeout - self.running_time())

    def running_time(self) -> float:
        """Return the seconds that hubs have run with this database; see :class:`RunningTime`."""
        return self._tables.running_time()

    def events(self, limit: int = 50, after: int = 0) -> tuple[Event, ...]:
        """Return the last ``limit`` events, the newest first; only those with a number above ``after``."""
        with self._reading() as db:
            rows = db.execute("SELECT * FROM event WHERE seq > ? ORDER BY seq DESC LIMIT ?", (after, limit))
            return tuple(Event(**dict(row)) for row in rows)


def _excerpt(text: str | None) -> str | None:
    return text if text is None or len(text) <= EXCERPT_CHARS else text[: EXCERPT_CHARS - 1] + "…"


def _excerpt_from(row: sqlite3.Row) -> Job:
    job = job_from(row)
    return replace(
        job, description=_excerpt(job.description) or "", answer=_excerpt(job.answer), error=_excerpt(job.error)
    )


def _leased_steps(db: sqlite3.Connection, job: Job) -> tuple[StepRecord, ...]:
    """Read what a job's leased steps show while they run: an excerpt of the description, and the last attempt."""
    rows = db.execute(
        f"SELECT {LEASE}, {_start('description')} AS description, skills,"  # nosec B608 # constants
        " (SELECT started_at FROM attempt WHERE attempt.job_id = subtask.job_id AND attempt.task_id = subtask.task_id"
        " AND number = subtask.attempt) AS began FROM subtask"
        f" WHERE job_id = ? AND state = '{StepState.LEASED.value}' ORDER BY position",
        (job.job_id,),
    )
    return tuple(
        StepRecord(
            SubTask(row["task_id"], _excerpt(row["description"]) or job.description, tuple(json.loads(row["skills"]))),
            StepState.LEASED,
            attempts=(Attempt(row["attempt"], row["worker_id"], row["began"]),),
            lease=lease_from(row),
        )
        for row in rows
    )
