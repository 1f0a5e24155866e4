"""Real workers and hubs are killed and stopped, and every accepted job still ends exactly once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import Fleet
from tests.support.fleet_processes import process_fleet
from tests.support.relay import relay
from tests.support.scripted_llm import RecordedRequest, Reply, ScriptedLLM, held, text

pytestmark = pytest.mark.system

KEY = "fleet-key"


class HeldModel:
    """Answers every task at once, but the first one only after the test sets :attr:`may_answer`."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self._first = threading.Lock()

    def __call__(self, request: RecordedRequest) -> Reply:
        answer = text('{"success": true, "data": {}, "output": "done"}')
        return held(answer, self.may_answer) if self._first.acquire(blocking=False) else answer


@pytest.fixture
def model() -> HeldModel:
    return HeldModel()


@pytest.fixture
def llm(model: HeldModel) -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as server:
        server.answer_with(model)
        yield server


@pytest.fixture
def fleet(tmp_path: Path, llm: ScriptedLLM) -> Iterator[Fleet]:
    with process_fleet(tmp_path, llm, KEY, workers=2, PIBOT_LEASE_SECONDS="3") as running:
        yield running


def submit(fleet: Fleet) -> str:
    """Submit a job of one step, and wait until a worker has it and asks its model."""
    job_id = fleet.submit("do it")
    fleet.llm.wait_for_requests(1, timeout=60)
    return job_id


def holder(fleet: Fleet, job_id: str) -> str:
    """Return the worker that has the lease of the job's step."""
    return str(fleet.job(job_id)["subtasks"][0]["worker_id"])


def waits_for(fleet: Fleet, job_id: str) -> str | None:
    """Return why no worker can run the job's step now."""
    reason: str | None = fleet.job(job_id)["subtasks"][0]["waiting_for"]
    return reason


def ended(fleet: Fleet, job_id: str) -> dict[str, Any]:
    """Wait for the job's end, and return its record."""
    fleet.result(job_id)
    return fleet.job(job_id)


def test_another_worker_finishes_a_killed_workers_step_and_the_lost_attempt_is_shown(fleet: Fleet) -> None:
    job_id = submit(fleet)
    died = holder(fleet, job_id)
    fleet.processes.workers[died].process.kill()

    job = ended(fleet, job_id)
    (other,) = set(fleet.processes.workers) - {died}

    assert (job["status"], job["answer"]) == ("completed", "done")
    attempts = job["subtasks"][0]["attempts"]
    assert [attempt["worker_id"] for attempt in attempts] == [died, other]
    assert "no sign of life" in attempts[0]["error"]
    assert len(fleet.llm.requests) == 2
    page = fleet.ask("GET", f"/dashboard/jobs/{job_id}").body.decode()
    assert "no sign of life" in page


def test_a_stopped_workers_late_result_is_recorded_and_changes_nothing(fleet: Fleet, model: HeldModel) -> None:
    job_id = submit(fleet)
    stopped = holder(fleet, job_id)
    fleet.processes.workers[stopped].process.send_signal(signal.SIGSTOP)
    job = ended(fleet, job_id)
    assert job["subtasks"][0]["worker_id"] != stopped

    model.may_answer.set()
    fleet.processes.workers[stopped].process.send_signal(signal.SIGCONT)
    fleet.until(lambda: any("too late: " in text for text in fleet.events()))

    after = fleet.job(job_id)
    first = after["subtasks"][0]["attempts"][0]
    assert first["late_result"]["status"] == "completed"
    first["late_result"] = None
    assert after == job
    fleet.until(lambda: fleet.workers()[stopped]["status"] == "idle")


@pytest.mark.parametrize("answered_meanwhile", [False, True])
def test_a_network_failure_shorter_than_a_lease_costs_no_attempt(
    tmp_path: Path, llm: ScriptedLLM, model: HeldModel, answered_meanwhile: bool
) -> None:
    with contextlib.ExitStack() as parts:
        fleet = parts.enter_context(process_fleet(tmp_path, llm, KEY, PIBOT_LEASE_SECONDS="60"))
        worker = fleet.processes.workers["worker-1"]
        cable = parts.enter_context(relay(worker.port))
        fleet.ask("DELETE", "/workers/worker-1")
        fleet.ask("POST", "/workers", {"worker_id": "attic", "url": f"http://127.0.0.1:{cable.port}"})
        job_id = submit(fleet)

        cable.cut()
        fleet.until(lambda: fleet.workers()["attic"]["status"] == "offline")
        if answered_meanwhile:
            model.may_answer.set()
            worker.wait_for_line(" task_finished ")
        cable.mend()
        fleet.until(lambda: fleet.workers()["attic"]["status"] != "offline")
        model.may_answer.set()

        job = ended(fleet, job_id)
        assert [attempt["error"] for attempt in job["subtasks"][0]["attempts"]] == [None]
        assert (job["status"], len(fleet.llm.requests)) == ("completed", 1)


@pytest.mark.parametrize("finished_meanwhile", [False, True])
def test_a_restarted_hub_fetches_its_workers_result_and_runs_nothing_twice(
    fleet: Fleet, model: HeldModel, finished_meanwhile: bool
) -> None:
    job_id = submit(fleet)
    has_it = holder(fleet, job_id)
    fleet.processes.hub.process.kill()
    fleet.processes.hub.process.wait()
    if finished_meanwhile:
        model.may_answer.set()
        fleet.processes.workers[has_it].wait_for_line(" task_finished ")
    fleet.processes.start_hub()
    model.may_answer.set()

    job = ended(fleet, job_id)

    assert (job["status"], len(job["subtasks"][0]["attempts"]), len(fleet.llm.requests)) == ("completed", 1, 1)
    assert set(fleet.workers()) == {"worker-1", "worker-2"}  # it still knows the workers that had joined


def test_a_terminated_worker_leaves_and_a_drained_one_gets_nothing(fleet: Fleet, model: HeldModel) -> None:
    fleet.processes.workers["worker-2"].process.terminate()
    fleet.until(lambda: set(fleet.workers()) == {"worker-1"})
    assert fleet.ask("POST", "/workers/worker-1/drain").json()["status"] == "draining"
    model.may_answer.set()

    job_id = fleet.submit("do it")
    (step,) = fleet.job(job_id)["subtasks"]
    assert step["status"] == "ready"
    assert step["waiting_for"] == "worker-1 is being drained"

    fleet.ask("POST", "/workers/worker-1/undrain")
    assert ended(fleet, job_id)["status"] == "completed"


def test_a_job_outlives_the_restart_of_the_fleets_only_worker(tmp_path: Path, llm: ScriptedLLM) -> None:
    with process_fleet(tmp_path, llm, KEY, PIBOT_LEASE_SECONDS="3") as fleet:
        job_id = submit(fleet)
        fleet.processes.workers["worker-1"].process.terminate()
        fleet.until(lambda: fleet.workers() == {})  # the worker has left
        meanwhile = fleet.submit("do it")
        jobs = (job_id, meanwhile)
        fleet.until(lambda: {waits_for(fleet, name) for name in jobs} == {"no worker is known"})
        fleet.processes.start_worker()

        assert [ended(fleet, name)["status"] for name in jobs] == ["completed"] * 2
        assert len(fleet.job(job_id)["subtasks"][0]["attempts"]) == 2
