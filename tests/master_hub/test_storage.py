"""The storage as its owner sees it: a full queue, a full disk, old jobs, a job's complete record, two hubs."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pibot import __version__
from pibot.contracts import WorkerAddress
from pibot.errors import StoreError, StoreUnwritable
from pibot.master_components.store.copies import copy_of
from pibot.master_components.store.records import Submission
from pibot.master_components.store.states import JobState
from tests.master_hub.test_run_hub import ready, start
from tests.support.fleet import Fleet, fleet, hub, settings_for
from tests.support.scripted_llm import ScriptedLLM
from tests.support.serving import ask
from tests.support.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path) as parts:
        yield parts


# --- a full queue ---


def test_a_full_queue_refuses_a_new_job_and_drops_no_accepted_one(tmp_path: Path) -> None:
    with fleet(tmp_path, workers=1, max_queued=2) as parts:
        body = {"description": "hold on", "skills": [], "job_id": "first"}
        assert parts.ask("POST", "/task", body).status == 202
        second = parts.submit("hold on")
        refused = parts.ask("POST", "/task", {"description": "one more", "skills": []})
        again = parts.ask("POST", "/task", body)
        page = parts.ask("GET", "/dashboard/data").json()
        form = f"token={page['token']}&description=one+more".encode()
        from_page = parts.ask("POST", "/dashboard/submit", form, Content_Type="application/x-www-form-urlencoded")
        command = parts.pibot("run", "--skills", "", "one more")
        parts.gate.open()
        ends = [parts.result(job_id)["status"] for job_id in ("first", second)]
        later = parts.result(parts.submit("one more"))

    assert (refused.status, refused.headers["Retry-After"]) == (503, "30")
    assert "the queue is full: 2 jobs have not ended, and PIBOT_MAX_QUEUED" in refused.json()["error"]
    assert (again.status, again.json()["job_id"]) == (202, "first")
    assert (from_page.status, from_page.headers["Retry-After"]) == (503, "30")
    assert b"the queue is full" in from_page.body
    assert command.returncode == 3
    assert command.stderr.startswith("pibot: the queue is full: 2 jobs have not ended")
    assert ends == ["completed"] * 2
    assert later["status"] == "completed"


# --- a full disk ---


def fill(path: Path) -> None:
    """Fill a small disk up."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as filler:
        while filler.write(b"x" * 512):
            pass


def test_a_full_disk_is_reported_everywhere_until_there_is_room_again(running: Fleet) -> None:
    job_id = running.submit("hold on")
    running.gate.wait_for_a_task()
    store = running.service.store
    store.database.connection.execute("PRAGMA max_page_count = 1")  # makes SQLite report a full disk
    for size in (1000, 100, 0):
        with contextlib.suppress(StoreUnwritable):
            while True:
                store.note("worker_online", message="x" * size)
    refused = running.ask("POST", "/task", {"description": "look", "skills": []})
    running.gate.open()
    waited = running.ask("GET", f"/task/{job_id}/result", Prefer="wait=1")
    banners = {banner["id"]: banner["text"] for banner in running.ask("GET", "/dashboard/data").json()["banners"]}
    health = running.ask("GET", "/health").json()

    assert (refused.status, waited.status) == (503, 202)
    assert int(refused.headers["Retry-After"]) >= 1
    for text in (refused.json()["error"], banners["store"], health["problem"]):
        assert "jobs.db can't be written: database or disk is full; free some space" in text

    store.database.connection.execute("PRAGMA max_page_count = 1000000")
    assert running.result(job_id)["status"] == "completed"
    assert "problem" not in running.ask("GET", "/health").json()


def test_damage_found_while_the_hub_runs_is_reported_on_the_dashboard_and_in_health(running: Fleet) -> None:
    store = running.service.store
    for _ in range(60):
        store.submit(Submission("x" * 3000))
    store.database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (running.service.settings.data_dir / "jobs.db").open("r+b") as file:
        file.seek(20 * 4096)
        file.write(b"\xa5" * (20 * 4096))
    copy_of(running.service.settings.data_dir / "jobs.db").unlink(missing_ok=True)  # so that the next copy is due
    with pytest.raises(StoreError, match="is damaged"):
        store.keep_good_copy()
    banners = {banner["id"]: banner["text"] for banner in running.ask("GET", "/dashboard/data").json()["banners"]}
    for text in (banners["damage"], running.ask("GET", "/health").json()["problem"]):
        assert "jobs.db is damaged" in text
        assert "stop the hub, then move it" in text


