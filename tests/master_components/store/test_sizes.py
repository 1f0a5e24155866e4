"""What the jobs take in the database: each text once, sums of the bytes, limits on them, and excerpts in listings."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pibot.contracts import ApprovalRequest, SubTask, TaskComplexity, TaskPlan, TaskResult, TaskState
from pibot.errors import LeaseLost, QueueFull, TaskConflict
from pibot.master_components.store import schema
from pibot.master_components.store.jobs import SINGLE_STEP, JobStore
from pibot.master_components.store.queries import EXCERPT_CHARS
from pibot.master_components.store.records import Job, Submission
from pibot.master_components.store.states import ApprovalState, JobState, StepState
from tests.support.clocks import FakeClock

LARGE = "木" * 100_000
LARGE_BYTES = 300_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def store(path: Path) -> Iterator[JobStore]:
    clock = FakeClock()
    with closing(JobStore(path, clock=clock, monotonic=clock)) as opened:
        yield opened


def texts(path: Path) -> int:
    """Count the bytes of all texts in the file."""
    with closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = [(table, row[1]) for table in tables for row in db.execute(f"PRAGMA table_info({table})")]
        counted = [
            db.execute(f"SELECT sum(length(CAST({name} AS BLOB))) FROM {table} WHERE typeof({name}) = 'text'")
            for table, name in columns
        ]
        return sum(row.fetchone()[0] or 0 for row in counted)


def counted_anew(store: JobStore) -> tuple[int, int]:
    """Count the bytes of the unfinished and of the ended jobs with the statement of the migration."""
    script = schema.migrations()[4]
    statement = script[script.index("SELECT\n    job_id") : script.index("FROM job;")] + "FROM job"
    with store.database.reading() as db:
        rows = [tuple(row) for row in db.execute(statement)]
    return sum(row[2] for row in rows if not row[1]), sum(row[2] for row in rows if row[1])


def summed(store: JobStore) -> tuple[int, int]:
    stored = store.queries.stored()
    return stored.unfinished, stored.ended


def ended(store: JobStore, description: str = "x", output: str = "done", job_id: str | None = None) -> Job:
    job = store.submit(Submission(description, (), job_id=job_id))
    lease = store.leases.grant(job.job_id, SINGLE_STEP, "worker-1", 60)
    result = TaskResult(SINGLE_STEP, "worker-1", TaskState.COMPLETED, output=output)
    store.leases.complete(lease, result, finish_job=True)
    return job


def test_a_description_is_stored_once(store: JobStore, path: Path) -> None:
    job = store.submit(Submission(LARGE, ("shell_exec",)))
    other = store.submit(Submission(LARGE))
    store.start_planning(other.job_id)
    plan = TaskPlan(TaskComplexity.SIMPLE, False, (SubTask("a", LARGE), SubTask("b", "and this", depends_on=("a",))))
    planned = store.save_plan(other.job_id, plan)
    assert texts(path) < 2 * LARGE_BYTES + 10_000
    assert store.queries.job(job.job_id).steps[0].step == SubTask(SINGLE_STEP, LARGE, ("shell_exec",))
    assert planned.plan == plan
    assert [record.step for record in planned.steps] == list(plan.subtasks)


def test_the_sums_are_what_a_count_finds_whatever_happens(store: JobStore) -> None:
    first = store.submit(Submission("木", ("shell_exec",)))
    lease = store.leases.grant(first.job_id, SINGLE_STEP, "worker-1", 60)
    store.approvals.note(lease, [ApprovalRequest("c1", "shell_exec", {"command": "ls" * 100}, "d" * 64, 1.0)])
    store.leases.fail(lease, "it fell over: 木", final=False)
    lease = store.leases.grant(first.job_id, SINGLE_STEP, "worker-2", 60)
    second = store.submit(Submission("another"))
    store.start_planning(second.job_id)
    store.save_plan(second.job_id, TaskPlan(TaskComplexity.SIMPLE, False, (SubTask("a", "one"), SubTask("b", "two"))))
    assert summed(store) == counted_anew(store)
    assert summed(store)[0] > 2000
    result = TaskResult(SINGLE_STEP, "worker-2", TaskState.COMPLETED, output="木" * 50)
    store.finish(first.job_id, JobState.CANCELLED, error="no longer wanted")
    with pytest.raises(LeaseLost):
        store.leases.complete(lease, result)
    store.leases.complete(store.leases.grant(second.job_id, "a", "worker-1", 60), result)
    assert summed(store) == counted_anew(store)
    store.give_up(second.job_id, "b", "no worker")
    store.finish(second.job_id, JobState.FAILED, answer="half of it", error="b failed")
    ended(store)
    unfinished, of_ended = counted_anew(store)
    assert summed(store) == (0, of_ended) == (unfinished, of_ended)
    assert store.limits.prune(keep_seconds=1e9, keep_jobs=1) == 2
    assert summed(store) == counted_anew(store)
    assert store.limits.prune(keep_seconds=1e9, keep_jobs=0) == 1
    assert summed(store) == (0, 0)


def test_jobs_that_do_not_end_take_no_more_than_the_queues_bytes(path: Path) -> None:
    with closing(JobStore(path, queue_bytes=1_000_000)) as store:
        taken = [store.submit(Submission(LARGE, (), job_id=f"job-{number}")) for number in range(3)]
        with pytest.raises(QueueFull, match=r"take 0\.9 MB, and PIBOT_QUEUE_MB on the master allows 1; send it again"):
            store.submit(Submission(LARGE))
        assert store.submit(Submission(LARGE, (), job_id="job-0")).job_id == "job-0"
        store.submit(Submission("a small one has room"))
        store.finish(taken[0].job_id, JobState.CANCELLED)
        store.submit(Submission(LARGE))


def test_ended_jobs_take_no_more_than_their_bytes_and_the_oldest_go_first(store: JobStore) -> None:
    jobs = [ended(store, LARGE).job_id for _ in range(6)]
    waiting = store.submit(Submission(LARGE)).job_id
    limit = {"keep_seconds": 1e9, "keep_jobs": 100, "keep_bytes": 1_000_000}
    assert [store.limits.prune(**limit, limit=2) for _ in range(3)] == [2, 1, 0]  # type: ignore[arg-type]
    assert [job.job_id for job in store.queries.jobs()] == [waiting, *reversed(jobs[3:])]


def test_the_job_that_ended_last_stays_however_large_it_is(store: JobStore) -> None:
    ended(store)
    last = ended(store, output="x" * 3_000_000).job_id
    assert store.limits.prune(keep_seconds=1e9, keep_jobs=100, keep_bytes=1_000_000) == 1
    assert [job.job_id for job in store.queries.jobs()] == [last]


def test_a_listing_has_excerpts_and_no_plans(store: JobStore) -> None:
    job = ended(store, LARGE, output="結" * 10_000)
    short = store.submit(Submission("木" * EXCERPT_CHARS))
    listed = {row.job_id: row for row in store.queries.jobs()}
    assert listed[job.job_id].description == "木" * (EXCERPT_CHARS - 1) + "…"
    assert listed[job.job_id].answer == "結" * (EXCERPT_CHARS - 1) + "…"
    assert listed[job.job_id].plan is None
    assert listed[short.job_id].description == short.description
    assert store.queries.job(job.job_id).answer == "結" * 10_000


def test_what_runs_is_listed_with_its_worker_and_an_excerpt(store: JobStore) -> None:
    job = store.submit(Submission(LARGE, ("shell_exec",)))
    store.leases.fail(store.leases.grant(job.job_id, SINGLE_STEP, "worker-1", 60), "no", final=False)
    lease = store.leases.grant(job.job_id, SINGLE_STEP, "worker-2", 60)
    ended(store)
    (listed,) = store.queries.at_work(limit=5)
    (step,) = listed.steps
    assert (listed.job_id, step.worker_id, step.lease) == (job.job_id, "worker-2", lease)
    assert step.attempts[-1].number == 2
    assert step.step.description == listed.description == "木" * (EXCERPT_CHARS - 1) + "…"


# --- a database of the release before ---


def make_version_4(path: Path) -> None:
    """Make a file as the release before did, with a job of one step that a worker has, and one that has ended."""
    plan = TaskPlan(TaskComplexity.SIMPLE, False, (SubTask(SINGLE_STEP, "do it", ("shell_exec",)),), reasoning="why")
    body = json.dumps(["do it", ("shell_exec",), 60.0, 0], sort_keys=True)
    with closing(sqlite3.connect(path)) as db:
        db.executescript("\n".join(schema.migrations()[:4]) + "PRAGMA user_version = 4;")
        for job_id, state, answer in (("open", "running", None), ("ended", "completed", "木" * 100)):
            db.execute(
                "INSERT INTO job (job_id, body, description, state, priority, timeout, plan, answer, created_at,"
                " finished_run) VALUES (?, ?, 'do it', ?, 0, 60.0, ?, ?, 1000.0, ?)",
                (job_id, body, state, json.dumps(plan.to_json()), answer, 0.0 if answer else None),
            )
            db.execute(
                "INSERT INTO subtask (job_id, task_id, position, description, skills, depends_on, state, worker_id,"
                " token, attempt, expires_at) VALUES (?, ?, 0, 'do it', '[\"shell_exec\"]', '[]', ?, 'worker-1',"
                " 'abc', 1, 1060.0)",
                (job_id, SINGLE_STEP, "leased" if answer is None else "completed"),
            )
            db.execute(
                "INSERT INTO attempt (job_id, task_id, number, worker_id, started_at, token, late_result)"
                " VALUES (?, ?, 1, 'worker-1', 1000.0, 'abc', NULL)",
                (job_id, SINGLE_STEP),
            )
        db.commit()


def test_a_file_of_the_release_before_goes_on_as_it_was(path: Path) -> None:
    make_version_4(path)
    with closing(JobStore(path)) as store:
        assert summed(store) == counted_anew(store)
        assert min(summed(store)) > 1000
        job = store.queries.job("open")
        assert job.plan is not None
        assert (job.plan.subtasks, job.plan.reasoning) == ((SubTask(SINGLE_STEP, "do it", ("shell_exec",)),), "why")
        same = Submission("do it", ("shell_exec",), 60.0, job_id="open")
        assert store.submit(same) == job
        for other in (Submission("do that", ("shell_exec",), 60.0, job_id="open"), Submission("do it", job_id="open")):
            with pytest.raises(TaskConflict):
                store.submit(other)
        (lease,) = store.queries.leases()
        store.leases.complete(
            lease, TaskResult(SINGLE_STEP, "worker-1", TaskState.COMPLETED, output="done"), finish_job=True
        )
        assert store.queries.job("open").state is JobState.COMPLETED
        assert summed(store) == counted_anew(store)
    with closing(sqlite3.connect(path.with_name("jobs.db.v4"))) as db:
        assert schema.version_of(db) == 4


# --- states of another release ---


def test_a_state_that_this_release_does_not_know_is_read_as_that(store: JobStore, path: Path) -> None:
    job = store.submit(Submission("x", ("shell_exec",)))
    other = store.submit(Submission("y", ("shell_exec",)))
    lease = store.leases.grant(other.job_id, SINGLE_STEP, "worker-1", 60)
    store.approvals.note(lease, [ApprovalRequest("c1", "shell_exec", {}, "d" * 64, 1.0)])
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE job SET state = 'paused' WHERE job_id = ?", (job.job_id,))
        db.execute("UPDATE approval SET state = 'asleep'")
        db.execute("UPDATE subtask SET state = 'parked' WHERE job_id = ?", (other.job_id,))
        db.commit()
    for read in (store.queries.job(job.job_id), store.queries.jobs()[1]):
        assert read.state is JobState.FAILED
        assert "the job database says 'paused' for its state, which this release does not know" in (read.error or "")
    (step,) = store.queries.job(other.job_id).steps
    assert (step.state, step.lease) == (StepState.FAILED, None)
    assert "'parked'" in (step.error or "")
    (approval,) = store.queries.job(other.job_id).approvals
    assert approval.state is ApprovalState.OVER
    assert "'asleep'" in approval.reason
    assert job.job_id not in store.queries.unfinished()
    assert store.request_cancel(job.job_id).state is JobState.FAILED
    assert sum(store.queries.counts().values()) == 1
    store.finish(other.job_id, JobState.FAILED)
