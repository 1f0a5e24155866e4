"""``pibot eval`` as a process, against a real hub with workers that do what a task's description says."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pibot.cli import main
from pibot.cli.evaluation.report import total_lines
from pibot.cli.evaluation.runs import Outcome, Run
from pibot.contracts import Scope
from pibot.settings import AccessKey, Secret
from tests.support.fleet import Fleet, fleet, plan, step
from tests.support.processes import pibot, pibot_command
from tests.support.scripted_llm import MODEL

KEY = "cli-key-0123456789"
READER = "reader-key-0123456789"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    keys = (AccessKey("wall", Scope.READ, Secret(READER)),)
    with fleet(tmp_path_factory.mktemp("fleet"), workers=1, key=KEY, keys=keys) as running:
        running.until(lambda: running.workers()["worker-1"]["skills"] is not None)
        yield running


def task(folder: Path, name: str, description: str, contains: str = "did", more: str = "") -> None:
    """Write a task, which passes if the answer contains a text."""
    checks = f"checks: [{{contains: {json.dumps(contains)}}}]"
    text = f"about: {name}\ndescription: {json.dumps(description)}\n{checks}\n{more}"
    folder.joinpath(f"{name}.yaml").write_text(text, "utf-8")


def evaluate(running: Fleet, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return running.pibot("eval", "--tasks", str(folder), *options)


def test_each_task_gets_a_row_with_what_it_cost_and_the_end_a_total(running: Fleet, tmp_path: Path) -> None:
    task(tmp_path, "one", "do this")
    task(tmp_path, "two", "do that", "the moon")
    task(tmp_path, "three", "fail at it")
    done = evaluate(running, tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"  task   passed   steps calls   tokens      cost  seconds", lines[0])
    assert re.fullmatch(r"✓ one    passed +1 +1 +15 +– +\d+\.\d", lines[1])
    assert lines[2].startswith("✗ three  failed ")
    assert re.fullmatch(r"    the job failed \(pibot job eval-\w{6}-three-1\)", lines[3])
    assert lines[4].startswith("      it answered: ")
    assert "it was told to fail" in lines[4]
    assert lines[5].startswith("✗ two    failed ")
    assert lines[6].startswith("    the answer lacks 'the moon' (pibot job eval-")
    assert lines[7] == "      it answered: did: do that"
    assert re.fullmatch(rf"{MODEL}: 1 passed, 2 failed of 3 runs; 45 tokens in 3 model calls, \d+\.\d s", lines[8])
    shown = re.findall(r"pibot job (\S+)\)", done.stdout)
    assert running.pibot("job", shown[0]).returncode == 0


def test_a_fleet_that_passes_every_task_ends_the_command_with_0(running: Fleet, tmp_path: Path) -> None:
    task(tmp_path, "one", "do this")
    task(tmp_path, "two", "fail at it")
    done = evaluate(running, tmp_path, "--only", "one", "--repeat", "3", "--model", MODEL)
    assert done.returncode == 0
    assert re.search(r"^✓ one  3/3 +1 +1 +15 ", done.stdout, re.MULTILINE)
    assert "3 passed of 3 runs; 45 tokens" in done.stdout


def test_the_result_for_programs_has_each_run_and_the_total(running: Fleet, tmp_path: Path) -> None:
    task(tmp_path, "one", "do this")
    task(tmp_path, "two", "do that", more="skills: [telepathy]\n")
    task(tmp_path, "three", "do it", more="pages: {'': x}\n")
    done = evaluate(running, tmp_path, "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, done.stderr, result["model"], result["hub"]) == (0, "", MODEL, running.url)
    assert [(run["task"], run["outcome"]) for run in result["runs"]] == [
        ("one", "passed"),
        ("three", "skipped"),
        ("two", "skipped"),
    ]
    assert {"tokens": 15, "calls": 1, "steps": 1, "cost": None}.items() <= result["total"].items()
    assert result["runs"][2]["reason"] == "no worker has the skill telepathy"
    assert result["runs"][1]["reason"].startswith("it needs --page-host: an address of this computer")


def test_a_budget_stops_the_evaluation_once_it_is_spent(running: Fleet, tmp_path: Path) -> None:
    for name in ("four", "one", "two", "three"):
        task(tmp_path, name, "do this")
    done = evaluate(running, tmp_path, "--budget", "20")
    assert done.returncode == 1
    assert "2 passed, 2 stopped of 4 runs; 30 tokens" in done.stdout
    assert done.stdout.count("    the budget of 20 tokens is spent\n") == 1


def test_a_budget_that_runs_out_within_a_task_cancels_its_job(running: Fleet, tmp_path: Path) -> None:
    running.llm.enqueue(plan(step("a", "ask for a walk")))  # waits for the owner, so that only the budget ends it
    task(tmp_path, "one", "go on", more="planned: true\n")
    done = evaluate(running, tmp_path, "--budget", "14", "--json")
    (run,) = json.loads(done.stdout)["runs"]
    assert (done.returncode, run["outcome"]) == (1, "stopped")
    assert run["tokens"] >= 15
    assert running.job(run["job_id"])["status"] == "cancelled"


def test_a_call_that_needs_approval_skips_its_task_and_cancels_the_job(running: Fleet, tmp_path: Path) -> None:
    task(tmp_path, "one", "ask for a walk")
    done = evaluate(running, tmp_path, "--json")
    (run,) = json.loads(done.stdout)["runs"]
    assert (done.returncode, run["outcome"]) == (1, "skipped")
    assert run["reason"] == "shell_exec needs your approval on this fleet (PIBOT_APPROVE)"
    assert running.job(run["job_id"])["status"] == "cancelled"


def test_ctrl_c_cancels_the_running_job_and_shows_what_was_done(tmp_path: Path) -> None:
    with fleet(tmp_path / "fleet", workers=1, key=KEY) as running:
        task(tmp_path, "one", "do this")
        task(tmp_path, "two", "hold it")
        argv, environment = pibot_command("eval", "--tasks", str(tmp_path), url=running.url, key=KEY)
        process = subprocess.Popen(
            argv,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        running.gate.wait_for_a_task()
        process.send_signal(signal.SIGINT)
        shown, errors = process.communicate(timeout=60)
        (last,) = running.ask("GET", "/tasks?limit=1").json()["tasks"]
        assert (process.returncode, last["status"]) == (130, "cancelled")
    assert errors == "pibot: interrupted; the running job was cancelled\n"
    assert "✓ one" in shown
    assert "1 passed of 1 run; 15 tokens" in shown


def test_what_was_run_is_shown_when_the_hub_refuses_a_job(running: Fleet, tmp_path: Path) -> None:
    task(tmp_path, "one", "do this")
    done = pibot("eval", "--tasks", str(tmp_path), url=running.url, key=READER)
    assert done.returncode == 4
    assert f"{MODEL}: nothing was run" in done.stdout
    assert "scope" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--only", "nope"], 2, "there is no task 'nope'; the tasks are one"),
        (["--page-host", "http://x"], 2, "--page-host must be like 192.168.10.20"),
        (["--page-host", "127.0.0.1:99999"], 2, "the largest is 65535"),
        (["--page-host", "192.0.2.1"], 2, "--page-host must be an address of this computer"),
        (["--repeat", "0"], 2, "--repeat"),
        (["--budget", "0"], 2, "--budget"),
        (["--model", "other"], 5, f"the fleet's model is {MODEL}, not other: set MODEL_NAME on the master"),
    ],
)
def test_what_cannot_be_run_is_told_before_anything_is_paid_for(
    running: Fleet, tmp_path: Path, options: list[str], code: int, said: str
) -> None:
    task(tmp_path, "one", "do this")
    argv = ["eval", "--tasks", str(tmp_path), *options]
    done = CliRunner().invoke(main, argv, env={"PIBOT_HUB_URL": running.url, "PIBOT_API_KEY": KEY})
    assert (done.exit_code, said in done.output) == (code, True), done.output
    assert "passed" not in done.output


def test_a_hub_without_workers_or_model_and_a_worker_instead_of_a_hub_are_told(tmp_path: Path) -> None:
    with fleet(tmp_path / "a", workers=0, key=KEY) as none:
        done = none.pibot("eval")
        assert (done.returncode, done.stdout, "no worker answers the hub" in done.stderr) == (3, "", True)
    with fleet(tmp_path / "b", workers=1) as one:
        (worker,) = one.workers().values()
        done = pibot("eval", url=worker["url"])
        assert (done.returncode, done.stdout, "is no PiBot hub; set PIBOT_HUB_URL" in done.stderr) == (5, "", True)


def test_a_total_says_so_if_a_fallback_model_answered() -> None:
    runs = [
        Run("one", 1, Outcome.PASSED, job_id="j1", calls=3, tokens=900, cost=0.25, models={"big": 3}),
        Run("two", 1, Outcome.PASSED, job_id="j2", calls=2, tokens=300, cost=0.5, models={"big": 1, "small": 1}),
    ]
    assert total_lines(runs[:1], "big", "CNY") == [
        "big: 1 passed of 1 run; 900 tokens in 3 model calls, 0.25 CNY, 0.0 s"
    ]
    assert total_lines(runs, "big", "CNY")[1] == (
        "More than one model answered, so this is no measure of one alone: big 4 calls, small 1 call"
    )