def test_a_page_says_that_the_store_can_not_be_read(running: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(**more: object) -> None:
        raise StoreError("the job database jobs.db can't be read: disk I/O error")

    monkeypatch.setattr(running.service.store.queries, "jobs", unreadable)
    for path in ("/dashboard", "/dashboard/data"):
        answer = running.ask("GET", path)
        assert (answer.status, b"disk I/O error" in answer.body) == (503, True)


@pytest.mark.system
def test_a_hub_on_a_really_full_disk_refuses_jobs_and_finishes_the_accepted_ones_once_there_is_room(
    tmp_path: Path,
) -> None:
    disk = tmp_path / "data"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no small disk can be mounted here")
    try:
        with fleet(tmp_path, data_dir=disk) as parts:
            held = parts.submit("hold on")
            parts.gate.wait_for_a_task()
            accepted, answer = [held], parts.ask("POST", "/task", {"description": "hold " + "x" * 50_000, "skills": []})
            fill(disk / "filler")
            while answer.status == 202:
                accepted.append(answer.json()["job_id"])
                answer = parts.ask("POST", "/task", {"description": "hold " + "x" * 50_000, "skills": []})
            trouble = answer.json()["error"]
            parts.gate.open()  # the held job's worker finishes, and the result can't be written
            waited = parts.ask("GET", f"/task/{held}/result", Prefer="wait=2")
            (disk / "filler").unlink()
            ends = {job_id: parts.result(job_id)["status"] for job_id in accepted}
            assert "problem" not in parts.ask("GET", "/health").json()
    finally:
        subprocess.run(["umount", str(disk)], check=True)

    assert answer.status == 503
    assert "jobs.db can't be written: database or disk is full; free some space" in trouble
    assert waited.status == 202
    assert len(ends) > 1
    assert set(ends.values()) == {"completed"}


# --- old jobs ---


def test_a_start_deletes_the_oldest_jobs_beyond_the_limit(tmp_path: Path) -> None:
    with fleet(tmp_path, workers=1) as parts:
        ids = [parts.submit(f"look {n}") for n in range(5)]
        for job_id in ids:
            parts.result(job_id)
    with ScriptedLLM() as llm:
        settings = settings_for(tmp_path, llm, jobs_kept=2)
    with hub(settings) as (service, port):
        until(lambda: len(service.store.queries.jobs()) <= 2)
        statuses = [ask(port, "GET", f"/task/{job_id}").status for job_id in ids]

    assert sorted(statuses) == [200, 200, 404, 404, 404]


# --- a job's complete record ---


def test_a_jobs_record_holds_its_plan_attempts_and_events(running: Fleet, tmp_path: Path) -> None:
    job_id = running.submit("fail at it")
    running.result(job_id)

    answer = running.ask("GET", f"/task/{job_id}/export")
    record = answer.json()
    printed = running.pibot("export", job_id)
    written = running.pibot("export", job_id, "--output", str(tmp_path / "job.json"))
    nowhere = running.pibot("export", job_id, "--output", str(tmp_path / "no" / "job.json"))
    unknown = running.pibot("export", "nope")

    assert answer.status == 200
    assert record["version"] == __version__
    assert record["job"] == running.ask("GET", f"/task/{job_id}").json()["job"]
    (step,) = record["job"]["subtasks"]
    assert [(a["number"], a["error"], a["late_result"]) for a in step["attempts"]] == [(1, "it was told to fail", None)]
    kinds = [event["kind"] for event in record["events"]]
    assert kinds == ["job_accepted", "subtask_started", "subtask_failed", "job_failed"]
    assert json.loads(printed.stdout) == json.loads((tmp_path / "job.json").read_text()) == record
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    assert (nowhere.returncode, nowhere.stderr.count("\n"), "--output" in nowhere.stderr) == (2, 1, True)
    assert (unknown.returncode, unknown.stderr) == (5, "pibot: no job 'nope'\n")


def test_a_jobs_record_requires_the_key(tmp_path: Path) -> None:
    with fleet(tmp_path, workers=0, key="fleet-key") as parts:
        assert ask(parts.port, "GET", "/task/x/export").status == 401


# --- two hubs ---


def test_a_second_hub_with_the_same_jobs_says_so_in_one_sentence(tmp_path: Path) -> None:
    with ready(tmp_path) as (first, _, port):
        second = start(tmp_path)
        _, err = second.communicate(timeout=30)
        still = ask(port, "GET", "/health").status

    assert second.returncode == 1
    assert err.splitlines()[-1].startswith(f"another hub (process {first.pid}) runs with the job database ")
    assert "PIBOT_DATA_DIR" in err
    assert "Traceback" not in err
    assert still == 200


def test_export_works_beside_a_running_hub(tmp_path: Path) -> None:
    with ready(tmp_path) as (_, _, port):
        ask(port, "POST", "/task", {"description": "look", "skills": [], "job_id": "mine"})
        argv = [sys.executable, "-m", "pibot", "export", "mine"]
        done = subprocess.run(
            argv, env={"PIBOT_HUB_URL": f"http://127.0.0.1:{port}"}, cwd=tmp_path, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["job"]["description"] == "look"


# --- rows that this release does not write ---


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE job SET state = 'paused'", "the job database says 'paused' for its state"),
        ("UPDATE subtask SET state = 'parked'", "the job database says 'parked' for its state"),
        ('UPDATE subtask SET result = \'{"status": "odd", "task_id": "t"}\'', "its stored result can't be read"),
        ("UPDATE subtask SET result = '[]'", "its stored result can't be read"),
        ("UPDATE subtask SET result = replace(result, 'did', '\\ud83d')", ""),
        ("UPDATE subtask SET result = replace(result, '\"steps\": 1', '\"steps\": NaN')", ""),
        ("UPDATE attempt SET late_result = '{}'", "its stored result can't be read"),
        ("UPDATE job SET plan = '{}'", "its stored plan can't be read"),
    ],
)
def test_a_row_that_this_release_does_not_write_is_shown_as_what_it_is(running: Fleet, change: str, said: str) -> None:
    job_id = running.submit("look")
    running.result(job_id)
    with running.service.store.database.transaction() as db:
        assert db.execute(change).rowcount
    whole = running.ask("GET", f"/task/{job_id}")
    assert (whole.status, said in whole.body.decode()) == (200, True)
    pages = ("/dashboard", "/dashboard/data", f"/dashboard/jobs/{job_id}", f"/dashboard/jobs/{job_id}/data")
    for path in (*pages, "/tasks", f"/task/{job_id}/export", f"/task/{job_id}/result", "/health", "/metrics"):
        assert running.ask("GET", path).status in (200, 404), path


