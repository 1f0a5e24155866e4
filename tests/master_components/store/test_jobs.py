from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import pytest

from pibot.contracts import SubTask, TaskComplexity, TaskPlan, TaskResult, TaskState, Usage, valid_id
from pibot.errors import IllegalTransition, InvalidRequest, JobNotFound, LeaseLost, QueueFull, StoreError, TaskConflict
from pibot.master_components.planner import MAX_ID_CHARS
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import MAX_JOB_ID_CHARS, Lease, Submission
from pibot.master_components.store.schema import migrations
from pibot.master_components.store.states import MAX_ATTEMPTS, JobState, StepState
from pibot.master_components.store.tables import EVENTS_KEPT
from tests.support.clocks import FakeClock as Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs.db", clock=clock, monotonic=clock)
    yield store
    store.close()


def plan(**needs: tuple[str, ...]) -> TaskPlan:
    """Make a plan with a step for each keyword, which lists the steps that it needs."""
    steps = tuple(SubTask(name, f"do {name}", ("shell_exec",), needed) for name, needed in needs.items())
    return TaskPlan(TaskComplexity.COMPLEX, False, steps)


def planned(store: JobStore, **needs: tuple[str, ...]) -> str:
    job_id = store.submit(Submission("a job")).job_id
    store.start_planning(job_id)
    store.save_plan(job_id, plan(**needs), Usage(5, 5, 1))
    return job_id


def result(state: TaskState = TaskState.COMPLETED, output: str = "done", **more: Any) -> TaskResult:
    return TaskResult("x", "worker-1", state, output, **more)


def states(store: JobStore, job_id: str) -> dict[str, StepState]:
    return {step.task_id: step.state for step in store.queries.job(job_id).steps}


def run(store: JobStore, job_id: str, task_id: str, state: TaskState = TaskState.COMPLETED) -> None:
    store.leases.complete(store.leases.grant(job_id, task_id, "worker-1", 60), result(state, error=None))


# --- taking jobs ---


def test_an_accepted_job_is_on_disk(store: JobStore, tmp_path: Path) -> None:
    job = store.submit(Submission("list files", timeout=60.0, priority=3))
    store.close()
    other = JobStore(tmp_path / "jobs.db")
    assert other.queries.job(job.job_id) == job
    assert (job.state, job.priority, job.timeout, job.steps) == (JobState.QUEUED, 3, 60.0, ())
    other.close()


def test_a_jobs_id_holds_the_time_at_which_it_was_accepted(store: JobStore) -> None:
    assert store.submit(Submission("x")).job_id.startswith("job-20270115-080000-")


