"""Workers and hubs that die, as processes: what was accepted ends once, whatever is killed or stopped on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.support.processes import Running, clean_environment, serving_process
from tests.support.relay import relay
from tests.support.scripted_llm import RecordedRequest, Reply, ScriptedLLM, held, text
from tests.support.serving import Answer, ask
from tests.support.workers import closed_port

pytestmark = pytest.mark.system

KEY = "fleet-key"


class Fleet:
    """A hub and the workers that have joined it, all processes; the first task's model answers when the test says."""

    def __init__(self, directory: Path, parts: contextlib.ExitStack, lease: str = "3") -> None:
        self._directory = directory
        self._parts = parts
        self.may_answer = threading.Event()
        self._first = threading.Lock()
        self.llm = parts.enter_context(ScriptedLLM())
        self.llm.answer_with(self._answer)
        self._environment = clean_environment(
            **self.llm.environ(),
            PIBOT_API_KEY=KEY,
            PIBOT_LEASE_SECONDS=lease,
            PIBOT_HOT_CELSIUS="1000",
            PIBOT_MIN_MEMORY_MB="0",
        )
        with closed_port() as port:
            self.port = port  # the same for the hub that is started again
        self.hub = self.start_hub()
        self.workers: dict[str, Running] = {}

    def _answer(self, request: RecordedRequest) -> Reply:
        answer = text('{"success": true, "data": {}, "output": "done"}')
        return held(answer, self.may_answer) if self._first.acquire(blocking=False) else answer

    def _start(self, name: str, *arguments: str, **settings: str) -> Running:
        process = serving_process(
            self._directory / name,
            ["-m", "pibot", *arguments, "--host", "127.0.0.1"],
            {**self._environment, **settings},
            port_pattern=r"listen=\S+?:(\d+)",
        )
        return self._parts.enter_context(process)

    def start_hub(self) -> Running:
        self.hub = self._start("hub", "hub", "--port", str(self.port))
        return self.hub

    def start_worker(self, number: int) -> None:
        hub = {"PIBOT_HUB_URL": f"http://127.0.0.1:{self.port}", "PIBOT_STOP_GRACE": "0.1"}
        name = f"worker-{number}"
        self.workers[name] = self._start(name, "worker", "--port", "0", "--worker-id", name, **hub)
        self.until(lambda: name in self.known())

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return ask(self.port, method, path, body, key=KEY, headers=headers, timeout=90)

    def known(self) -> dict[str, dict[str, Any]]:
        return {worker["id"]: worker for worker in self.ask("GET", "/workers").json()["workers"]}

    def submit(self) -> str:
        """A job of one step, once a worker has it and its model is asked."""
        job_id = str(self.ask("POST", "/task", {"description": "do it", "skills": []}).json()["job_id"])
        self.until(lambda: len(self.llm.requests) == 1)
        return job_id

    def holder(self, job_id: str) -> str:
        return str(self.job(job_id)["subtasks"][0]["worker_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.ask("GET", f"/task/{job_id}").json()["job"]
        return job

    def waits_for(self, job_id: str) -> object:
        return self.job(job_id)["subtasks"][0]["waiting_for"]

    def ended(self, job_id: str) -> dict[str, Any]:
        assert self.ask("GET", f"/task/{job_id}/result", Prefer="wait=60").status == 200
        return self.job(job_id)

    def events(self) -> list[str]:
        return [str(event["text"]) for event in self.ask("GET", "/dashboard/data").json()["events"]]

    @staticmethod
    def until(condition: Callable[[], object]) -> None:
        """Ask until it is so; the test's time limit ends it otherwise."""
        while not condition():
            pass


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with contextlib.ExitStack() as parts:
        running = Fleet(tmp_path, parts)
        running.start_worker(1)
        running.start_worker(2)
        yield running
        running.may_answer.set()
        for worker in running.workers.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGCONT)


def test_a_killed_workers_task_is_finished_by_another_and_the_lost_attempt_is_told(fleet: Fleet) -> None:
    job_id = fleet.submit()
    died = fleet.holder(job_id)
    fleet.workers[died].process.kill()

    job = fleet.ended(job_id)
    (other,) = set(fleet.workers) - {died}

    assert (job["status"], job["answer"]) == ("completed", "done")
    attempts = job["subtasks"][0]["attempts"]
    assert [attempt["worker_id"] for attempt in attempts] == [died, other]
    assert "no sign of life" in attempts[0]["error"]
    assert len(fleet.llm.requests) == 2
    page = fleet.ask("GET", f"/dashboard/jobs/{job_id}").body.decode()
    assert "no sign of life" in page


def test_a_stopped_workers_late_result_is_evidence_and_changes_nothing(fleet: Fleet) -> None:
    job_id = fleet.submit()
    stopped = fleet.holder(job_id)
    os.kill(fleet.workers[stopped].process.pid, signal.SIGSTOP)
    job = fleet.ended(job_id)
    assert job["subtasks"][0]["worker_id"] != stopped

    fleet.may_answer.set()
    os.kill(fleet.workers[stopped].process.pid, signal.SIGCONT)
    fleet.until(lambda: any("came too late" in text for text in fleet.events()))

    after = fleet.job(job_id)
    first = after["subtasks"][0]["attempts"][0]
    assert first["late_result"]["status"] == "completed"
    first["late_result"] = None
    assert after == job
    fleet.until(lambda: fleet.known()[stopped]["status"] == "idle")


@pytest.mark.parametrize("answered_meanwhile", [False, True])
def test_a_network_that_is_away_for_less_than_a_lease_costs_no_attempt(
    tmp_path: Path, answered_meanwhile: bool
) -> None:
    with contextlib.ExitStack() as parts:
        fleet = Fleet(tmp_path, parts, lease="60")
        fleet.start_worker(1)
        cable = parts.enter_context(relay(fleet.workers["worker-1"].port))
        fleet.ask("DELETE", "/workers/worker-1")
        fleet.ask("POST", "/workers", {"worker_id": "attic", "url": f"http://127.0.0.1:{cable.port}"})
        job_id = fleet.submit()

        cable.cut()
        fleet.until(lambda: fleet.known()["attic"]["status"] == "offline")
        if answered_meanwhile:
            fleet.may_answer.set()
            port = fleet.workers["worker-1"].port
            fleet.until(lambda: ask(port, "GET", "/health").json()["current_task"] is None)
        cable.mend()
        fleet.until(lambda: fleet.known()["attic"]["status"] != "offline")
        fleet.may_answer.set()

        job = fleet.ended(job_id)
        assert [attempt["error"] for attempt in job["subtasks"][0]["attempts"]] == [None]
        assert (job["status"], len(fleet.llm.requests)) == ("completed", 1)


@pytest.mark.parametrize("finished_meanwhile", [False, True])
def test_after_a_hub_was_killed_its_workers_result_is_fetched_and_nothing_runs_twice(
    fleet: Fleet, finished_meanwhile: bool
) -> None:
    job_id = fleet.submit()
    holder = fleet.holder(job_id)
    fleet.hub.process.kill()
    fleet.hub.process.wait()
    if finished_meanwhile:
        fleet.may_answer.set()
        port = fleet.workers[holder].port
        fleet.until(lambda: ask(port, "GET", "/health").json()["current_task"] is None)
    fleet.start_hub()
    fleet.may_answer.set()

    job = fleet.ended(job_id)

    assert (job["status"], len(job["subtasks"][0]["attempts"]), len(fleet.llm.requests)) == ("completed", 1, 1)
    assert set(fleet.known()) == {"worker-1", "worker-2"}  # those that had joined are known after the restart


def test_a_worker_that_is_stopped_leaves_and_one_that_is_drained_gets_nothing(fleet: Fleet) -> None:
    os.kill(fleet.workers["worker-2"].process.pid, signal.SIGTERM)
    fleet.until(lambda: set(fleet.known()) == {"worker-1"})
    assert fleet.ask("POST", "/workers/worker-1/drain").json()["status"] == "draining"
    fleet.may_answer.set()

    accepted = fleet.ask("POST", "/task", {"description": "do it", "skills": []}).json()
    (step,) = fleet.job(accepted["job_id"])["subtasks"]
    assert step["status"] == "ready"
    assert step["waiting_for"] == "worker-1 is being drained"

    fleet.ask("POST", "/workers/worker-1/undrain")
    assert fleet.ended(accepted["job_id"])["status"] == "completed"


def test_a_job_outlives_the_restart_of_the_fleets_only_worker(tmp_path: Path) -> None:
    with contextlib.ExitStack() as parts:
        fleet = Fleet(tmp_path, parts)
        fleet.start_worker(1)
        job_id = fleet.submit()
        fleet.workers["worker-1"].process.send_signal(signal.SIGTERM)
        fleet.until(lambda: fleet.known() == {})  # it has said that it leaves
        meanwhile = fleet.ask("POST", "/task", {"description": "do it", "skills": []}).json()["job_id"]
        jobs = (job_id, meanwhile)
        fleet.until(lambda: [fleet.waits_for(name) for name in jobs] == ["no worker is known"] * 2)
        fleet.start_worker(1)

        assert [fleet.ended(name)["status"] for name in jobs] == ["completed"] * 2
        assert len(fleet.job(job_id)["subtasks"][0]["attempts"]) == 2