def test_a_call_whose_stored_arguments_can_not_be_read_is_over(running: Fleet) -> None:
    job_id = running.submit("ask ls")
    running.waiting_call(job_id)
    with running.service.store.database.transaction() as db:
        db.execute("UPDATE approval SET arguments = ?", ("[" * 5000,))
    (call,) = running.job(job_id)["approvals"]
    assert (call["status"], call["arguments"]) == ("over", {})
    assert "its stored arguments can't be read" in call["reason"]
    assert running.ask("GET", "/approvals").status == running.ask("GET", f"/dashboard/jobs/{job_id}").status == 200
    assert running.ask("POST", f"/task/{job_id}/cancel").status == 200


def test_a_call_in_an_unknown_state_counts_as_over(running: Fleet) -> None:
    job_id = running.submit("ask ls")
    running.waiting_call(job_id)
    with running.service.store.database.transaction() as db:
        db.execute("UPDATE approval SET state = 'postponed'")
    (call,) = running.job(job_id)["approvals"]
    assert call["status"] == "over"
    assert "the job database says 'postponed' for its state" in call["reason"]
    assert running.ask("POST", f"/task/{job_id}/cancel").status == 200


# --- what the jobs take ---


def test_jobs_of_too_many_bytes_are_refused_until_some_have_ended(tmp_path: Path) -> None:
    large = "hold " + "木" * 99_000
    with fleet(tmp_path, workers=1, queue_mb=1) as parts:
        taken = [parts.submit(large) for _ in range(3)]
        refused = parts.ask("POST", "/task", {"description": large, "skills": []})
        parts.gate.open()
        for job_id in taken:
            assert parts.result(job_id)["status"] == "completed"
        later = parts.ask("POST", "/task", {"description": large, "skills": []})
    assert (refused.status, refused.headers["Retry-After"]) == (503, "30")
    assert "the queue is full: the jobs that have not ended take 0.9 MB, and PIBOT_QUEUE_MB" in refused.json()["error"]
    assert later.status == 202


