"""Text that a model, a page, a worker or a caller chose reaches a terminal: by the command, or by a log."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask, Response

from pibot.web import answer
from tests.support.processes import clean_environment, pibot_command, serving_process
from tests.support.scripted_llm import ScriptedLLM
from tests.support.serving import ask, serving

CLIPBOARD = "\x1b]52;c;cm0gLXJmIC8=\x07"
"""Makes a terminal put a text into the clipboard."""

HOSTILE = f"{CLIPBOARD} \x9b2J \x7f \u202e \U000e0041 \u2028 \ud83d"
HARMFUL = [character for character in HOSTILE if not character.isprintable()]

APPROVAL = {
    "approval_id": "a1",
    "job_id": "job-1",
    "task_id": "step-1",
    "worker_id": "worker-1",
    "tool": HOSTILE,
    "arguments": {HOSTILE: HOSTILE},
    "digest": "d",
    "status": "waiting",
}
STEP = {
    "task_id": "step-1",
    "description": HOSTILE,
    "skills": [HOSTILE],
    "depends_on": [HOSTILE],
    "status": "failed",
    "worker_id": HOSTILE,
    "attempts": [{"error": f"{HOSTILE} 1"}, {"error": HOSTILE}],
    "error": f"{HOSTILE} 2",
    "output": HOSTILE,
}
JOB = {
    "job_id": "job-1",
    "status": "failed",
    "success": False,
    "description": HOSTILE,
    "plan": {"handle_locally": False, "complexity": HOSTILE, "subtasks": [STEP], "note": HOSTILE},
    "subtasks": [STEP],
    "approvals": [APPROVAL],
    "error": HOSTILE,
    "answer": HOSTILE,
    "output": HOSTILE,
    "created_at": 0,
    "waiting_for_approval": False,
    "usage": {"total_tokens": 1, "llm_calls": 1},
    "cost": 1.0,
    "currency": HOSTILE,
}
WORKER = {
    "id": "worker-1",
    "status": "busy",
    "url": HOSTILE,
    "current_task": HOSTILE,
    "error": HOSTILE,
    "resting": HOSTILE,
}
TODAY = {"total_tokens": 1, "llm_calls": 1, "cost": 1.0, "left": None}
ANSWERS: dict[str, Any] = {
    "GET /health": {"version": HOSTILE, "model": HOSTILE, "jobs": {HOSTILE: 1}, "problem": HOSTILE},
    "GET /workers": {"workers": [WORKER]},
    "GET /usage": {"today": TODAY, "currency": HOSTILE},
    "GET /approvals": {"approvals": [{"job_id": HOSTILE}]},
    "GET /tasks": {"tasks": [JOB]},
    "POST /task": {"job_id": "job-1"},
    "GET /task/job-1": {"job": JOB},
    "GET /task/job-1/result": JOB,
    "GET /task/job-1/export": {"job": JOB, "events": [HOSTILE]},
    "POST /task/job-1/cancel": {"status": HOSTILE},
    "POST /workers/worker-1/drain": {"status": HOSTILE},
}
"""The hub's answers; any other is a 410 with a hostile error."""

COMMANDS = (
    "status",
    "status --json",
    "jobs",
    "jobs --json",
    "job job-1",
    "job --json job-1",
    "run x",
    "run --json x",
    "export job-1",
    "cancel job-1",
    "drain worker-1",
    "undrain worker-1",
    "approve --yes job-1",
)


@contextlib.contextmanager
def hostile_hub() -> Iterator[str]:
    """Run a hub whose every text is hostile; yields its address."""
    app = Flask(__name__)

    @app.route("/<path:path>", methods=["GET", "POST"])
    def any_route(path: str) -> Response:
        from flask import request

        body = ANSWERS.get(f"{request.method} /{path}")
        return answer({"success": False, "error": HOSTILE}, 410) if body is None else answer(body)

    with serving(app) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with hostile_hub() as url:
        yield url


@pytest.mark.parametrize("command", COMMANDS)
def test_no_text_of_others_controls_the_terminal_of(command: str, hub: str) -> None:
    argv, environment = pibot_command(*command.split(), url=hub)
    done = subprocess.run(argv, capture_output=True, env=environment, timeout=60, check=False)
    shown = (done.stdout + done.stderr).decode()  # fails on half a surrogate
    assert "52;c;cm0gLXJmIC8=" in shown  # without the control, this text would be a command for the terminal
    assert [character for character in HARMFUL if character in shown] == []
    assert "Traceback" not in shown


def test_a_worker_adds_no_row_to_the_list_of_workers() -> None:
    before = ANSWERS["GET /workers"]
    ANSWERS["GET /workers"] = {"workers": [{**WORKER, "current_task": "x\nworker-9     idle"}]}
    try:
        with hostile_hub() as url:
            argv, environment = pibot_command("status", url=url)
            shown = subprocess.run(argv, capture_output=True, env=environment, timeout=60, check=False).stdout.decode()
    finally:
        ANSWERS["GET /workers"] = before
    assert "x worker-9 idle" in shown
    assert not any(line.startswith("worker-9") for line in shown.splitlines())


@pytest.mark.parametrize("role", ["hub", "worker"])
def test_a_caller_without_a_key_writes_nothing_into_the_log_that_controls_a_terminal(role: str, tmp_path: Path) -> None:
    with ScriptedLLM() as llm:
        environment = clean_environment(**llm.environ(), PIBOT_API_KEY="fleet-key-0123456789")
        arguments = ["-m", "pibot", role, "--port", "0", "--host", "127.0.0.1"]
        with serving_process(tmp_path, arguments, environment, port_pattern=r"listen=\S+?:(\d+)") as running:
            path = "/" + quote(f"{CLIPBOARD}\n\x9b2J\u202e")
            assert ask(running.port, "GET", path, key="wrong-key-0123456789").status == 401
    logged = [*tmp_path.rglob("*.log"), tmp_path / "output.txt"]
    assert len(logged) == 2
    for file in logged:
        text = file.read_text()
        assert "52;c;cm0gLXJmIC8=" in text
        assert [character for character in HARMFUL if character in text] == []
