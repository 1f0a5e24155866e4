"""``make demo`` in a fresh copy of the repository, without any setup."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT, clean_environment
from tests.support.waiting import until
from tests.support.workers import closed_port

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the files that a clone would have: those that git tracks or would add."""
    folder = tmp_path_factory.mktemp("clone") / "pibot-v3"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        source = ROOT / name
        if source.is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a user with an empty home. The demo keeps its files in ``TMPDIR``."""
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    with closed_port() as port:
        return clean_environment(HOME=str(tmp_path / "home"), TMPDIR=str(tmp_path / "tmp"), PIBOT_DEMO_PORT=str(port))


def left_over(environment: dict[str, str]) -> list[str]:
    """Return the processes and files that a demo has left behind."""
    files = [path.name for path in Path(environment["TMPDIR"]).iterdir()]
    processes = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TMPDIR={environment['TMPDIR']}".encode() in path.read_bytes().split(b"\0"):
                processes.append((path.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has just ended, or belongs to another user
    return files + processes


def test_a_fresh_clone_runs_the_demo_to_a_successful_end_and_leaves_nothing(
    clone: Path, environment: dict[str, str]
) -> None:
    done = subprocess.run(
        ["make", "demo", "ONCE=1"], cwd=clone, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for part in (
        "the model is pibot-rehearsal-not-an-ai",
        "The plan (complex): 6 steps",
        "The title of http://127.0.0.1:",
        "6 * 7 = 42",
        "6 of 6 steps succeeded",
        f"Dashboard: http://127.0.0.1:{environment['PIBOT_DEMO_PORT']}/dashboard",
    ):
        assert part in done.stdout, done.stdout
    assert set(re.findall(r"completed on (worker-\d)", done.stdout)) == {"worker-1", "worker-2", "worker-3"}
    assert left_over(environment) == []


def test_the_demo_stays_until_ctrl_c_and_leaves_nothing(clone: Path, environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        ["make", "demo"],
        cwd=clone,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    shown = ""
    for line in process.stdout:
        shown += line
        if "until you press Ctrl-C" in line:
            break
    with socket.create_connection(("127.0.0.1", int(environment["PIBOT_DEMO_PORT"])), timeout=10):
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to make and to the demo
    shown += process.stdout.read()
    process.stdout.close()
    process.wait(60)
    assert "Stopping the fleet" in shown
    assert left_over(environment) == []


def test_a_killed_demo_leaves_no_process_and_no_folder(clone: Path, environment: dict[str, str]) -> None:
    argv = [str(clone / ".venv" / "bin" / "python"), "-m", "pibot", "demo"]
    process = subprocess.Popen(argv, cwd=clone, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "until you press Ctrl-C" in line:
            break
    assert len([line for line in left_over(environment) if "-m pibot" in line]) == 6
    process.kill()
    process.wait()
    process.stdout.close()
    until(lambda: not left_over(environment))


def test_a_taken_port_is_reported_with_its_variable(clone: Path, environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            ["make", "demo", "ONCE=1"],
            cwd=clone,
            env={**environment, "PIBOT_DEMO_PORT": port},
            capture_output=True,
            text=True,
        )
    assert done.returncode != 0
    assert (
        f"pibot: the demo can't listen on port {port} (Address already in use); choose another: make demo"
        in done.stderr
    )
    assert "PIBOT_DEMO_PORT=" in done.stderr
    assert left_over(environment) == []


def test_calls_wait_for_approval_in_the_demo_too(clone: Path, environment: dict[str, str]) -> None:
    argv = [str(clone / ".venv" / "bin" / "python"), "-m", "pibot", "demo", "--once"]
    settings = {"PIBOT_APPROVE": "shell_exec", "PIBOT_APPROVAL_SECONDS": "10"}
    done = subprocess.run(argv, cwd=clone, env={**environment, **settings}, capture_output=True, text=True)
    assert "waits for your approval of shell_exec: command: uname -sm" in done.stdout
    assert re.search(r"PIBOT_API_KEY=\S+ \.venv/bin/pibot approve job-", done.stdout)
    assert left_over(environment) == []


def test_a_misspelt_name_for_approval_stops_the_demo(clone: Path, environment: dict[str, str]) -> None:
    argv = [str(clone / ".venv" / "bin" / "python"), "-m", "pibot", "demo", "--once"]
    wrong = {**environment, "PIBOT_APPROVE": "shell-exec"}
    done = subprocess.run(argv, cwd=clone, env=wrong, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pibot: PIBOT_APPROVE names 'shell-exec', which is neither a skill nor a tool here" in done.stderr
    assert left_over(environment) == []


def test_a_placeholder_key_is_refused_with_the_name_of_its_variable(clone: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["make", "demo", "ONCE=1"],
        cwd=clone,
        env={**environment, "VOLC_API_KEY": "your_volc_api_key_here"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "placeholder" in done.stderr
    assert "VOLC_API_KEY" in done.stderr
