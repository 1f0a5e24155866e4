"""A call that waits for the owner, with real processes: hub, worker, a model over HTTP, and the pibot command."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from pibot.contracts import digest_of
from pibot.rehearsal.conversation import unmarked
from tests.support.processes import ROOT, Running, clean_environment, serving_process
from tests.support.scripted_llm import RecordedRequest, Reply, ScriptedLLM, call, text, tool_calls
from tests.support.serving import Answer, ask
from tests.support.workers import closed_port

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

KEY = "fleet-key-0123456789"
COMMAND = "echo the-deed"


class Fleet:
    """A hub and a worker whose shell commands need the owner, as processes; the model asks for one of them."""

    def __init__(self, directory: Path, parts: contextlib.ExitStack) -> None:
        self._directory = directory
        self._parts = parts
        self.llm = parts.enter_context(ScriptedLLM())
        self.llm.answer_with(self._answer)
        self._environment = clean_environment(
            **self.llm.environ(),
            PIBOT_API_KEY=KEY,
            PIBOT_APPROVE="shell_exec",
            PIBOT_SKILLS_DIR=str(ROOT / "skills"),
            PIBOT_LEASE_SECONDS="3",
            PIBOT_TASK_TIMEOUT="2",
            PIBOT_HOT_CELSIUS="1000",
            PIBOT_MIN_MEMORY_MB="0",
        )
        with closed_port() as port:
            self.port = port
        self.hub = self.start_hub()
        self.worker = self.start_worker()

    @staticmethod
    def _answer(request: RecordedRequest) -> Reply:
        last = request.messages[-1]
        if last["role"] != "tool":
            return tool_calls(call("shell_exec", {"command": COMMAND}))
        heard = unmarked(last["content"])
        return text(json.dumps({"success": True, "data": {}, "output": f"heard: {heard}"}))

    def _start(self, name: str, *arguments: str, **settings: str) -> Running:
        return self._parts.enter_context(
            serving_process(
                self._directory / name,
                ["-m", "pibot", *arguments, "--host", "127.0.0.1"],
                {**self._environment, **settings},
                port_pattern=r"listen=\S+?:(\d+)",
            )
        )

    def start_hub(self) -> Running:
        return self._start("hub", "hub", "--port", str(self.port))

    def start_worker(self) -> Running:
        joins = {"PIBOT_HUB_URL": f"http://127.0.0.1:{self.port}", "PIBOT_STOP_GRACE": "0.1"}
        return self._start("worker-1", "worker", "--port", "0", "--worker-id", "worker-1", **joins)

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return ask(self.port, method, path, body, key=KEY, headers=headers, timeout=90)

    def pibot(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        environment = clean_environment(PIBOT_HUB_URL=f"http://127.0.0.1:{self.port}", PIBOT_API_KEY=KEY)
        argv = [sys.executable, "-m", "pibot", *arguments]
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, env=environment, timeout=60)

    def submit(self, **more: Any) -> str:
        body = {"description": "do the deed", "skills": ["shell_exec"], **more}
        return str(self.ask("POST", "/task", body).json()["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.ask("GET", f"/task/{job_id}").json()["job"]
        return job

    def waiting(self, job_id: str) -> dict[str, Any]:
        """The job's call that waits, once there is one."""
        self.until(lambda: self.job(job_id)["waiting_for_approval"])
        (approval,) = (a for a in self.job(job_id)["approvals"] if a["status"] == "waiting")
        return dict(approval)

    def result(self, job_id: str) -> dict[str, Any]:
        answer = self.ask("GET", f"/task/{job_id}/result", Prefer="wait=60")
        assert answer.status == 200, answer.body
        return dict(answer.json())

    @staticmethod
    def until(condition: Callable[[], object]) -> None:
        """Ask until it is so; the test's time limit ends it otherwise."""
        while not condition():
            pass


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with contextlib.ExitStack() as parts:
        yield Fleet(tmp_path, parts)


