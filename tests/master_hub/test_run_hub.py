"""The hub as a process: what it prints, how it stops, and what it keeps."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.fleet import make_skills
from tests.support.serving import ask

pytestmark = pytest.mark.slow

START = """
import sys
from pibot.errors import PibotError
from pibot.master_hub import run_hub
from pibot.settings import Settings
try:
    run_hub(Settings.load(), sys.argv[1] or None, int(sys.argv[2]))
except PibotError as exc:
    sys.exit(str(exc))
"""


def start(
    directory: Path, *, host: str = "", port: int = 0, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    if not (directory / "skills").exists():
        make_skills(directory / "skills")
    return subprocess.Popen(
        [sys.executable, "-c", START, host, str(port)],
        cwd=directory,
        env={"PATH": os.environ["PATH"], **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def ready(directory: Path, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """Run a hub; yields the process, the line that it printed, and its port."""
    process = start(directory, environ=environ)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/dashboard", line)
        assert found is not None, (line, process.stderr.read() if process.stderr else "")
        yield process, line, int(found[1])
    finally:
        process.kill()
        process.communicate()


def test_it_prints_its_address_its_model_and_its_workers_on_one_line(tmp_path: Path) -> None:
    environ = {"VOLC_API_KEY": "sk-abcdefgh", "MODEL_NAME": "some-model", "WORKER_1_IP": "127.0.0.2"}
    with ready(tmp_path, **environ) as (process, line, port):
        assert "model some-model" in line
        assert "workers worker-1" in line
        assert ask(port, "GET", "/health").status == 200
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)

    assert process.returncode == 0
    assert out == ""
    assert "sk-abcdefgh" not in line + err
    (log,) = (tmp_path / "logs").glob("master_*.log")
    assert re.fullmatch(r"master_\d{8}\.log", log.name)
    assert "hub_ready" in log.read_text()


def test_without_a_model_and_workers_it_runs_and_says_what_to_set(tmp_path: Path) -> None:
    with ready(tmp_path) as (_, line, port):
        assert "VOLC_API_KEY" in line
        assert "WORKER_1_IP" in line
        assert ask(port, "GET", "/dashboard").status == 200


def test_a_taken_port_is_a_clear_error_that_names_the_flag(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(tmp_path, port=port)
        _, err = process.communicate(timeout=30)

    assert process.returncode == 1
    assert err.splitlines()[-1].startswith(f"can't listen on 127.0.0.1 port {port}")
    assert "--port" in err
    assert "Traceback" not in err


def test_beyond_loopback_it_requires_a_key(tmp_path: Path) -> None:
    process = start(tmp_path, host="0.0.0.0")
    _, err = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "PIBOT_API_KEY" in err


def test_a_damaged_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "jobs.db").write_bytes(b"no database at all" * 1000)
    process = start(tmp_path)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "jobs.db" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_data_folder_that_can_not_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    process = start(tmp_path)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "PIBOT_DATA_DIR" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_accepted_job_survives_any_end_of_the_hub(tmp_path: Path, how: signal.Signals) -> None:
    environ = {"WORKER_1_IP": "127.0.0.1", "WORKER_1_PORT": "9"}  # no worker answers there, so the job waits
    with ready(tmp_path, **environ) as (process, _, port):
        accepted = ask(port, "POST", "/task", {"description": "look", "skills": [], "job_id": "kept"})
        process.send_signal(how)
        process.communicate(timeout=30)
    with ready(tmp_path, **environ) as (_, _, port):
        found = ask(port, "GET", "/task/kept")

    assert accepted.status == 202
    assert process.returncode == (0 if how is not signal.SIGKILL else -signal.SIGKILL)
    assert found.json()["job"]["status"] in ("queued", "running")
