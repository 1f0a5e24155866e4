"""The file of the job database: its lock, its migrations and its copies."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pibot.errors import StoreError, StoreUnreadable, StoreUnwritable
from pibot.master_components.store import copies, schema
from pibot.master_components.store.database import Database
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Submission
from pibot.master_components.store.states import ENDED_JOBS, UNFINISHED_JOBS, JobState, StepState, listed
from tests.support.clocks import FakeClock as Clock

DAY = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def fill(path: Path, number: int, **more: Any) -> list[str]:
    """Add so many jobs to the store."""
    with closing(JobStore(path, **more)) as store:
        return [store.submit(Submission(f"job {n} " + "x" * 3000)).job_id for n in range(number)]


def jobs_in(path: Path) -> set[str]:
    with closing(JobStore(path)) as store:
        return {job.job_id for job in store.queries.jobs(limit=10_000)}


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(20 * 4096)
        file.write(os.urandom(20 * 4096))


# --- one process ---


HOLD = """
import sys
from pathlib import Path
from pibot.master_components.store.jobs import JobStore
store = JobStore(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def test_the_error_of_a_second_hub_names_the_file_and_the_first_hub(path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == b"open\n"
    expected = rf"another hub \(process {first.pid}\) runs with the job database .*jobs\.db; .*PIBOT_DATA_DIR"
    for _ in range(2):
        with pytest.raises(StoreError, match=expected):
            JobStore(path)
    os.kill(first.pid, signal.SIGKILL)  # the kernel releases its lock
    first.communicate()
    JobStore(path).close()


@pytest.mark.parametrize("statement", ["UPDATE job SET nope = 1", "UPDAT job", "INSERT INTO nope VALUES (1)"])
def test_a_wrong_statement_is_not_taken_for_an_error_of_the_disk(path: Path, statement: str) -> None:
    with closing(Database(path)) as database:
        with pytest.raises(StoreError) as caught, database.transaction() as db:
            db.execute(statement)
        assert not isinstance(caught.value, StoreUnwritable)
        assert database.trouble is None


@pytest.mark.parametrize("message", ["disk I/O error", "database or disk is full", "database is locked"])
def test_an_error_of_the_disk_may_pass(path: Path, message: str) -> None:
    with closing(Database(path)) as database:
        with pytest.raises(StoreUnwritable), database.transaction():
            raise sqlite3.OperationalError(message)
        with pytest.raises(StoreUnreadable), database.reading():
            raise sqlite3.OperationalError(message)


def test_the_file_is_opened_once_within_a_process_too(path: Path) -> None:
    store = JobStore(path)
    with pytest.raises(StoreError, match="another hub"):
        JobStore(path)
    store.close()
    store.close()
    JobStore(path).close()


def test_a_file_that_could_not_be_opened_is_not_locked(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    for _ in range(2):
        with pytest.raises(StoreError, match="file is not a database"):
            JobStore(path)


# --- versions ---


def make_version_1(path: Path) -> None:
    """Make a file of version 1 with a job that has ended and one that a worker has."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(schema.migrations()[0] + "PRAGMA user_version = 1;")
        for number, job_id, state in ((1, "ended", "completed"), (2, "open", "running")):
            db.execute(
                "INSERT INTO job (seq, job_id, body, description, state, priority, timeout, created_at, finished_at)"
                " VALUES (?, ?, '[]', 'do it', ?, 0, 60, 1000.0, ?)",
                (number, job_id, state, 1001.0 if state == "completed" else None),
            )
        db.execute(
            "INSERT INTO subtask (job_id, task_id, position, description, skills, depends_on, state, worker_id, token,"
            " attempt, expires_at) VALUES ('open', 'a', 0, 'do it', '[]', '[]', 'leased', 'worker-1', 'abc', 1, 1060.0)"
        )
        db.execute("INSERT INTO attempt VALUES ('open', 'a', 1, 'worker-1', 1000.0, NULL, NULL, NULL)")
        db.executemany(
            "INSERT INTO event (at, kind, job_id, message) VALUES (1000.0, 'job_accepted', ?, 'x')",
            [("ended",), ("open",), ("forgotten",), (None,)],
        )
        db.commit()


def test_a_file_of_version_1_is_migrated_and_loses_nothing(path: Path) -> None:
    make_version_1(path)
    clock = Clock()
    with closing(JobStore(path, clock=clock, monotonic=clock)) as store:
        assert [(j.job_id, j.state) for j in store.queries.jobs()] == [
            ("open", JobState.RUNNING),
            ("ended", JobState.COMPLETED),
        ]
        (step,) = store.queries.job("open").steps
        assert step.lease is not None
        assert (step.state, step.lease.token, len(step.attempts)) == (StepState.LEASED, "abc", 1)
        assert {e.job_id for e in store.queries.events()} == {"ended", "open", None}
        assert store.queries.time_left(store.queries.job("open")) == 60.0  # its time counts from the migration
        clock.now += 100
        assert store.limits.prune(keep_seconds=50, keep_jobs=10) == 1


def test_a_copy_of_the_older_version_stays_beside_the_file(path: Path) -> None:
    make_version_1(path)
    JobStore(path).close()
    with closing(sqlite3.connect(path.with_name("jobs.db.v1"))) as db:
        assert schema.version_of(db) == 1
        assert db.execute("SELECT count(*) FROM job").fetchone() == (2,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_version_1(path)
    broken = [*schema.migrations(), "CREATE TABLE more (x);\nINSERT INTO nowhere VALUES (1);"]
    monkeypatch.setattr("pibot.master_components.store.database.migrations", lambda: broken)
    with pytest.raises(StoreError, match=f"from version 1 to {len(broken)}: no such table: nowhere; it is as it was"):
        JobStore(path)
    monkeypatch.undo()
    with closing(sqlite3.connect(path)) as db:
        assert schema.version_of(db) == 1
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        assert not tables & {"more", "running_time", "job_ended"}
    assert jobs_in(path) == {"ended", "open"}


KILLED = """
import os, signal, sys
from pathlib import Path
from pibot.master_components.store import database
from pibot.master_components.store.jobs import JobStore
migrate = database.migrate
def migrate_and_die(db, path, scripts):
    db.create_function("die", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))
    migrate(db, path, [*scripts, "SELECT die();"])
database.migrate = migrate_and_die
JobStore(Path(sys.argv[1]))
"""


def test_a_hub_killed_during_a_migration_leaves_the_file_as_it_was(path: Path) -> None:
    make_version_1(path)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with closing(sqlite3.connect(path)) as db:
        assert schema.version_of(db) == 1
    assert jobs_in(path) == {"ended", "open"}


def test_without_room_for_the_copy_an_older_file_is_not_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_version_1(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pibot.master_components.store.schema.copy", full)
    with pytest.raises(StoreError, match="No space left on device; it is as it was: free some space"):
        JobStore(path)
    with closing(sqlite3.connect(path)) as db:
        assert schema.version_of(db) == 1


def test_the_versions_are_numbered_without_a_gap_and_end_in_a_sound_file(path: Path) -> None:
    JobStore(path).close()
    with closing(sqlite3.connect(path)) as db:
        assert schema.version_of(db) == len(schema.migrations()) >= 2
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_scripts_name_the_states_as_the_code_does() -> None:
    scripts = " ".join(" ".join(schema.migrations()).split())
    assert f"ON job (priority DESC, seq) WHERE state IN {listed(UNFINISHED_JOBS)};" in scripts
    assert f"ON job (finished_run, seq) WHERE state IN {listed(ENDED_JOBS)};" in scripts


# --- copies ---


def test_a_start_keeps_a_good_copy_once_a_day(path: Path) -> None:
    clock = Clock()
    first = fill(path, 3, clock=clock)
    path.with_name("jobs.db.bak.part").write_bytes(b"left by a hub that was killed")
    assert not copies.copy_of(path).exists()  # an empty database needs no copy
    second = fill(path, 1, clock=clock)
    copied = path.with_name("copied.db")

    def in_the_copy() -> set[str]:
        copied.write_bytes(copies.copy_of(path).read_bytes())
        return jobs_in(copied)

    assert in_the_copy() == set(first)
    clock.now += DAY - 1
    third = fill(path, 1, clock=clock)
    assert in_the_copy() == set(first)
    clock.now += 1
    fill(path, 1, clock=clock)
    assert in_the_copy() == {*first, *second, *third}
    assert not list(path.parent.glob("*.part*"))


def test_a_copy_from_the_future_does_not_count(path: Path) -> None:
    fill(path, 1)
    fill(path, 1, clock=Clock(4_000_000_000.0))
    fill(path, 1, clock=Clock(1000.0))  # a Pi that does not know the time yet
    assert copies.copy_of(path).stat().st_mtime == 1000.0


def test_a_damaged_files_error_names_the_copy_and_the_copy_holds_the_jobs(path: Path) -> None:
    taken = fill(path, 60)
    fill(path, 0, clock=Clock())
    damage(path)
    with pytest.raises(StoreError, match=r"is damaged .*copy .*/jobs\.db\.bak of 2027-01-15 08:00 UTC.* to jobs\.db"):
        JobStore(path)
    for part in path.parent.glob("jobs.db*"):
        if part.suffix != ".bak":
            part.unlink()
    copies.copy_of(path).replace(path)
    assert jobs_in(path) == set(taken)


def test_a_damaged_file_does_not_replace_the_good_copy(path: Path) -> None:
    fill(path, 60)
    fill(path, 0, clock=Clock())
    good = copies.copy_of(path).read_bytes()
    damage(path)
    with pytest.raises(StoreError):
        JobStore(path, clock=Clock(1_900_000_000.0))
    assert copies.copy_of(path).read_bytes() == good


def test_a_new_file_does_not_replace_the_copy_of_the_old_one(path: Path) -> None:
    fill(path, 20)
    fill(path, 0, clock=Clock(1_700_000_000.0))
    good = copies.copy_of(path).read_bytes()
    for part in path.parent.glob("jobs.db*"):
        if part.suffix != ".bak":
            part.unlink()
    fill(path, 1)
    fill(path, 1)
    assert path.with_name("jobs.db.bak.old").read_bytes() == good
    assert copies.copy_of(path).exists()


def test_a_start_without_room_for_a_copy_logs_that_and_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill(path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pibot.master_components.store.copies.copy", full)
    assert len(jobs_in(path)) == 1
    assert "no_copy" in caplog.text
    assert "No space left" in caplog.text


# --- an emptied file, and who may read the files ---


@pytest.mark.parametrize("emptied", [b"", None], ids=["of no bytes", "without tables"])
def test_an_empty_file_beside_a_good_copy_is_refused_and_the_error_says_how_to_go_on(
    path: Path, emptied: bytes | None
) -> None:
    taken = fill(path, 3)
    fill(path, 0, clock=Clock())
    good = copies.copy_of(path).read_bytes()
    path.unlink()
    if emptied is None:
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA journal_mode = WAL")
    else:
        path.write_bytes(emptied)
    for _ in range(2):
        with pytest.raises(
            StoreError,
            match=r"is empty, but .* copy .*/jobs\.db\.bak of 2027-01-15 08:00 UTC is there; ",
        ):
            JobStore(path)
    assert copies.copy_of(path).read_bytes() == good
    path.write_bytes(good)
    assert jobs_in(path) == set(taken)


def test_an_empty_file_that_a_failed_first_start_left_beside_the_copy_it_set_aside_is_refused(path: Path) -> None:
    fill(path, 3)
    fill(path, 0, clock=Clock())
    path.unlink()
    copies.put_aside(path)
    path.write_bytes(b"")
    with pytest.raises(StoreError, match=r"is empty, but .* copy .*/jobs\.db\.bak\.old of .* is there; "):
        JobStore(path)


def test_an_empty_file_without_a_copy_becomes_a_database(path: Path) -> None:
    path.write_bytes(b"")
    assert jobs_in(path) == set()


@pytest.mark.usefixtures("usual_umask")
def test_only_the_owner_can_read_the_database_and_its_copies(path: Path) -> None:
    make_version_1(path)
    copies.copy_of(path).write_bytes(b"an earlier release's")
    for file in (path, copies.copy_of(path)):
        file.chmod(0o644)
    with closing(JobStore(path, clock=Clock())) as store:
        store.submit(Submission("x"))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob("jobs.db*")}
    assert modes == dict.fromkeys(
        ["jobs.db", "jobs.db-wal", "jobs.db-shm", "jobs.db.bak", "jobs.db.lock", "jobs.db.v1"], 0o600
    )
