"""A worker as its owner runs it: a process with the real sandbox, and a scripted model over real sockets."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Running, clean_environment, serving_process
from tests.support.scripted_llm import ScriptedLLM, call, text, tool_calls
from tests.support.serving import Answer, ask

pytestmark = pytest.mark.system

SLEEP = "sleep 987654"
TASK = {"task_id": "t1", "description": "sleep for long", "skills": ["shell_exec"]}


@contextlib.contextmanager
def worker(directory: Path, model: ScriptedLLM, **settings: str) -> Iterator[Running]:
    arguments = ["-m", "pibot.worker_task_executor", "--port", "0", "--worker-id", "worker-1"]
    environment = clean_environment(**model.environ(), **settings)
    with serving_process(directory / "worker", arguments, environment) as running:
        yield running


def sleepers(running: Running) -> list[int]:
    """Return the sleeping processes below the worker."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if SLEEP.split() == (path / "cmdline").read_bytes().rstrip(b"\0").decode().split("\0"):
                found.append(int(path.name))
    return [pid for pid in found if _is_below(pid, running.process.pid)]


def _is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def asleep(running: Running) -> list[int]:
    """Wait until all three processes of the task sleep; the test's time limit ends a wait in vain."""
    while len(sleepers(running)) < 3:
        pass
    return sleepers(running)


@pytest.fixture
def model() -> Iterator[ScriptedLLM]:
    # Two commands at the same time; one of them has a sleep in the background.
    commands = (call("shell_exec", {"command": f"{SLEEP} & {SLEEP}"}), call("shell_exec", {"command": SLEEP}))
    with ScriptedLLM(tool_calls(*commands), text("not reached")) as model:
        yield model


@pytest.mark.parametrize("sandbox", ["bwrap", "off"])
def test_all_processes_of_a_cancelled_task_are_gone_when_the_answer_arrives(
    tmp_path: Path, model: ScriptedLLM, sandbox: str
) -> None:
    with worker(tmp_path, model, PIBOT_SANDBOX=sandbox) as running:
        ask(running.port, "POST", "/task", TASK)
        pids = asleep(running)
        got = ask(running.port, "POST", "/task/t1/cancel")
        assert (got.status, got.json()["status"]) == (200, "cancelled")
        assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
        assert sleepers(running) == []
        assert ask(running.port, "GET", "/health").json()["current_task"] is None


def test_on_sigterm_the_running_task_is_cancelled_with_its_processes_and_its_caller_gets_that_result(
    tmp_path: Path, model: ScriptedLLM
) -> None:
    with worker(tmp_path, model, PIBOT_STOP_GRACE="0.1") as running:
        answers: list[Answer] = []
        waiting = threading.Thread(
            target=lambda: answers.append(
                ask(running.port, "POST", "/task", TASK, headers={"Prefer": "wait=60"}, timeout=90)
            )
        )
        waiting.start()
        pids = asleep(running)
        os.kill(running.process.pid, signal.SIGTERM)
        waiting.join()
        assert running.process.wait(30) == 0
    (got,) = answers
    assert (got.status, got.json()["status"]) == (200, "cancelled")
    assert "worker-1 was stopped" in got.json()["error"]
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert list((tmp_path / "worker" / "workspace").iterdir()) == []


def test_a_killed_worker_takes_its_commands_along(tmp_path: Path, model: ScriptedLLM) -> None:
    with worker(tmp_path, model) as running:
        ask(running.port, "POST", "/task", TASK)
        pids = asleep(running)
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait()
        while [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
            pass  # the kernel ends them by itself; the test's time limit ends this otherwise
    assert not Path(f"/proc/{running.process.pid}").exists()


def test_the_guides_log_file_has_the_events_of_a_task_in_order(tmp_path: Path) -> None:
    with ScriptedLLM(tool_calls(call("shell_exec", {"command": "echo hi"})), text("done")) as model:
        with worker(tmp_path, model) as running:
            ask(running.port, "POST", "/task", TASK, headers={"Prefer": "wait=60"})
        log = (tmp_path / "worker" / "worker.log").read_text()
    events = [line.split()[3] for line in log.splitlines()]
    assert [e for e in events if e in ("worker_ready", "task_started", "tool_call", "task_finished", "stopping")] == [
        "worker_ready",
        "task_started",
        "tool_call",
        "task_finished",
        "stopping",
    ]
    assert "task=t1" in log
    assert model.requests[0].tool_names == ["shell_exec"]


def test_a_worker_leaves_no_core_dump_since_it_holds_the_key(tmp_path: Path) -> None:
    with ScriptedLLM(text("not reached")) as model, worker(tmp_path, model) as running:
        limits = Path(f"/proc/{running.process.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert line.split()[4] == "0"


def test_each_start_warns_of_a_sandbox_that_is_off(tmp_path: Path) -> None:
    with ScriptedLLM() as model:
        with worker(tmp_path, model, PIBOT_SANDBOX="off", PIBOT_APPROVE="shell_exec,write_file"):
            pass
        said = (tmp_path / "worker" / "output.txt").read_text()
        assert said.count("WARNING") == 1
        assert "PIBOT_SANDBOX=off: commands that the model picks run without confinement" in said
        with worker(tmp_path, model):
            pass
        assert "WARNING" not in (tmp_path / "worker" / "output.txt").read_text()


@pytest.mark.parametrize("module", [["pibot.worker_task_executor"], ["pibot", "worker"]], ids=["guide", "command"])
def test_a_misspelt_skill_among_those_to_approve_stops_the_start(tmp_path: Path, module: list[str]) -> None:
    environment = clean_environment(VOLC_API_KEY="a-key", PIBOT_APPROVE="shell-exec")
    argv = [sys.executable, "-m", *module, "--port", "0"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "PIBOT_APPROVE names 'shell-exec', which is " in done.stderr
    assert "the skills are file_ops, shell_exec, system_info, web_fetch" in done.stderr
    assert "worker_ready" not in done.stderr
