from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pibot.background import BackgroundLoop
from pibot.contracts import AgentOutcome, TaskRequest, TaskState
from pibot.settings import Secret, Settings
from pibot.tool_registry import SkillLibrary
from pibot.worker.api import WAITING_PLACES, create_worker_app
from pibot.worker.approvals import WorkerApprovals
from pibot.worker_task_executor import TaskExecutor
from tests.support.fakes import GatedAgent
from tests.support.serving import Answer, ask, serving

TASK = {"task_id": "test_001", "description": "List files in home directory", "skills": ["shell_exec"]}


class Echo:
    """Answers with the task's description at once; "wait" waits for the test instead, "ask" for the owner."""

    def __init__(self, gated: GatedAgent, approvals: WorkerApprovals) -> None:
        self._gated = gated
        self._approvals = approvals

    async def run(self, request: TaskRequest) -> AgentOutcome:
        if request.description == "wait":
            return await self._gated.run(request)
        if request.description == "ask":
            asking = self._approvals.for_task(request.task_id)
            answers = [await asking.ask("shell_exec", {"command": c}) for c in ("ls", "date")]
            return AgentOutcome(TaskState.COMPLETED, output=", ".join(str(a.approved) for a in answers))
        return AgentOutcome(TaskState.COMPLETED, output=request.description)


@dataclass
class Worker:
    """A worker's API over a real server."""

    port: int
    executor: TaskExecutor
    loop: BackgroundLoop
    gated: GatedAgent

    def ask(self, method: str, path: str, body: object = None, **more: Any) -> Answer:
        return ask(self.port, method, path, body, **more)

    def release(self) -> None:
        self.loop.call_soon(self.gated.release.set)


@contextlib.contextmanager
def working(**settings: Any) -> Iterator[Worker]:
    loop = BackgroundLoop()

    async def make() -> GatedAgent:
        return GatedAgent()

    gated = loop.run(make()).result()
    approvals = WorkerApprovals(60.0)
    executor = TaskExecutor("worker-1", lambda request: Echo(gated, approvals), loop, approvals=approvals)
    library = SkillLibrary(Path(__file__).parents[2] / "skills")
    try:
        with serving(create_worker_app(executor, library, Settings(**settings))) as port:
            yield Worker(port, executor, loop, gated)
            executor.stop(0.0)
    finally:
        loop.stop()


@pytest.fixture
def worker() -> Iterator[Worker]:
    with working() as worker:
        yield worker


# --- the guide's requests ---


def test_health_has_exactly_the_guides_three_keys(worker: Worker) -> None:
    got = worker.ask("GET", "/health")
    assert (got.status, got.json()) == (200, {"status": "healthy", "worker_id": "worker-1", "current_task": None})


def test_health_names_the_running_task(worker: Worker) -> None:
    worker.ask("POST", "/task", {"task_id": "t1", "description": "wait"})
    assert worker.ask("GET", "/health").json()["current_task"] == "t1"


def test_a_task_is_accepted_as_the_guide_says_and_has_a_result_later(worker: Worker) -> None:
    accepted = worker.ask("POST", "/task", TASK)
    assert (accepted.status, accepted.json()) == (
        202,
        {"success": True, "task_id": "test_001", "status": "accepted"},
    )
    got = worker.ask("GET", "/task/test_001/result", headers={"Prefer": "wait=10"})
    assert got.status == 200
    body = got.json()
    assert body.pop("started_at") <= body.pop("finished_at") <= time.time()
    assert body == {
        "success": True,
        "task_id": "test_001",
        "worker_id": "worker-1",
        "status": "completed",
        "data": {"output": "List files in home directory"},
        "output": "List files in home directory",
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "llm_calls": 0},
        "steps": 0,
    }


# --- waiting, and the same task again ---


def test_a_caller_that_prefers_to_wait_gets_the_result_in_one_request(worker: Worker) -> None:
    got = worker.ask("POST", "/task", TASK, headers={"Prefer": "wait=10"})
    assert (got.status, got.json()["output"]) == (200, "List files in home directory")
    assert got.headers["Preference-Applied"] == "wait=10"


def test_a_task_that_takes_longer_than_the_caller_waits_is_a_202(worker: Worker) -> None:
    body = {"task_id": "t1", "description": "wait"}
    assert worker.ask("POST", "/task", body, headers={"Prefer": "wait=0"}).json()["status"] == "accepted"
    running = worker.ask("GET", "/task/t1/result")
    assert (running.status, running.json()) == (202, {"success": True, "task_id": "t1", "status": "running"})


def test_the_same_task_again_is_answered_and_not_run_again(worker: Worker) -> None:
    first = worker.ask("POST", "/task", TASK, headers={"Prefer": "wait=10"}).json()
    again = worker.ask("POST", "/task", TASK)
    assert (again.status, again.json()["status"]) == (202, "accepted")
    assert worker.ask("POST", "/task", TASK, headers={"Prefer": "wait=10"}).json() == first
    assert worker.executor.ended()[TaskState.COMPLETED] == 1