def test_two_jobs_never_get_the_same_id(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = iter(["aaaaaa", "aaaaaa", "aaaaaa", "bbbbbb"])
    monkeypatch.setattr("pibot.master_components.store.tables.secrets.token_hex", lambda size: next(digits))
    first, second = (store.submit(Submission(text)).job_id for text in ("one", "another"))
    assert (first[-6:], second[-6:]) == ("aaaaaa", "bbbbbb")


def test_a_job_with_skills_has_its_plan_of_one_step_at_once(store: JobStore) -> None:
    job = store.submit(Submission("list files", ("shell_exec",)))
    (record,) = job.steps
    assert record.state is StepState.READY
    assert (record.step.description, record.step.skills) == ("list files", ("shell_exec",))
    assert job.plan is not None
    assert store.submit(Submission("x", ())).plan is not None


def test_the_same_submission_again_is_the_same_job(store: JobStore) -> None:
    first = store.submit(Submission("x", ("a",), job_id="mine"))
    assert store.submit(Submission("x", ("a",), job_id="mine")) == first
    assert len(store.queries.jobs()) == 1
    for other in (Submission("y", ("a",), job_id="mine"), Submission("x", job_id="mine")):
        with pytest.raises(TaskConflict, match="mine"):
            store.submit(other)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "description"),
        ({"description": "x", "skills": "a"}, "skills"),
        ({"description": "x", "priority": 101}, "priority"),
        ({"description": "x", "priority": True}, "priority"),
        ({"description": "x", "timeout": 0}, "timeout"),
        ({"description": "x", "job_id": "a" * 49}, "job_id"),
        ({"description": "x", "job_id": "a b"}, "job_id"),
        ({"description": "x", "color": "red"}, "color"),
    ],
)
def test_an_invalid_submission_is_refused_and_the_error_names_the_field(body: object, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Submission.from_json(body)
    assert caught.value.field == field


def test_a_full_queue_refuses_new_jobs_and_still_answers_accepted_ones(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.db", max_queued=2)
    first = store.submit(Submission("x", job_id="first"))
    second = store.submit(Submission("y"))
    with pytest.raises(QueueFull, match="2 jobs have not ended, and PIBOT_MAX_QUEUED on the master allows 2"):
        store.submit(Submission("z"))
    assert store.submit(Submission("x", job_id="first")) == first
    with pytest.raises(TaskConflict):
        store.submit(Submission("other", job_id="first"))
    assert len(store.queries.jobs()) == 2
    store.finish(second.job_id, JobState.CANCELLED)
    store.submit(Submission("z"))
    store.close()


def test_no_skills_and_an_empty_list_of_skills_differ() -> None:
    assert Submission.from_json({"description": "x"}).skills is None
    assert Submission.from_json({"description": "x", "skills": []}).skills == ()


# --- plans and steps ---


def test_the_steps_of_a_stored_plan_that_need_nothing_are_ready(store: JobStore) -> None:
    job_id = planned(store, a=(), b=(), c=("a", "b"))
    assert states(store, job_id) == {"a": StepState.READY, "b": StepState.READY, "c": StepState.WAITING}
    assert store.queries.job(job_id).state is JobState.RUNNING
    assert store.queries.job(job_id).usage == Usage(5, 5, 1)


def test_a_plan_is_stored_once(store: JobStore) -> None:
    job_id = planned(store, a=())
    with pytest.raises(IllegalTransition):
        store.save_plan(job_id, plan(b=()))
    assert list(states(store, job_id)) == ["a"]


def test_a_step_is_ready_when_all_steps_that_it_needs_have_completed(store: JobStore) -> None:
    job_id = planned(store, a=(), b=(), c=("a", "b"))
    run(store, job_id, "a")
    assert states(store, job_id)["c"] is StepState.WAITING
    run(store, job_id, "b")
    assert states(store, job_id)["c"] is StepState.READY


def test_steps_that_need_a_failed_one_are_skipped_and_the_others_go_on(store: JobStore) -> None:
    job_id = planned(store, a=(), b=("a",), c=("b",), d=())
    run(store, job_id, "a", TaskState.FAILED)
    assert states(store, job_id) == {
        "a": StepState.FAILED,
        "b": StepState.SKIPPED,
        "c": StepState.SKIPPED,
        "d": StepState.READY,
    }
    assert store.queries.job(job_id).steps[1].error == "it needs 'a', which did not complete"


# --- leases ---


def test_a_lease_has_a_worker_a_token_an_expiry_and_an_attempt(store: JobStore, clock: Clock) -> None:
    job_id = planned(store, a=())
    lease = store.leases.grant(job_id, "a", "worker-2", 60)
    assert (lease.worker_id, lease.attempt, lease.expires_at) == ("worker-2", 1, clock.now + 60)
    assert len(lease.token) == 24
    assert lease.remote_id == f"{job_id}.a.1.{lease.token[:6]}"
    assert store.queries.job(job_id).steps[0].lease == lease


def test_a_job_id_used_again_after_pruning_gives_another_task_id(store: JobStore, clock: Clock) -> None:
    remote_ids = set()
    for _ in range(2):
        store.submit(Submission("x", (), job_id="nightly"))
        lease = store.leases.grant("nightly", "step-1", "worker-1", 60)
        remote_ids.add(lease.remote_id)
        store.leases.complete(lease, TaskResult("step-1", "worker-1", TaskState.COMPLETED), finish_job=True)
        clock.now += 10
        assert store.limits.prune(keep_seconds=1, keep_jobs=100) == 1
    assert len(remote_ids) == 2


def test_the_longest_ids_make_a_task_id_that_a_worker_accepts() -> None:
    lease = Lease("j" * MAX_JOB_ID_CHARS, "s" * MAX_ID_CHARS, "worker-1", "0" * 24, 99, 0.0)
    assert valid_id(lease.remote_id, "task_id") == lease.remote_id


def test_a_leased_step_is_not_leased_again(store: JobStore) -> None:
    job_id = planned(store, a=(), b=("a",))
    store.leases.grant(job_id, "a", "worker-1", 60)
    for task_id in ("a", "b"):
        with pytest.raises(IllegalTransition):
            store.leases.grant(job_id, task_id, "worker-2", 60)


def test_a_renewed_lease_lasts_from_now(store: JobStore, clock: Clock) -> None:
    job_id = planned(store, a=())
    lease = store.leases.grant(job_id, "a", "worker-1", 60)
    clock.now += 50
    assert store.leases.renew(lease, 60).expires_at == clock.now + 60
    assert store.queries.job(job_id).steps[0].lease == store.leases.renew(lease, 60)


def test_a_result_is_recorded_once_and_adds_its_usage(store: JobStore) -> None:
    job_id = planned(store, a=())
    lease = store.leases.grant(job_id, "a", "worker-1", 60)
    store.leases.complete(lease, result(usage=Usage(10, 20, 2)))
    with pytest.raises(LeaseLost):
        store.leases.complete(lease, result(output="another"))
    job = store.queries.job(job_id)
    assert job.steps[0].result is not None
    assert job.steps[0].result.output == "done"
    assert job.usage == Usage(15, 25, 3)


def test_a_late_result_changes_nothing_and_is_kept_as_evidence(store: JobStore, tmp_path: Path) -> None:
    job_id = planned(store, a=())
    lost = store.leases.grant(job_id, "a", "worker-1", 60)
    store.leases.fail(lost, "no answer", final=False)
    current = store.leases.grant(job_id, "a", "worker-2", 60)
    with pytest.raises(LeaseLost, match="worker-1"):
        store.leases.complete(lost, result(output="too late"))
    assert states(store, job_id)["a"] is StepState.LEASED
    store.leases.complete(current, result(output="in time"))
    step = store.queries.job(job_id).steps[0]
    assert step.result is not None
    assert step.result.output == "in time"
    with sqlite3.connect(tmp_path / "jobs.db") as db:
        (kept,) = db.execute("SELECT late_result FROM attempt WHERE number = 1").fetchone()
    db.close()
    assert "too late" in kept
    assert "late_result" in [e.kind for e in store.queries.events()]


@pytest.mark.parametrize(
    "change",
    [
        lambda store, lease: store.leases.renew(lease, 60),
        lambda store, lease: store.leases.complete(lease, result()),
        lambda store, lease: store.leases.fail(lease, "x", final=True),
    ],
)
def test_a_lease_with_a_wrong_token_changes_nothing(
    store: JobStore, change: Callable[[JobStore, Lease], object]
) -> None:
    job_id = planned(store, a=())
    lease = store.leases.grant(job_id, "a", "worker-1", 60)
    before = store.queries.job(job_id).steps
    with pytest.raises(LeaseLost):
        change(store, Lease(job_id, "a", "worker-1", "0" * 24, 1, lease.expires_at))
    assert store.queries.job(job_id).steps == before


def test_after_a_failed_attempt_the_step_is_ready_again_and_the_error_is_kept(store: JobStore, clock: Clock) -> None:
    job_id = planned(store, a=())
    store.leases.fail(store.leases.grant(job_id, "a", "worker-1", 60), "no answer", final=False)
    assert states(store, job_id)["a"] is StepState.READY
    store.leases.fail(store.leases.grant(job_id, "a", "worker-2", 60), "reset", final=True)
    step = store.queries.job(job_id).steps[0]
    assert (step.state, step.error) == (StepState.FAILED, "reset")
    assert [(a.number, a.worker_id, a.error, a.finished_at) for a in step.attempts] == [
        (1, "worker-1", "no answer", clock.now),
        (2, "worker-2", "reset", clock.now),
    ]


def test_a_busy_worker_is_no_attempt(store: JobStore) -> None:
    job_id = planned(store, a=())
    store.leases.fail(store.leases.grant(job_id, "a", "worker-1", 60), "busy", final=False, count=False)
    assert store.queries.job(job_id).steps[0].attempts == ()
    assert store.leases.grant(job_id, "a", "worker-2", 60).attempt == 1


def test_a_late_result_of_a_busy_worker_does_not_go_to_the_next_attempt(store: JobStore) -> None:
    job_id = planned(store, a=())
    busy = store.leases.grant(job_id, "a", "worker-1", 60)
    store.leases.fail(busy, "busy", final=False, count=False)
    store.leases.grant(job_id, "a", "worker-2", 60)  # the attempt has the same number
    with pytest.raises(LeaseLost):
        store.leases.complete(busy, result())
    assert [a.late_result for a in store.queries.job(job_id).steps[0].attempts] == [None]
    assert [e.worker_id for e in store.queries.events() if e.kind == "subtask_started"] == ["worker-2"]


def test_there_is_never_a_fourth_attempt(store: JobStore) -> None:
    job_id = planned(store, a=())
    for _ in range(MAX_ATTEMPTS):
        store.leases.fail(store.leases.grant(job_id, "a", "worker-1", 60), "no answer", final=False)
    assert states(store, job_id) == {"a": StepState.FAILED}
    with pytest.raises(IllegalTransition):
        store.leases.grant(job_id, "a", "worker-1", 60)


def test_the_result_of_a_single_step_can_end_its_job_in_the_same_commit(store: JobStore) -> None:
    job_id = store.submit(Submission("x", ())).job_id
    lease = store.leases.grant(job_id, "step-1", "worker-1", 60)
    store.leases.complete(lease, result(output="the answer"), finish_job=True)
    job = store.queries.job(job_id)
    assert (job.state, job.answer, job.error) == (JobState.COMPLETED, "the answer", None)


def test_a_step_without_a_worker_fails_with_the_reason(store: JobStore) -> None:
    job_id = planned(store, a=(), b=("a",))
    store.give_up(job_id, "a", "no worker is known")
    assert states(store, job_id) == {"a": StepState.FAILED, "b": StepState.SKIPPED}


# --- the end ---


def test_an_ended_job_stays_as_it_is(store: JobStore, clock: Clock) -> None:
    job_id = planned(store, a=())
    store.finish(job_id, JobState.COMPLETED, answer="42", usage=Usage(1, 1, 1))
    job = store.queries.job(job_id)
    assert (job.state, job.answer, job.finished_at, job.usage) == (
        JobState.COMPLETED,
        "42",
        clock.now,
        Usage(6, 6, 2),
    )
    for again in (JobState.FAILED, JobState.CANCELLED, JobState.COMPLETED):
        with pytest.raises(IllegalTransition, match="is completed"):
            store.finish(job_id, again)
    assert store.request_cancel(job_id) == job


def test_ending_a_job_cancels_its_steps_and_ends_their_leases(store: JobStore) -> None:
    job_id = planned(store, a=(), b=(), c=("a",))
    lease = store.leases.grant(job_id, "a", "worker-1", 60)
    store.finish(job_id, JobState.FAILED, error="the job's 5 seconds were up")
    assert set(states(store, job_id).values()) == {StepState.CANCELLED}
    with pytest.raises(LeaseLost):
        store.leases.complete(lease, result())


def test_a_cancel_request_cancels_the_steps_that_no_worker_has(store: JobStore) -> None:
    job_id = planned(store, a=(), b=(), c=("a",))
    store.leases.grant(job_id, "a", "worker-1", 60)
    assert store.request_cancel(job_id).cancel_requested
    assert states(store, job_id) == {
        "a": StepState.LEASED,
        "b": StepState.CANCELLED,
        "c": StepState.CANCELLED,
    }


def test_unfinished_jobs_are_ordered_by_priority_then_age(store: JobStore) -> None:
    ids = [store.submit(Submission(f"job {n}", priority=p)).job_id for n, p in enumerate((0, 5, 0, -5))]
    store.finish(ids[2], JobState.CANCELLED)
    assert store.queries.unfinished() == (ids[1], ids[0], ids[3])
    assert store.queries.unfinished(1) == (ids[1],)


def test_listings_are_paged_newest_first_and_by_state(store: JobStore) -> None:
    ids = [store.submit(Submission(f"job {n}")).job_id for n in range(5)]
    store.finish(ids[1], JobState.FAILED)
    assert [j.job_id for j in store.queries.jobs(limit=2)] == [ids[4], ids[3]]
    assert [j.job_id for j in store.queries.jobs(limit=9, before=ids[3])] == [ids[2], ids[1], ids[0]]
    assert [j.job_id for j in store.queries.jobs(state=JobState.FAILED)] == [ids[1]]
    with pytest.raises(JobNotFound):
        store.queries.jobs(before="nope")


def test_jobs_are_counted_by_state_through_every_transition(store: JobStore) -> None:
    ids = [planned(store, a=()) for _ in range(3)]
    store.finish(ids[0], JobState.COMPLETED)
    store.submit(Submission("x"))
    counts = {state: number for state, number in store.queries.counts().items() if number}
    assert counts == {JobState.RUNNING: 2, JobState.COMPLETED: 1, JobState.QUEUED: 1}


def test_ended_jobs_are_pruned_by_age_and_number_and_running_ones_stay(store: JobStore, clock: Clock) -> None:
    old = planned(store, a=())
    store.finish(old, JobState.COMPLETED)
    running = planned(store, a=())
    clock.now += 1000
    recent = planned(store, a=())
    store.finish(recent, JobState.FAILED)
    assert store.limits.prune(keep_seconds=500, keep_jobs=100) == 1
    assert {j.job_id for j in store.queries.jobs()} == {running, recent}
    assert store.limits.prune(keep_seconds=5000, keep_jobs=0) == 1
    assert {j.job_id for j in store.queries.jobs()} == {running}
    assert store.queries.counts()[JobState.RUNNING] == 1
    assert sum(store.queries.counts().values()) == 1


def test_prune_deletes_the_jobs_that_ended_first_up_to_its_limit(store: JobStore, clock: Clock) -> None:
    ids = [store.submit(Submission(f"job {n}")).job_id for n in range(6)]
    for job_id in reversed(ids[1:]):  # the first one ends last
        clock.now += 1
        store.finish(job_id, JobState.COMPLETED)
    pruned = [store.limits.prune(keep_seconds=1e9, keep_jobs=2, limit=2) for _ in range(3)]
    assert pruned == [2, 1, 0]
    assert [j.job_id for j in reversed(store.queries.jobs())] == ids[:3]


def test_a_pruned_jobs_steps_attempts_and_events_are_deleted_with_it(store: JobStore) -> None:
    kept, pruned = planned(store, a=()), planned(store, a=())
    run(store, pruned, "a")
    store.finish(pruned, JobState.COMPLETED)
    store.note("worker_online", worker_id="worker-1")
    store.limits.prune(keep_seconds=1e9, keep_jobs=0)
    assert {e.job_id for e in store.queries.events()} == {kept, None}
    for table in ("job", "subtask", "attempt", "event"):
        found = store.database.connection.execute(f"SELECT count(*) FROM {table} WHERE job_id = ?", (pruned,))
        assert found.fetchone()[0] == 0, table


def steps_of_a_job(store: JobStore) -> int:
    """Count the instructions that SQLite runs for all operations on one job."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    store.database.connection.set_progress_handler(count, 1)
    job_id = store.submit(Submission("x", (), timeout=60.0)).job_id
    store.queries.unfinished(17)
    lease = store.leases.renew(store.leases.grant(job_id, "step-1", "worker-1", 60), 60)
    store.leases.fail(lease, "no answer", final=False)
    store.leases.complete(store.leases.grant(job_id, "step-1", "worker-1", 60), result())
    store.request_cancel(job_id)
    store.finish(job_id, JobState.COMPLETED)
    store.queries.export(job_id)
    store.queries.jobs(limit=20)
    store.queries.jobs(state=JobState.RUNNING, limit=20)
    store.queries.events(20)
    store.keep_time()
    assert store.limits.prune(keep_seconds=1e9, keep_jobs=sum(store.queries.counts().values()) - 1, limit=20) == 1
    assert store.limits.prune(keep_seconds=-1.0, keep_jobs=10**9, limit=1) == 1
    store.database.connection.set_progress_handler(None, 1)
    return steps


def test_no_operation_on_a_job_costs_more_among_many_stored_jobs(store: JobStore) -> None:
    def store_more(first: int, last: int) -> None:
        with store.database.transaction() as db:
            numbers = f"WITH RECURSIVE n(n) AS (VALUES ({first}) UNION ALL SELECT n + 1 FROM n WHERE n < {last}) "
            db.execute(
                "INSERT INTO job (job_id, body, description, state, priority, created_at, finished_at, finished_run)"
                f" {numbers} SELECT 'old-' || n, '[]', 'x', 'completed', 0, 0, 0, 0 FROM n"
            )
            db.execute(
                "INSERT INTO subtask (job_id, task_id, position, description, skills, depends_on, state)"
                f" {numbers} SELECT 'old-' || n, 'a', 0, 'x', '[]', '[]', 'completed' FROM n"
            )
            db.execute(f"INSERT INTO event (at, kind, job_id, message) {numbers} SELECT 0, 'x', 'old-' || n, '' FROM n")

    store_more(1, 100)
    few = steps_of_a_job(store)
    store_more(101, 10_000)
    assert steps_of_a_job(store) <= few * 1.02


def test_the_recent_activity_is_complete_and_bounded(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = planned(store, a=())
    run(store, job_id, "a")
    store.finish(job_id, JobState.COMPLETED)
    story = ["job_accepted", "job_planned", "subtask_started", "subtask_completed", "job_completed"]
    assert [e.kind for e in reversed(store.queries.events())] == story
    assert [e.kind for e in store.queries.events(after=store.queries.events()[1].seq)] == ["job_completed"]
    monkeypatch.setattr("pibot.master_components.store.tables.EVENTS_KEPT", 10)
    for _ in range(300):
        store.note("worker_offline", worker_id="worker-1")
    assert len(store.queries.events(limit=1000)) < 10 + 100 + 1
    assert EVENTS_KEPT > 1000


# --- the file ---


def test_the_error_of_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    store = JobStore(path)
    for number in range(200):
        store.submit(Submission(f"job {number} " + "x" * 500))
    store.close()
    with path.open("r+b") as file:
        file.seek(20 * 4096)
        file.write(os.urandom(20 * 4096))
    with pytest.raises(StoreError, match=r"jobs\.db is damaged.*move it and its jobs\.db-wal and jobs\.db-shm away"):
        JobStore(path)


def test_the_error_of_a_file_that_is_no_database_names_it(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(StoreError, match=r"jobs\.db can't be used: file is not a database"):
        JobStore(tmp_path / "jobs.db")


def test_a_file_of_a_newer_release_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    JobStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match=r"version 99.*another PIBOT_DATA_DIR"):
        JobStore(path)
    (tmp_path / f"jobs.db.v{len(migrations())}").touch()  # the copy that a newer release made when it migrated the file
    with pytest.raises(StoreError, match=r"version 99.*copy .*jobs\.db\.v\d, the jobs as they were"):
        JobStore(path)


def test_the_error_of_a_missing_folder_names_it_and_its_setting(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="PIBOT_DATA_DIR"):
        JobStore(tmp_path / "nowhere" / "jobs.db")


def test_a_full_disk_loses_no_accepted_job(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.db")
    taken = [store.submit(Submission(f"job {n}")).job_id for n in range(3)]
    (pages,) = store.database.connection.execute("PRAGMA page_count").fetchone()
    store.database.connection.execute(f"PRAGMA max_page_count = {pages + 2}")  # makes SQLite report a full disk

    def fill() -> None:
        for n in range(1000):
            taken.append(store.submit(Submission(f"another {n} " + "x" * 2000)).job_id)

    with pytest.raises(StoreError, match=r"disk is full; free some space"):
        fill()
    store.database.connection.execute("PRAGMA max_page_count = 1000000")
    assert {j.job_id for j in store.queries.jobs(limit=2000)} == set(taken)
    store.submit(Submission("there is room again"))
    store.close()


def test_every_commit_reaches_the_disk(store: JobStore) -> None:
    assert store.database.connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert store.database.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


KILLED = """
import sys
from pathlib import Path
from pibot.contracts import TaskResult, TaskState
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.planner import MAX_ID_CHARS
from pibot.master_components.store.records import Submission
store = JobStore(Path(sys.argv[1]))
while True:
    job = store.submit(Submission("x", ()))
    print("taken", job.job_id, flush=True)
    lease = store.leases.grant(job.job_id, "step-1", "worker-1", 60)
    store.leases.complete(lease, TaskResult("x", "worker-1", TaskState.COMPLETED, "done"), finish_job=True)
    print("ended", job.job_id, flush=True)
"""


def test_a_killed_process_loses_no_accepted_job_and_no_recorded_end(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "jobs.db")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(61)]
    os.kill(process.pid, signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    store = JobStore(tmp_path / "jobs.db")
    for line in lines:
        word, _, job_id = line.strip().partition(" ")
        if job_id:
            job = store.queries.job(job_id)
            assert word == "taken" or job.state is JobState.COMPLETED
    assert len(lines) > 60
    store.close()


def test_the_store_may_be_used_from_any_thread(store: JobStore) -> None:
    def work(_: int) -> None:
        for _ in range(20):
            job_id = store.submit(Submission("x", ())).job_id
            run(store, job_id, "step-1")
            store.finish(job_id, JobState.COMPLETED)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))  # raises the threads' errors
    assert store.queries.counts()[JobState.COMPLETED] == 80