def test_the_oldest_ended_jobs_go_when_they_take_too_many_bytes(tmp_path: Path) -> None:
    with ScriptedLLM() as llm:
        settings = settings_for(tmp_path, llm, jobs_mb=1)
    with hub(settings) as (service, _):
        jobs = [service.store.submit(Submission("木" * 99_000)).job_id for _ in range(5)]
        for job_id in jobs:
            service.store.finish(job_id, JobState.CANCELLED)
    with hub(settings) as (service, _):
        until(lambda: len(service.store.queries.jobs()) == 3)
        assert [job.job_id for job in service.store.queries.jobs()] == jobs[:1:-1]


def test_a_list_of_large_jobs_comes_in_pages_of_bounded_bytes(running: Fleet) -> None:
    """Each job is on one page, and no page carries a job's whole texts."""
    store, sent = running.service.store, []
    for number in range(150):
        job_id = store.submit(Submission("木" * 100_000, job_id=f"large-{number}")).job_id
        store.finish(job_id, JobState.FAILED, answer="結" * 100_000, error="誤" * 100_000)
        sent.append(job_id)
    store.database.connection.execute("UPDATE job SET plan = NULL")
    found, pages, path = [], 0, "/tasks?limit=200"
    while path:
        answer = running.ask("GET", path)
        assert len(answer.body) <= 300_000
        body = answer.json()
        found += [row["job_id"] for row in body["tasks"]]
        pages += 1
        path = f"/tasks?limit=200&before={body['next']}" if body["next"] else ""
    assert found == sent[::-1]
    assert pages > 1
    listed = json.loads(running.pibot("jobs", "--json", "--limit", "150").stdout)
    assert [row["job_id"] for row in listed] == found
    assert len(running.ask("GET", "/dashboard").body) < 100_000
    assert running.ask("GET", f"/task/{found[0]}").json()["job"]["answer"] == "結" * 100_000


def test_a_job_in_a_state_of_another_release_breaks_no_page(running: Fleet) -> None:
    job_id = running.submit("look around")
    assert running.result(job_id)["status"] == "completed"
    connection = running.service.store.database.connection
    connection.execute("UPDATE job SET state = 'paused'")
    connection.execute("UPDATE subtask SET state = 'parked'")
    paths = ["/dashboard", "/dashboard/data", f"/dashboard/jobs/{job_id}", "/tasks", "/health", "/metrics"]
    paths += [f"/task/{job_id}", f"/task/{job_id}/export", f"/task/{job_id}/result"]
    assert {path: running.ask("GET", path).status for path in paths} == dict.fromkeys(paths, 200)
    assert running.ask("POST", f"/task/{job_id}/cancel").status == 200
    for path in (f"/dashboard/jobs/{job_id}", f"/task/{job_id}/result", "/tasks"):
        assert b"paused" in running.ask("GET", path).body
    assert b"parked" in running.ask("GET", f"/dashboard/jobs/{job_id}").body


@pytest.mark.usefixtures("usual_umask")
def test_only_the_owner_can_read_the_hubs_data(tmp_path: Path) -> None:
    with ScriptedLLM() as llm:
        settings = settings_for(tmp_path, llm, data_dir=tmp_path / "new" / "data")
    with hub(settings) as (service, _):
        service.members.join(WorkerAddress("worker-9", "127.0.0.1", 9))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in settings.data_dir.iterdir()}
        assert "workers.json" in modes
        assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700
    (settings.data_dir / "workers.json").chmod(0o644)
    with hub(settings):
        assert stat.S_IMODE((settings.data_dir / "workers.json").stat().st_mode) == 0o600


def test_a_list_of_workers_survives_a_power_cut(running: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the new file and its name are on the disk when the change returns."""
    synced: list[bool] = []
    monkeypatch.setattr("os.fsync", lambda number: synced.append(stat.S_ISDIR(os.fstat(number).st_mode)))
    running.service.members.drain("worker-1", True)
    assert synced == [False, True]
