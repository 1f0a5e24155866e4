"""Tool calls that wait for approval, with a hub, a worker and the pibot command as real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pibot.contracts import digest_of
from pibot.rehearsal.conversation import unmarked
from tests.support.fleet import Fleet
from tests.support.fleet_processes import process_fleet
from tests.support.processes import ROOT
from tests.support.scripted_llm import RecordedRequest, Reply, ScriptedLLM, call, text, tool_calls
from tests.support.serving import ask

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

KEY = "fleet-key-0123456789"
COMMAND = "echo the-deed"


def answer(request: RecordedRequest) -> Reply:
    """Ask for one shell command, then repeat its result."""
    last = request.messages[-1]
    if last["role"] != "tool":
        return tool_calls(call("shell_exec", {"command": COMMAND}))
    return text(json.dumps({"success": True, "data": {}, "output": f"heard: {unmarked(last['content'])}"}))


@pytest.fixture
def fleet(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A hub and a worker whose shell commands need the owner's approval; the model asks for one of them.

    The parameter, if any, is the task's limit in seconds.
    """
    with ScriptedLLM() as llm:
        llm.answer_with(answer)
        with process_fleet(
            tmp_path,
            llm,
            KEY,
            PIBOT_APPROVE="shell_exec",
            PIBOT_SKILLS_DIR=str(ROOT / "skills"),
            PIBOT_LEASE_SECONDS="3",
            PIBOT_TASK_TIMEOUT=getattr(request, "param", "60"),
        ) as running:
            yield running


def submit(fleet: Fleet, **more: Any) -> str:
    return fleet.submit("do the deed", skills=["shell_exec"], **more)


def test_a_call_runs_only_after_the_owner_approves_it_with_the_command(fleet: Fleet) -> None:
    job_id = submit(fleet)
    approval = fleet.waiting_call(job_id)
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
    assert (none.returncode, "no call of" in none.stderr) == (1, True)
    again = fleet.ask(
        "POST", f"/approvals/{approval['approval_id']}", {"digest": approval["digest"], "approved": False}
    )
    assert again.status == 409


def test_the_model_learns_why_the_owner_refused(fleet: Fleet) -> None:
    job_id = submit(fleet)
    fleet.waiting_call(job_id)
    refused = fleet.pibot("approve", job_id, "--refuse", "--reason", "not on a weekday", "--yes")
    assert (refused.returncode, "Refused." in refused.stdout) == (0, True)
    heard = "heard: ERROR: the owner refused this call: not on a weekday"
    assert fleet.result(job_id)["output"] == heard


def test_an_approval_of_another_command_runs_nothing(fleet: Fleet) -> None:
    job_id = submit(fleet)
    approval = fleet.waiting_call(job_id)
    shown = digest_of("shell_exec", {"command": "ls"})
    answer = fleet.ask("POST", f"/approvals/{approval['approval_id']}", {"digest": shown, "approved": True})
    assert (answer.status, "the decision is about another call" in answer.json()["error"]) == (409, True)
    remote = fleet.ask("GET", "/workers").json()["workers"][0]["current_task"]
    port = fleet.processes.workers["worker-1"].port
    past_the_hub = ask(port, "POST", f"/task/{remote}/approvals/1", {"digest": shown, "approved": True}, key=KEY)
    assert past_the_hub.status == 409
    assert fleet.job(job_id)["waiting_for_approval"]
    assert len(fleet.llm.requests) == 1
    fleet.ask("POST", f"/task/{job_id}/cancel")
    assert [a["status"] for a in fleet.job(job_id)["approvals"]] == ["over"]
    late = fleet.ask("POST", f"/approvals/{approval['approval_id']}", {"digest": approval["digest"], "approved": True})
    assert (late.status, "does not wait any more" in late.json()["error"]) == (410, True)


@pytest.mark.parametrize("fleet", ["6"], indirect=True)
def test_waiting_for_approval_counts_against_the_jobs_limit_but_not_the_tasks(fleet: Fleet) -> None:
    patient = submit(fleet)
    fleet.waiting_call(patient)
    # Longer than the task's limit of 6 s and the lease of 3 s.
    assert fleet.ask("GET", f"/task/{patient}/result", Prefer="wait=8").status == 202
    assert len(fleet.job(patient)["subtasks"][0]["attempts"]) == 1
    fleet.pibot("approve", patient, "--yes")
    assert fleet.result(patient)["status"] == "completed"
    hurried = submit(fleet, timeout=6)
    fleet.waiting_call(hurried)
    ended = fleet.result(hurried)
    assert (ended["status"], "seconds were up" in ended["error"]) == ("failed", True)
    assert fleet.ask("GET", "/approvals").json()["approvals"] == []


def test_a_waiting_call_survives_a_killed_hub(fleet: Fleet) -> None:
    job_id = submit(fleet)
    approval = fleet.waiting_call(job_id)
    fleet.processes.hub.process.kill()
    fleet.processes.hub.process.wait(30)
    fleet.processes.start_hub()
    assert fleet.waiting_call(job_id) == approval
    assert fleet.pibot("approve", job_id, "--yes").returncode == 0
    assert fleet.result(job_id)["status"] == "completed"


def test_a_waiting_call_ends_with_its_worker_and_the_next_attempt_asks_again(fleet: Fleet) -> None:
    job_id = submit(fleet)
    first = fleet.waiting_call(job_id)
    worker = fleet.processes.workers["worker-1"].process
    worker.kill()
    worker.wait(30)
    fleet.processes.start_worker()
    fleet.until(lambda: [a["status"] for a in fleet.job(job_id)["approvals"]] == ["over", "waiting"])
    gone = fleet.ask("POST", f"/approvals/{first['approval_id']}", {"digest": first["digest"], "approved": True})
    assert gone.status == 410
    fleet.pibot("approve", job_id, "--yes")
    assert fleet.result(job_id)["status"] == "completed"
