"""A model whose quota is used up: jobs wait for it, go to the fallback, or fail with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.support.fleet_processes import process_fleet
from tests.support.scripted_llm import MODEL, ScriptedLLM, error, text

pytestmark = pytest.mark.system

KEY = "fleet-key"
DONE = text('{"success": true, "data": {}, "output": "done"}')
USED_UP = error(429, "You have exceeded the 5-hour usage quota.", retry_after=43200)


@pytest.fixture
def llm() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as server:
        yield server


def waits_for_rest(fleet: Fleet, job_id: str) -> str:
    """Wait until the job's step waits for the end of a rest, and return what it says."""
    fleet.until(lambda: [s for s in fleet.job(job_id)["subtasks"] if s["waiting_for_kind"] == "model_rests"])
    (step,) = fleet.job(job_id)["subtasks"]
    assert step["attempts"] == []
    return str(step["waiting_for"])


@pytest.mark.parametrize("through_the_hub", [False, True], ids=["direct", "through the hub"])
def test_each_kind_of_refusal_comes_to_what_its_server_means(
    tmp_path: Path, llm: ScriptedLLM, through_the_hub: bool
) -> None:
    with process_fleet(tmp_path, llm, KEY, workers=0) as fleet:
        own = {"VOLC_BASE_URL": f"{fleet.url}/v1", "VOLC_API_KEY": KEY} if through_the_hub else {}
        fleet.processes.start_worker("worker-1", **own)

        llm.enqueue(error(429, "Please retry in 0.2s"), error(529, "Overloaded", retry_after="0"), DONE)
        assert fleet.result(fleet.submit("a short wait, in words alone"))["success"]

        llm.enqueue(error(429, "your account has no balance"))
        unpaid = fleet.result(fleet.submit("no balance"))
        assert not unpaid["success"]
        assert "no balance" in unpaid["error"]
        assert "pay or raise the limit at the provider" in unpaid["error"]
        assert "try again later" not in unpaid["error"]
        llm.assert_done()

        asked = len(llm.requests)
        llm.enqueue(USED_UP)
        jobs = [fleet.submit("waits", timeout=65.0), fleet.submit("waits too")]
        for job_id in jobs:
            reason = waits_for_rest(fleet, job_id)
            assert reason.startswith("for the model, which rests until 20")
            assert f"for the model '{MODEL}': \"You have exceeded the 5-hour usage quota.\"" in reason
            assert "rests until 20" in fleet.pibot("jobs").stdout
        planned = str(fleet.ask("POST", "/task", {"description": "plan it"}).json()["job_id"])
        fleet.until(lambda: "rests until 20" in (fleet.job(planned)["waiting_for"] or ""))
        (banner,) = [b for b in fleet.ask("GET", "/dashboard/data").json()["banners"] if b["id"] == "model_away"]
        assert "rests until 20" in banner["text"]
        fleet.until(lambda: fleet.workers()["worker-1"]["status"] == "idle")
        assert len(llm.requests) == asked + 1
        llm.assert_done()


def test_jobs_go_to_the_fallback_until_the_model_is_back(tmp_path: Path, llm: ScriptedLLM) -> None:
    with ScriptedLLM() as second:
        second.answer_with(DONE)
        fallback = {
            "PIBOT_FALLBACK_MODEL": "small-model",
            "PIBOT_FALLBACK_BASE_URL": second.url,
            "PIBOT_FALLBACK_API_KEY": "the-other-key",
        }
        with process_fleet(tmp_path, llm, KEY, workers=0, hub=fallback) as fleet:
            fleet.processes.start_worker("worker-1", VOLC_BASE_URL=f"{fleet.url}/v1", VOLC_API_KEY=KEY)
            llm.enqueue(USED_UP)
            for _ in range(2):
                assert fleet.result(fleet.submit("do it"))["success"]
            (banner,) = [b for b in fleet.ask("GET", "/dashboard/data").json()["banners"] if b["id"] == "model_rests"]
            assert f"the model '{MODEL}' rests until 20" in banner["text"]
            assert banner["text"].endswith("The fallback model is asked meanwhile.")
            llm.assert_done()