def test_the_same_id_with_another_body_is_a_409(worker: Worker) -> None:
    worker.ask("POST", "/task", TASK)
    got = worker.ask("POST", "/task", {**TASK, "description": "something else"})
    assert got.status == 409
    assert "test_001" in got.json()["error"]
    assert "Retry-After" not in got.headers


def test_a_busy_worker_says_what_it_runs_and_when_to_ask_again(worker: Worker) -> None:
    worker.ask("POST", "/task", {"task_id": "t1", "description": "wait"})
    got = worker.ask("POST", "/task", TASK)
    assert got.status == 409
    assert (got.json()["status"], got.json()["current_task"]) == ("busy", "t1")
    assert int(got.headers["Retry-After"]) >= 1


def test_health_answers_while_more_callers_wait_than_there_are_waiting_places(worker: Worker) -> None:
    body = {"task_id": "t1", "description": "wait"}
    answers: list[Answer] = []
    callers = [
        threading.Thread(
            target=lambda: answers.append(worker.ask("POST", "/task", body, headers={"Prefer": "wait=20"}))
        )
        for _ in range(WAITING_PLACES + 6)
    ]
    for caller in callers:
        caller.start()
    assert worker.ask("GET", "/health").status == 200
    worker.release()
    for caller in callers:
        caller.join(30)
    assert {a.status for a in answers} <= {200, 202}
    assert sum(a.status == 200 for a in answers) >= WAITING_PLACES


# --- cancelling and stopping ---


def test_a_cancelled_task_has_ended_when_the_answer_comes(worker: Worker) -> None:
    worker.ask("POST", "/task", {"task_id": "t1", "description": "wait"})
    got = worker.ask("POST", "/task/t1/cancel")
    assert (got.status, got.json()["status"], got.json()["success"]) == (200, "cancelled", False)
    assert worker.ask("GET", "/health").json()["current_task"] is None
    assert worker.ask("GET", "/task/t1/result").json() == got.json()


def test_a_stopping_worker_refuses_tasks_with_a_503_and_still_answers(worker: Worker) -> None:
    worker.executor.stop(0.0)
    got = worker.ask("POST", "/task", TASK)
    assert (got.status, got.json()["success"]) == (503, False)
    assert "Retry-After" in got.headers
    assert worker.ask("GET", "/health").status == 200


# --- bad input ---


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**TASK, "task_id": "../x"}, "task_id"),
        ({**TASK, "task_id": None}, "task_id"),
        ({"task_id": "x"}, "description"),
        ({**TASK, "skills": "shell_exec"}, "skills"),
        ({**TASK, "timeout": -1}, "timeout"),
        ({**TASK, "speed": 9}, "speed"),
    ],
)
def test_a_wrong_field_is_a_400_that_names_it(worker: Worker, body: object, field: str) -> None:
    got = worker.ask("POST", "/task", body)
    assert (got.status, got.json()["field"]) == (400, field)
    assert field in got.json()["error"]


def test_an_unknown_skill_is_a_400_that_names_the_ones_there_are(worker: Worker) -> None:
    got = worker.ask("POST", "/task", {**TASK, "skills": ["shell_exec", "telepathy"]})
    assert got.status == 400
    assert "telepathy" in got.json()["error"]
    assert got.json()["skills"] == ["file_ops", "shell_exec", "system_info", "web_fetch"]


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'"text"', b"null"])
def test_a_body_that_is_no_json_object_is_a_400(worker: Worker, body: bytes) -> None:
    got = worker.ask("POST", "/task", body)
    assert got.status == 400
    assert "JSON" in got.json()["error"]


def test_a_body_beyond_a_megabyte_is_a_413(worker: Worker) -> None:
    assert worker.ask("POST", "/task", b"x" * (1024 * 1024 + 1)).status == 413


def test_an_unknown_tasks_result_is_a_404_that_names_the_worker(worker: Worker) -> None:
    for method, path in (("GET", "/task/nope/result"), ("POST", "/task/nope/cancel")):
        got = worker.ask(method, path)
        assert got.status == 404
        assert "worker-1" in got.json()["error"]


def test_with_a_key_only_health_and_the_description_are_open() -> None:
    with working(api_key=Secret("k")) as worker:
        assert worker.ask("GET", "/health").status == 200
        assert worker.ask("GET", "/openapi.json").status == 200
        for method, path in (
            ("POST", "/task"),
            ("GET", "/task/t1/result"),
            ("POST", "/task/t1/cancel"),
            ("GET", "/status"),
            ("GET", "/metrics"),
        ):
            assert worker.ask(method, path, TASK).status == 401, path
        assert worker.ask("POST", "/task", TASK, key="k").status == 202


# --- what it says of itself ---


