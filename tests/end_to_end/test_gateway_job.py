"""A job through a real hub and a real worker as separate processes; only the hub has the provider's key."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import scripted_llm as model
from tests.support.fleet import Fleet
from tests.support.fleet_processes import process_fleet
from tests.support.scripted_llm import ScriptedLLM

KEY = "the-fleets-own-key"
TOKEN = "the-token-of-worker-1"


@pytest.fixture
def llm() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as server:
        yield server
        server.assert_done()


@contextlib.contextmanager
def fleet(tmp_path: Path, llm: ScriptedLLM, **hub: str) -> Iterator[Fleet]:
    """Run a hub with these settings and a worker that has nothing but its token."""
    with process_fleet(tmp_path, llm, KEY, workers=0, hub={"WORKER_1_TOKEN": TOKEN, **hub}) as running:
        own = {"PIBOT_API_KEY": TOKEN, "VOLC_API_KEY": TOKEN, "VOLC_BASE_URL": f"{running.url}/v1"}
        running.processes.start_worker("worker-1", **own, PIBOT_SANDBOX="off")
        yield running


def run(fleet: Fleet, description: str, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a job to its end, and return its result and its record."""
    done = fleet.ask("POST", "/task", {"description": description, **more}, Prefer="wait=60")
    assert done.status == 200, done.body
    return done.json(), fleet.job(done.json()["job_id"])


def plan(*steps: str) -> model.Reply:
    subtasks = [{"task_id": f"s{n}", "description": text, "skills": []} for n, text in enumerate(steps, 1)]
    return model.text(json.dumps({"complexity": "moderate", "handle_locally": False, "subtasks": subtasks}))


def test_the_tokens_of_a_job_are_those_that_the_provider_counted(tmp_path: Path, llm: ScriptedLLM) -> None:
    told: list[tuple[int, int]] = []

    def counting(request: model.RecordedRequest) -> model.Reply:
        told.append((100 + len(told), 7))
        usage = {"prompt_tokens": told[-1][0], "completion_tokens": told[-1][1], "total_tokens": sum(told[-1])}
        return model.text("done", usage=usage)

    llm.enqueue(plan("One", "Two"))
    told.append((10, 5))  # the plan's
    llm.answer_with(counting)
    with fleet(tmp_path, llm, PIBOT_PRICES=f"{model.MODEL}=1/2") as running:
        result, job = run(running, "Do both")

        assert result["success"], result
        assert {request.authorization for request in llm.requests} == {f"Bearer {model.API_KEY}"}
        assert len(told) == len(llm.requests) == 4  # the plan, two steps, the summary
        usage = {
            "prompt_tokens": sum(prompt for prompt, _ in told),
            "completion_tokens": sum(completion for _, completion in told),
            "total_tokens": sum(map(sum, told)),
            "llm_calls": len(told),
        }
        assert job["usage"] == result["usage"] == usage
        assert job["cost"] == pytest.approx((usage["prompt_tokens"] + 2 * usage["completion_tokens"]) / 1e6)
        assert [(row["caller"], row["llm_calls"]) for row in job["spending"]] == [("master", 2), ("worker-1", 2)]
        today = running.ask("GET", "/usage").json()["today"]
        assert today["total_tokens"] == usage["total_tokens"]


def test_a_job_beyond_its_budget_fails_with_the_gateways_message(tmp_path: Path, llm: ScriptedLLM) -> None:
    llm.answer_with(model.tool_calls(model.call("no_such_tool", {})))
    with fleet(tmp_path, llm, PIBOT_JOB_TOKENS="40") as running:
        result, job = run(running, "Go on for ever", skills=[])

        assert not result["success"]
        assert (
            f"job {job['job_id']} has used 45 tokens, and PIBOT_JOB_TOKENS on the master allows 40 a job"
            in result["error"]
        )
        assert len(llm.requests) == 3
        assert job["usage"]["total_tokens"] == 45
        assert len(job["subtasks"][0]["attempts"]) == 1


def test_a_plan_beyond_the_days_budget_fails_its_job_with_the_gateways_message(
    tmp_path: Path, llm: ScriptedLLM
) -> None:
    llm.enqueue(plan("One"), model.text("done"))
    with fleet(tmp_path, llm, PIBOT_DAY_TOKENS="30") as running:
        assert run(running, "The first")[0]["success"]
        result, _ = run(running, "The second")
        assert "could not be planned: the fleet has used 30 tokens on " in result["error"]
        assert "PIBOT_DAY_TOKENS on the master allows 30 a day" in result["error"]
