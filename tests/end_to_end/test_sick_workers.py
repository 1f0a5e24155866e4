"""A worker that can't work loses no job: another one gets the step, and the sick one is set aside with its reason."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import Fleet, make_skills
from tests.support.fleet_processes import process_fleet
from tests.support.processes import clean_environment, serving_process
from tests.support.scripted_llm import RecordedRequest, Reply, ScriptedLLM, error, text
from tests.support.serving import ask

pytestmark = pytest.mark.system

KEY = "fleet-key"
NOWHERE = "http://127.0.0.1:9/v1"
JOBS = 6


@pytest.fixture
def llm() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as server:
        server.answer_with(text('{"success": true, "data": {}, "output": "done"}'))
        yield server


@contextlib.contextmanager
def fleet_with(tmp_path: Path, llm: ScriptedLLM, *, sick: dict[str, str]) -> Iterator[Fleet]:
    """Run a hub, the well worker-1 and worker-2 with the settings that make it sick."""
    with process_fleet(tmp_path, llm, KEY, workers=1, PIBOT_LLM_RETRIES="0") as fleet:
        fleet.processes.start_worker("worker-2", **sick)
        yield fleet


def run_jobs(fleet: Fleet) -> list[dict[str, Any]]:
    """Run jobs one after the other, and return their records."""
    ids = []
    for number in range(JOBS):
        ids.append(fleet.submit(f"job {number}"))
        fleet.result(ids[-1])
    return [fleet.job(job_id) for job_id in ids]


@pytest.mark.parametrize(
    ("sick", "reason"),
    [
        ({"VOLC_BASE_URL": NOWHERE}, "can't be reached: Connection refused"),
        ({"VOLC_BASE_URL": "http://nowhere.invalid/v1"}, "can't be found: its name has no address here"),
        ({"VOLC_BASE_URL": "{llm}/elsewhere"}, r"refused \(404\)"),
        ({"VOLC_API_KEY": "your-api-key-here"}, "VOLC_API_KEY"),
    ],
    ids=["refused connection", "no such name", "wrong path", "placeholder key"],
)
def test_a_worker_that_cannot_reach_its_model_loses_no_job_and_is_set_aside(
    tmp_path: Path, llm: ScriptedLLM, sick: dict[str, str], reason: str
) -> None:
    def answer(request: RecordedRequest) -> Reply:
        if "elsewhere" in request.path:
            return error(404, "there is nothing here")
        return text('{"success": true, "data": {}, "output": "done"}')

    llm.answer_with(answer)
    settings = {name: value.replace("{llm}", llm.url) for name, value in sick.items()}
    with fleet_with(tmp_path, llm, sick=settings) as fleet:
        jobs = run_jobs(fleet)
        assert [job["status"] for job in jobs] == ["completed"] * JOBS, [job["error"] for job in jobs]
        assert {job["subtasks"][0]["worker_id"] for job in jobs} == {"worker-1"}

        fleet.processes.hub.wait_for_line(r"worker_set_aside worker=worker-2 .*" + reason)
        assert re.search(reason, fleet.workers()["worker-2"]["error"])
        assert re.search(reason, fleet.pibot("status").stdout)
        assert fleet.workers()["worker-1"]["set_aside_until"] is None


def test_a_worker_whose_workspace_cannot_be_written_gets_nothing_until_it_can(tmp_path: Path, llm: ScriptedLLM) -> None:
    in_the_way = tmp_path / "in-the-way"
    in_the_way.write_text("a file where the folder of the workspaces has to be")
    with fleet_with(tmp_path, llm, sick={"PIBOT_WORKSPACE_DIR": str(in_the_way / "workspace")}) as fleet:
        jobs = run_jobs(fleet)
        assert [job["status"] for job in jobs] == ["completed"] * JOBS, [job["error"] for job in jobs]

        fleet.until(lambda: "its workspace can't be written" in (fleet.workers()["worker-2"]["resting"] or ""))
        assert "its workspace can't be written" in fleet.pibot("status").stdout
        own = ask(fleet.processes.workers["worker-2"].port, "GET", "/status", key=KEY).json()
        assert own["problem"].startswith("its workspace can't be written")

        fleet.processes.workers["worker-1"].process.terminate()
        fleet.until(lambda: set(fleet.workers()) == {"worker-2"})
        job_id = fleet.submit("wait for it")
        fleet.until(lambda: "its workspace can't be written" in (fleet.job(job_id)["subtasks"][0]["waiting_for"] or ""))
        assert "its workspace can&#39;t be written" in str(
            ask(fleet.port, "GET", f"/dashboard/jobs/{job_id}", key=KEY).body
        )
        assert "waits: worker-2 " in fleet.pibot("jobs").stdout
        in_the_way.unlink()
        assert fleet.result(job_id)["success"]
        assert len(fleet.job(job_id)["subtasks"][0]["attempts"]) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_card_that_is_full_or_read_only_burns_no_attempt(tmp_path: Path, llm: ScriptedLLM, how: str) -> None:
    card = tmp_path / "card"
    card.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", card], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a disk")
    try:
        (card / "workspace").mkdir()
        if how == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", card], check=True)
        else:
            with contextlib.suppress(OSError), (card / "junk").open("wb", buffering=0) as junk:
                while junk.write(b"\0" * 65536):
                    pass
        with fleet_with(tmp_path, llm, sick={"PIBOT_WORKSPACE_DIR": str(card / "workspace")}) as fleet:
            jobs = run_jobs(fleet)
            assert [job["status"] for job in jobs] == ["completed"] * JOBS, [job["error"] for job in jobs]
            assert {job["subtasks"][0]["worker_id"] for job in jobs} == {"worker-1"}
            fleet.until(lambda: "its workspace can't be written" in (fleet.workers()["worker-2"]["resting"] or ""))
            if how == "read-only":
                subprocess.run(["mount", "-o", "remount,rw", card], check=True)
            else:
                (card / "junk").unlink()
            fleet.until(lambda: fleet.workers()["worker-2"]["resting"] is None)
    finally:
        subprocess.run(["umount", "-l", card], check=True)


class Provider:
    """A provider that answers 502 until the test says that it is back."""

    def __init__(self) -> None:
        self.back = threading.Event()

    def __call__(self, request: RecordedRequest) -> Reply:
        if not self.back.is_set():
            return error(502, "bad gateway")
        return text('{"success": true, "data": {}, "output": "done"}')


@pytest.mark.parametrize("through_the_hub", [False, True], ids=["direct", "through the hub"])
def test_a_step_waits_for_a_provider_that_is_away(tmp_path: Path, llm: ScriptedLLM, through_the_hub: bool) -> None:
    provider = Provider()
    llm.answer_with(provider)
    with process_fleet(tmp_path, llm, KEY, workers=0, PIBOT_LLM_RETRIES="0") as fleet:
        own = {"VOLC_BASE_URL": f"{fleet.url}/v1", "VOLC_API_KEY": KEY} if through_the_hub else {}
        fleet.processes.start_worker("worker-1", **own)
        job_id = fleet.submit("do it")
        fleet.until(lambda: fleet.job(job_id)["subtasks"][0]["waiting_for_kind"] == "model_away")
        (step,) = fleet.job(job_id)["subtasks"]
        assert "502" in step["waiting_for"]
        assert step["attempts"] == []
        fleet.until(lambda: fleet.workers()["worker-1"]["status"] == "idle")
        assert "waits: for the model: " in fleet.pibot("job", job_id).stdout

        provider.back.set()
        assert fleet.result(job_id)["success"]
        assert len(fleet.job(job_id)["subtasks"][0]["attempts"]) == 1
        assert fleet.workers()["worker-1"]["set_aside_until"] is None


def test_planning_waits_for_a_provider_that_is_away(tmp_path: Path, llm: ScriptedLLM) -> None:
    provider = Provider()

    def answer(request: RecordedRequest) -> Reply:
        reply = provider(request)
        planning = "PIBOT-PLAN/1" in str(request.messages[0]["content"])
        if provider.back.is_set() and planning:
            return text('{"complexity": "simple", "handle_locally": true, "answer": "hello", "subtasks": []}')
        return reply

    llm.answer_with(answer)
    with process_fleet(tmp_path, llm, KEY, workers=0, PIBOT_LLM_RETRIES="0") as fleet:
        job_id = fleet.ask("POST", "/task", {"description": "say hello"}).json()["job_id"]
        fleet.until(lambda: fleet.job(job_id)["waiting_for"])
        job = fleet.job(job_id)
        assert job["status"] == "planning"
        assert job["waiting_for"].startswith("for the model: ")
        assert "for the model: " in fleet.pibot("job", job_id).stdout
        provider.back.set()
        assert fleet.result(job_id)["output"] == "hello"


def test_a_provider_that_stays_away_fails_the_job_after_the_time_that_a_worker_has(
    tmp_path: Path, llm: ScriptedLLM
) -> None:
    llm.answer_with(error(503, "overloaded"))
    with process_fleet(tmp_path, llm, KEY, PIBOT_LLM_RETRIES="0", PIBOT_NO_WORKER_SECONDS="1") as fleet:
        step = fleet.result(fleet.submit("do it"))
        planned = fleet.result(fleet.ask("POST", "/task", {"description": "plan it"}).json()["job_id"])
        assert not step["success"]
        assert "PIBOT_NO_WORKER_SECONDS" in step["error"]
        assert "PIBOT_NO_WORKER_SECONDS" in planned["error"]


def test_one_worker_with_a_wrong_key_still_fails_its_job_at_once(tmp_path: Path, llm: ScriptedLLM) -> None:
    llm.answer_with(error(401, "no such key"))
    with process_fleet(tmp_path, llm, KEY, workers=1, PIBOT_LLM_RETRIES="0") as fleet:
        result = fleet.result(fleet.submit("do it"))
        assert not result["success"]
        assert "check the key" in result["error"]


def test_the_hubs_own_address_as_a_workers_is_told_and_gets_no_task(tmp_path: Path, llm: ScriptedLLM) -> None:
    hub = {"WORKER_9_IP": "127.0.0.1", "WORKER_9_PORT": "9"}
    with process_fleet(tmp_path, llm, KEY, workers=0, hub=hub) as fleet:
        fleet.processes.hub.process.terminate()
        fleet.processes.hub.process.wait()
        hub["WORKER_9_PORT"] = str(fleet.port)
        fleet.processes.start_hub()
        fleet.until(lambda: "not as a PiBot worker does" in (fleet.workers()["worker-9"]["resting"] or ""))
        job_id = fleet.submit("do it")
        fleet.until(lambda: "not as a PiBot worker does" in (fleet.job(job_id)["subtasks"][0]["waiting_for"] or ""))
        assert fleet.job(job_id)["subtasks"][0]["attempts"] == []
        assert "not as a PiBot worker does" in fleet.pibot("status").stdout


def test_workers_that_all_call_themselves_worker_1_are_told(tmp_path: Path, llm: ScriptedLLM) -> None:
    with process_fleet(tmp_path, llm, KEY, workers=1) as fleet:
        environment = clean_environment(**llm.environ(PIBOT_API_KEY=KEY))
        command = ["-m", "pibot", "worker", "--host", "127.0.0.1", "--port", "0"]
        with serving_process(tmp_path / "nameless", command, environment) as nameless:
            fleet.ask("POST", "/workers", {"worker_id": "worker-2", "url": nameless.url})
            fleet.until(lambda: "set WORKER_ID=worker-2 on it" in (fleet.workers()["worker-2"]["error"] or ""))
            assert fleet.workers()["worker-1"]["error"] is None
            assert "set WORKER_ID=worker-2 on it" in fleet.pibot("status").stdout


def test_a_hub_and_a_worker_leave_a_malformed_skill_out(tmp_path: Path, llm: ScriptedLLM) -> None:
    skills = make_skills(tmp_path / "skills")
    (skills / "web_fetch" / "SKILL.md").write_text("---\nname: web_fetch\ndescription: Fetches: pages\n---\n")
    with process_fleet(tmp_path, llm, KEY, workers=1, PIBOT_SKILLS_DIR=str(skills)) as fleet:
        fleet.processes.hub.wait_for_line(r"skill_left_out skill=web_fetch")
        fleet.processes.workers["worker-1"].wait_for_line(r"skill_left_out skill=web_fetch")
        fleet.until(lambda: fleet.workers()["worker-1"]["skills"] == ["shell_exec"])
        assert fleet.result(fleet.submit("do it"))["success"]
        refused = fleet.ask("POST", "/task", {"description": "fetch it", "skills": ["web_fetch"]})
        assert "unknown skill 'web_fetch'" in refused.json()["error"]