def test_wrong_keys_are_limited_but_a_master_with_an_old_key_gets_its_401_each_time() -> None:
    with working(api_key=Secret("k")) as worker:
        looks = [worker.ask("GET", "/status", key="old").status for _ in range(24)]
        more = [worker.ask("GET", "/status", key=f"guess {number}").status for number in range(12)]
        right = worker.ask("GET", "/status", key="k")
        health = worker.ask("GET", "/health")

    assert looks == [401] * 24
    assert 429 in more
    assert (right.status, health.status) == (429, 200)


def test_status_tells_version_skills_model_and_the_machines_readings(worker: Worker) -> None:
    body = worker.ask("GET", "/status").json()
    assert body["version"] == "3.0.0"
    assert body["skills"] == ["file_ops", "shell_exec", "system_info", "web_fetch"]
    assert body["model"] == "doubao-seed-code"
    assert body["sandbox"] == "bwrap"
    assert body["host"]["memory_total_bytes"] > 0
    assert set(body["tasks"]) == {"completed", "failed", "cancelled", "timeout"}


def test_metrics_are_prometheus_text_that_counts_the_tasks(worker: Worker) -> None:
    worker.ask("POST", "/task", TASK, headers={"Prefer": "wait=10"})
    got = worker.ask("GET", "/metrics")
    assert got.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = got.body.decode().splitlines()
    assert 'pibot_worker_tasks_total{status="completed"} 1.0' in lines
    assert "pibot_worker_busy 0.0" in lines
    assert 'pibot_worker_info{version="3.0.0",worker_id="worker-1"} 1.0' in lines


def test_the_openapi_description_names_every_route(worker: Worker) -> None:
    document = json.loads(worker.ask("GET", "/openapi.json").body)
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        "/health",
        "/task",
        "/task/{task_id}/result",
        "/task/{task_id}/cancel",
        "/task/{task_id}/approvals/{approval_id}",
        "/status",
        "/metrics",
        "/openapi.json",
    }


# --- calls that wait for the owner ---


def waiting_call(worker: Worker, asked: int) -> Any:
    """Return the pending call, once the task has had more than ``asked`` of them."""
    got = worker.ask("GET", f"/task/t1/result?asked={asked}", headers={"Prefer": "wait=30"})
    assert got.status == 202, got.body
    (call,) = got.json()["approvals"]
    return call


def test_a_caller_waiting_for_a_result_learns_at_once_of_a_pending_call(worker: Worker) -> None:
    got = worker.ask("POST", "/task", {"task_id": "t1", "description": "ask"}, headers={"Prefer": "wait=30"})
    body = got.json()
    (call,) = body.pop("approvals")
    assert body.pop("waited_seconds") >= 0
    assert (got.status, body) == (
        202,
        {"success": True, "task_id": "t1", "status": "accepted", "approvals_asked": 1},
    )
    assert call == {**call, "tool": "shell_exec", "arguments": {"command": "ls"}}
    decided = worker.ask(
        "POST", f"/task/t1/approvals/{call['approval_id']}", {"digest": call["digest"], "approved": True}
    )
    assert (decided.status, decided.json()["approved"]) == (200, True)
    second = waiting_call(worker, 1)
    assert second["arguments"] == {"command": "date"}
    worker.ask("POST", f"/task/t1/approvals/{second['approval_id']}", {"digest": second["digest"], "approved": False})
    ended = worker.ask("GET", "/task/t1/result?asked=2", headers={"Prefer": "wait=30"})
    assert (ended.status, ended.json()["output"]) == (200, "True, False")


def test_a_caller_that_knows_of_the_pending_call_goes_on_waiting(worker: Worker) -> None:
    worker.ask("POST", "/task", {"task_id": "t1", "description": "ask"})
    waiting_call(worker, 0)
    got = worker.ask("GET", "/task/t1/result?asked=1", headers={"Prefer": "wait=1"})
    assert (got.status, got.json()["approvals_asked"], len(got.json()["approvals"])) == (202, 1, 1)
    assert got.json()["waited_seconds"] >= 1.0


def test_a_wrong_decision_is_refused_with_the_reason(worker: Worker) -> None:
    worker.ask("POST", "/task", {"task_id": "t1", "description": "ask"})
    call = waiting_call(worker, 0)
    path, digest = f"/task/t1/approvals/{call['approval_id']}", call["digest"]
    yes = {"digest": digest, "approved": True}
    assert worker.ask("POST", path, {"digest": "0" * 64, "approved": True}).status == 409
    assert worker.ask("POST", path, {"digest": digest, "approved": 1}).json()["field"] == "approved"
    assert worker.ask("POST", path, {**yes, "reason": "x" * 501}).json()["field"] == "reason"
    assert worker.ask("POST", path, {**yes, "arguments": {}}).json()["field"] == "arguments"
    assert worker.ask("POST", "/task/t1/approvals/9", yes).status == 404
    assert worker.ask("POST", "/task/t2/approvals/1", yes).status == 404
    assert worker.ask("GET", "/task/t1/result?asked=x").json()["field"] == "asked"
    worker.ask("POST", "/task/t1/cancel")
    gone = worker.ask("POST", path, yes)
    assert (gone.status, "does not wait any more" in gone.json()["error"]) == (410, True)
