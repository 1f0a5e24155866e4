"""What can be asked of the job database, without changing it."""

from __future__ import annotations

from pibot.master_components.store.database import Database
from pibot.master_components.store.records import Event, Job, JobRecord, Lease
from pibot.master_components.store.rows import job_from, step_from
from pibot.master_components.store.states import UNFINISHED_JOBS, JobState, StepState, listed
from pibot.master_components.store.tables import Tables


class JobQueries:
    """The reading half of the job store.

    Args:
        file: the open database.
        tables: its statements.
    """

    def __init__(self, file: Database, tables: Tables) -> None:
        self._reading = file.reading
        self._tables = tables

    def job(self, job_id: str) -> Job:
        """A job with its subtasks and their attempts.

        Raises:
            JobNotFound: there is none of that id.
        """
        with self._reading():
            return self._tables.job(job_id)

    def export(self, job_id: str) -> JobRecord:
        """All that is stored of a job.

        Raises:
            JobNotFound: there is none of that id.
        """
        with self._reading() as db:
            rows = db.execute("SELECT * FROM event WHERE job_id = ? ORDER BY seq", (job_id,)).fetchall()
            return JobRecord(self._tables.job(job_id), tuple(Event(**dict(row)) for row in rows))

    def jobs(self, *, state: JobState | None = None, limit: int = 50, before: str | None = None) -> tuple[Job, ...]:
        """Jobs without their subtasks, the newest first.

        Args:
            state: only those in it.
            limit: how many at most.
            before: only those accepted before this one.

        Raises:
            JobNotFound: there is none of the id ``before``.
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
            # The conditions are the constants above; what a caller gave is bound.
            rows = db.execute(f"SELECT * FROM job {where} ORDER BY seq DESC LIMIT ?", (*values, limit))  # nosec B608 # where holds question marks
            return tuple(job_from(row) for row in rows)

    def unfinished(self, limit: int = -1) -> tuple[str, ...]:
        """The ids of the first ``limit`` jobs that have not ended: higher priority first, then the older."""
        with self._reading() as db:
            rows = db.execute(
                # SQLite would choose the index by state, and sort all that are queued.
                f"SELECT job_id FROM job INDEXED BY job_unfinished WHERE state IN {listed(UNFINISHED_JOBS)}"  # nosec B608 # an enum's values
                " ORDER BY priority DESC, seq LIMIT ?",
                (limit,),
            )
            return tuple(row["job_id"] for row in rows)

    def deadlines(self) -> dict[str, float]:
        """Seconds that are left of each job which has not ended and has a limit."""
        now = self._tables.running_time()
        with self._reading() as db:
            rows = db.execute(
                "SELECT job_id, accepted_run + timeout AS ends FROM job INDEXED BY job_unfinished"
                f" WHERE state IN {listed(UNFINISHED_JOBS)} AND timeout IS NOT NULL"  # nosec B608 # an enum's values
            )
            return {row["job_id"]: max(0.0, row["ends"] - now) for row in rows}

    def leases(self) -> tuple[Lease, ...]:
        """The leases of the jobs that have not ended: at most one for each worker."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT subtask.* FROM job INDEXED BY job_unfinished JOIN subtask USING (job_id)"
                f" WHERE job.state IN {listed(UNFINISHED_JOBS)} AND subtask.state = '{StepState.LEASED.value}'"  # nosec B608 # an enum's values
                " ORDER BY job.priority DESC, job.seq"
            )
            steps = (step_from(row, ()) for row in rows)
            return tuple(step.lease for step in steps if step.lease is not None)

    def to_cancel(self) -> tuple[str, ...]:
        """The ids of the jobs that are to be cancelled and have not ended."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT job_id FROM job INDEXED BY job_unfinished"
                f" WHERE state IN {listed(UNFINISHED_JOBS)} AND cancel_requested"  # nosec B608 # an enum's values
            )
            return tuple(row["job_id"] for row in rows)

    def counts(self) -> dict[JobState, int]:
        """How many jobs there are in each state."""
        with self._reading() as db:
            known = {row["state"]: row["number"] for row in db.execute("SELECT * FROM tally")}
        return {state: known.get(state.value, 0) for state in JobState}

    def open_steps(self) -> dict[StepState, int]:
        """How many subtasks of the jobs that have not ended are in each state."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT subtask.state, count(*) AS number FROM job JOIN subtask USING (job_id)"
                f" WHERE job.state IN {listed(UNFINISHED_JOBS)} GROUP BY subtask.state"  # nosec B608 # an enum's values
            )
            known = {row["state"]: row["number"] for row in rows}
        return {state: known.get(state.value, 0) for state in StepState}

    def time_left(self, job: Job) -> float | None:
        """Seconds until the job's time is up, 0 where it is; None where it has no limit.

        What counts is time in which a hub ran, so that neither a power cut nor a clock that jumps ends a job.
        """
        if job.timeout is None:
            return None
        return max(0.0, job.accepted_run + job.timeout - self._tables.running_time())

    def events(self, limit: int = 50, after: int = 0) -> tuple[Event, ...]:
        """What happened last, the newest first; only what came after the event number ``after``."""
        with self._reading() as db:
            rows = db.execute("SELECT * FROM event WHERE seq > ? ORDER BY seq DESC LIMIT ?", (after, limit))
            return tuple(Event(**dict(row)) for row in rows)
