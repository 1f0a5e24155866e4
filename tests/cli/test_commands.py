"""The ``pibot`` commands, as processes, against a real hub."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, fleet, plan, step
from tests.support.processes import pibot, pibot_command
from tests.support.scripted_llm import text
from tests.support.workers import closed_port

pytestmark = pytest.mark.slow

KEY = "cli-key"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path, key=KEY) as running:
        yield running


# --- run ---


def test_run_prints_the_answer_to_stdout_and_the_progress_to_stderr(running: Fleet) -> None:
    running.llm.enqueue(plan(step("a", "first"), step("b", "second", "a")), text("All done."))
    done = running.pibot("run", "do two things")
    assert (done.returncode, done.stdout) == (0, "All done.\n")
    for part in ("The plan (moderate): 2 steps", "b: second [no skills] — after a", "✓ a completed on worker-"):
        assert part in done.stderr


def test_run_ends_with_1_when_the_job_failed_and_says_why(running: Fleet) -> None:
    done = running.pibot("run", "--skills", "", "fail at this")
    assert done.returncode == 1
    assert "pibot: the job failed" in done.stderr
    assert "it was told to fail" in done.stderr


def test_run_with_json_prints_the_result_and_nothing_else(running: Fleet) -> None:
    done = running.pibot("run", "--json", "--skills", "shell_exec", "say hello")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert (result["success"], result["output"]) == (True, "did: say hello")


def test_run_reads_the_description_from_standard_input(running: Fleet) -> None:
    done = running.pibot("run", "--skills", "", "-", stdin="from a pipe\n")
    assert done.stdout == "did: from a pipe\n\n"


def test_run_without_waiting_prints_the_jobs_id(running: Fleet) -> None:
    done = running.pibot("run", "--no-wait", "--skills", "", "later")
    assert done.returncode == 0
    assert running.result(done.stdout.strip())["success"] is True


def _restore_ctrl_c() -> None:
    """Restore SIGINT: a script's background jobs ignore it, and child processes inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on(running: Fleet) -> None:
    argv, environment = pibot_command("run", "--skills", "", "hold on", url=running.url, key=KEY)
    process = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=_restore_ctrl_c)
    running.gate.wait_for_a_task()
    assert process.stderr is not None
    first = process.stderr.readline()
    os.kill(process.pid, signal.SIGINT)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(20) == 130
    job_id = first.split()[1]
    assert f"'pibot cancel {job_id}' ends it" in rest
    running.gate.open()
    assert running.result(job_id)["success"] is True


# --- looking ---


def test_status_shows_hub_model_jobs_and_workers(running: Fleet) -> None:
    running.result(running.submit("something"))
    done = running.pibot("status")
    assert done.returncode == 0
    for part in (f"hub      {running.url}", "model    scripted-model", "jobs     1 completed", "worker-2     idle"):
        assert part in done.stdout
    assert json.loads(running.pibot("status", "--json").stdout)["hub"]["status"] == "healthy"


def test_jobs_lists_the_newest_first_and_filters_by_status(running: Fleet) -> None:
    assert "pibot run" in running.pibot("jobs").stdout
    for description in ("one", "fail two"):
        running.result(running.submit(description))
    lines = running.pibot("jobs").stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["failed", "completed"]
    assert len(json.loads(running.pibot("jobs", "--status", "failed", "--json").stdout)) == 1
    wrong = running.pibot("jobs", "--status", "lost")
    assert (wrong.returncode, "status must be one of" in wrong.stderr) == (5, True)


def test_job_shows_plan_steps_and_answer(running: Fleet) -> None:
    job_id = running.submit("show me")
    running.result(job_id)
    done = running.pibot("job", job_id)
    for part in (f"{job_id} completed: show me", "The plan (simple): 1 step", "✓ step-1", "did: show me"):
        assert part in done.stdout
    assert json.loads(running.pibot("job", "--json", job_id).stdout)["job_id"] == job_id


def test_status_shows_damage_of_the_job_database(running: Fleet) -> None:
    assert "problem" not in running.pibot("status").stdout
    running.service.store.database.damage = "the job database jobs.db is damaged (page 20); stop the hub, then move it"
    assert "problem  the job database jobs.db is damaged" in running.pibot("status").stdout


def test_cancel_ends_a_job(running: Fleet) -> None:
    job_id = running.submit("hold it")
    running.gate.wait_for_a_task()
    assert running.pibot("cancel", job_id).stdout == f"{job_id} cancelled\n"
    assert running.result(job_id)["status"] == "cancelled"


@pytest.mark.parametrize("job_id", ["nope", "../workers", "a/b?c#d"])
def test_an_unknown_job_is_reported_in_one_line(running: Fleet, job_id: str) -> None:
    done = running.pibot("job", job_id)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (5, "", 1)


# --- what goes wrong ---