def test_the_owner_approves_by_the_command_and_only_then_it_is_run(fleet: Fleet) -> None:
    job_id = fleet.submit()
    approval = fleet.waiting(job_id)
    assert (approval["tool"], approval["arguments"]) == ("shell_exec", {"command": COMMAND})
    assert f"pibot approve {job_id}" in fleet.pibot("status").stdout
    left = fleet.pibot("approve", job_id, stdin="\n")
    assert "Left waiting." in left.stdout
    assert fleet.job(job_id)["waiting_for_approval"]
    done = fleet.pibot("approve", job_id, stdin="y\n")
    assert (done.returncode, f"    command: {COMMAND}\n" in done.stdout) == (0, True)
    result = fleet.result(job_id)
    assert (result["status"], result["output"]) == ("completed", "heard: exit code: 0\nthe-deed")
    (decided,) = fleet.job(job_id)["approvals"]
    assert (decided["status"], decided["decided_by"]) == ("approved", "owner")
    none = fleet.pibot("approve", job_id)
    assert (none.returncode, "nothing of" in none.stderr) == (1, True)
    again = fleet.ask(
        "POST", f"/approvals/{approval['approval_id']}", {"digest": approval["digest"], "approved": False}
    )
    assert again.status == 409


def test_the_owner_refuses_and_the_model_hears_it(fleet: Fleet) -> None:
    job_id = fleet.submit()
    fleet.waiting(job_id)
    refused = fleet.pibot("approve", job_id, "--refuse", "--reason", "not on a weekday", "--yes")
    assert (refused.returncode, "Refused." in refused.stdout) == (0, True)
    heard = "heard: ERROR: the owner refused this call: not on a weekday"
    assert fleet.result(job_id)["output"] == heard


def test_a_command_that_was_changed_after_it_was_shown_is_not_run(fleet: Fleet) -> None:
    job_id = fleet.submit()
    approval = fleet.waiting(job_id)
    shown = digest_of("shell_exec", {"command": "ls"})
    answer = fleet.ask("POST", f"/approvals/{approval['approval_id']}", {"digest": shown, "approved": True})
    assert (answer.status, "not the one that was decided on" in answer.json()["error"]) == (409, True)
    remote = fleet.ask("GET", "/workers").json()["workers"][0]["current_task"]
    path = f"/task/{remote}/approvals/1"  # past the hub too
    assert ask(fleet.worker.port, "POST", path, {"digest": shown, "approved": True}, key=KEY).status == 409
    assert fleet.job(job_id)["waiting_for_approval"]
    assert len(fleet.llm.requests) == 1
    fleet.ask("POST", f"/task/{job_id}/cancel")
    assert [a["status"] for a in fleet.job(job_id)["approvals"]] == ["over"]
    late = fleet.ask("POST", f"/approvals/{approval['approval_id']}", {"digest": approval["digest"], "approved": True})
    assert (late.status, "does not wait any more" in late.json()["error"]) == (410, True)


def test_waiting_is_not_the_tasks_time_but_the_jobs(fleet: Fleet) -> None:
    patient = fleet.submit()
    fleet.waiting(patient)
    assert fleet.ask("GET", f"/task/{patient}/result", Prefer="wait=5").status == 202  # its task has 2 s, its lease 3 s
    assert len(fleet.job(patient)["subtasks"][0]["attempts"]) == 1
    fleet.pibot("approve", patient, "--yes")
    assert fleet.result(patient)["status"] == "completed"
    hurried = fleet.submit(timeout=2)
    fleet.waiting(hurried)
    ended = fleet.result(hurried)
    assert (ended["status"], "seconds were up" in ended["error"]) == ("failed", True)
    assert fleet.ask("GET", "/approvals").json()["approvals"] == []


def test_a_hub_that_was_killed_still_knows_what_waits(fleet: Fleet) -> None:
    job_id = fleet.submit()
    approval = fleet.waiting(job_id)
    os.kill(fleet.hub.process.pid, signal.SIGKILL)
    fleet.hub.process.wait(30)
    fleet.hub = fleet.start_hub()
    assert fleet.waiting(job_id) == approval
    assert fleet.pibot("approve", job_id, "--yes").returncode == 0
    assert fleet.result(job_id)["status"] == "completed"


def test_a_call_dies_with_its_worker_and_the_next_attempt_asks_anew(fleet: Fleet) -> None:
    job_id = fleet.submit()
    first = fleet.waiting(job_id)
    os.kill(fleet.worker.process.pid, signal.SIGKILL)
    fleet.worker.process.wait(30)
    fleet.worker = fleet.start_worker()
    fleet.until(lambda: [a["status"] for a in fleet.job(job_id)["approvals"]] == ["over", "waiting"])
    gone = fleet.ask("POST", f"/approvals/{first['approval_id']}", {"digest": first["digest"], "approved": True})
    assert gone.status == 410
    fleet.pibot("approve", job_id, "--yes")
    assert fleet.result(job_id)["status"] == "completed"