def test_an_unreachable_hub_is_reported_with_what_to_do() -> None:
    with closed_port() as port:
        done = pibot("status", url=f"http://127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (3, "")
    assert "start one with 'pibot hub'" in done.stderr
    assert "PIBOT_HUB_URL" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_wrong_key_is_reported_with_its_variable(running: Fleet) -> None:
    for key in (None, "wrong", "ключ"):
        done = pibot("run", "x", url=running.url, key=key)
        assert (done.returncode, "PIBOT_API_KEY" in done.stderr) == (4, True)


@pytest.mark.parametrize("url", ["127.0.0.1:5000", "ftp://x", "http://", "http://x:70000", "http://[::1"])
def test_an_invalid_address_is_a_usage_error(url: str) -> None:
    done = pibot("status", url=url)
    assert (done.returncode, "PIBOT_HUB_URL must be like" in done.stderr) == (2, True)


def test_the_hubs_refusal_is_printed_in_its_own_words(running: Fleet) -> None:
    done = running.pibot("run", "--skills", "telepathy", "x")
    assert (done.returncode, "unknown skill 'telepathy'" in done.stderr) == (5, True)


def test_an_invalid_setting_is_reported_in_one_line_that_names_it() -> None:
    argv, environment = pibot_command("worker")
    done = subprocess.run(argv, env={**environment, "PIBOT_SANDBOX": "docker"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "pibot: PIBOT_SANDBOX must be one of bwrap, off, not 'docker'\n")


def test_a_process_that_would_be_open_to_everyone_refuses_to_start(tmp_path: Path) -> None:
    for kind in ("worker", "hub"):
        argv, environment = pibot_command(kind, "--host", "0.0.0.0", "--port", "0")
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=60)
        assert (done.returncode, "PIBOT_API_KEY" in done.stderr) == (2, True), done.stderr


def test_help_names_every_command_and_every_exit_code() -> None:
    done = pibot("--help")
    for word in ("run", "status", "jobs", "job", "export", "cancel", "hub", "worker", "rehearsal", "demo", "130"):
        assert word in done.stdout
    assert pibot("--version").stdout == "pibot, version 3.0.0\n"
    assert pibot("fly").returncode == 2


def test_drain_and_undrain_show_in_the_status(running: Fleet) -> None:
    drained = running.pibot("drain", "worker-2")
    assert (drained.returncode, drained.stdout) == (0, "worker-2 draining\n")
    status = running.pibot("status").stdout
    (line,) = [line for line in status.splitlines() if line.startswith("worker-2")]
    assert line.endswith("draining")
    assert running.pibot("undrain", "worker-2").stdout == "worker-2 active\n"
    unknown = running.pibot("drain", "worker-9")
    assert unknown.returncode == 5
    assert "no worker 'worker-9'; there are: worker-1, worker-2" in unknown.stderr


def test_job_and_jobs_show_what_steps_wait_for(running: Fleet) -> None:
    for worker in ("worker-1", "worker-2"):
        running.pibot("drain", worker)
    job_id = running.submit("look")
    assert "step-1 ready, waits: worker-1 is being drained; worker-2 is being drained" in (
        running.pibot("job", job_id).stdout
    )
    assert running.pibot("jobs").stdout.splitlines()[1:] == [
        f"{job_id} waits: worker-1 is being drained; worker-2 is being drained"
    ]


# --- terminals ---


def test_characters_that_the_terminal_cannot_show_are_replaced(running: Fleet) -> None:
    job_id = running.submit("say 你好 ✓")
    running.result(job_id)
    argv, environment = pibot_command("job", job_id, url=running.url, key=KEY)
    done = subprocess.run(argv, env={**environment, "PYTHONIOENCODING": "latin-1"}, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"say ?? ?" in done.stdout


@pytest.mark.parametrize("command", [["jobs", "--limit", "200"], ["jobs", "--json"], ["status"]])
def test_a_reader_that_has_enough_is_no_error(running: Fleet, command: list[str]) -> None:
    for number in range(3):
        running.result(running.submit(f"job {number} {'x' * 9000}"))
    argv, environment = pibot_command(*command, url=running.url, key=KEY)
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")


def test_an_interrupt_while_the_program_is_loaded_ends_it_with_130_and_no_word(tmp_path: Path) -> None:
    slow = "import sys\nsys.stdout.write('loading\\n')\nsys.stdout.flush()\nsys.stdin.read()\n"
    (tmp_path / "click.py").write_text(slow)
    argv, environment = pibot_command("jobs")
    process = subprocess.Popen(
        argv,
        env={**environment, "PYTHONPATH": str(tmp_path)},
        preexec_fn=_restore_ctrl_c,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"loading\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"")


@pytest.mark.parametrize("port", ["70000", "-1", "٣", "9" * 30, "web"])
@pytest.mark.parametrize("command", ["hub", "worker", "rehearsal"])
def test_a_port_that_is_none_is_refused_with_a_sentence(command: str, port: str) -> None:
    done = pibot(command, "--port", port)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "--port" in done.stderr
