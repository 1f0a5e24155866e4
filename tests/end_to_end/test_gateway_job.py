"""A job through a real hub and a real worker, each a process of its own; only the hub has the provider's key."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import scripted_llm as model
from tests.support.processes import clean_environment, serving_process
from tests.support.scripted_llm import ScriptedLLM
from tests.support.serving import Answer, ask

KEY = "the-fleets-own-key"
TOKEN = "the-token-of-worker-1"


@dataclass(frozen=True)
class Fleet:
    port: int

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return ask(self.port, method, path, body, key=KEY, headers=headers)

    def run(self, description: str, **more: Any) -> Any:
        """The job's result, and its record."""
        done = self.ask("POST", "/task", {"description": description, **more}, Prefer="wait=60")
        assert done.status == 200, done.body
        return done.json(), self.ask("GET", f"/task/{done.json()['job_id']}").json()["job"]


@pytest.fixture
def llm() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as server:
        yield server
        server.assert_done()


@contextlib.contextmanager
def fleet(tmp_path: Path, llm: ScriptedLLM, **settings: str) -> Iterator[Fleet]:
    """The worker has nothing but its token; it registers by itself."""
    hub_env = clean_environment(
        **llm.environ(PIBOT_API_KEY=KEY, WORKER_1_TOKEN=TOKEN, PIBOT_MIN_MEMORY_MB="0", PIBOT_HOT_CELSIUS="1000"),
        **settings,
    )
    arguments = ["-m", "pibot", "hub", "--host", "127.0.0.1", "--port", "0"]
    with serving_process(tmp_path / "hub", arguments, hub_env, port_pattern=r"listen=127\.0\.0\.1:(\d+)") as hub:
        worker_env = clean_environment(
            PIBOT_API_KEY=TOKEN,
            VOLC_API_KEY=TOKEN,
            VOLC_BASE_URL=f"{hub.url}/v1",
            MODEL_NAME=model.MODEL,
            PIBOT_HUB_URL=hub.url,
            PIBOT_SANDBOX="off",
        )
        arguments = ["-m", "pibot", "worker", "--host", "127.0.0.1", "--port", "0", "--worker-id", "worker-1"]
        with serving_process(tmp_path / "worker-1", arguments, worker_env):
            yield Fleet(hub.port)


def plan(*steps: str) -> model.Reply:
    subtasks = [{"task_id": f"s{n}", "description": text, "skills": []} for n, text in enumerate(steps, 1)]
    return model.text(json.dumps({"complexity": "moderate", "handle_locally": False, "subtasks": subtasks}))


def test_a_jobs_tokens_are_those_that_the_provider_counted(tmp_path: Path, llm: ScriptedLLM) -> None:
    told: list[tuple[int, int]] = []

    def counting(request: model.RecordedRequest) -> model.Reply:
        told.append((100 + len(told), 7))
        usage = {"prompt_tokens": told[-1][0], "completion_tokens": told[-1][1], "total_tokens": sum(told[-1])}
        return model.text("done", usage=usage)

    llm.enqueue(plan("One", "Two"))
    told.append((10, 5))  # the plan's
    llm.answer_with(counting)
    with fleet(tmp_path, llm, PIBOT_PRICES=f"{model.MODEL}=1/2") as running:
        result, job = running.run("Do both")

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


def test_a_job_past_its_budget_fails_with_the_gateways_sentence(tmp_path: Path, llm: ScriptedLLM) -> None:
    llm.answer_with(model.tool_calls(model.call("no_such_tool", {})))
    with fleet(tmp_path, llm, PIBOT_JOB_TOKENS="40") as running:
        result, job = running.run("Go on for ever", skills=[])

        assert not result["success"]
        assert (
            f"job {job['job_id']} has used 45 tokens, and PIBOT_JOB_TOKENS on the master allows 40 a job"
            in result["error"]
        )
        assert len(llm.requests) == 3
        assert job["usage"]["total_tokens"] == 45
        assert len(job["subtasks"][0]["attempts"]) == 1


def test_a_plan_past_the_days_budget_fails_its_job_with_the_gateways_sentence(tmp_path: Path, llm: ScriptedLLM) -> None:
    llm.enqueue(plan("One"), model.text("done"))
    with fleet(tmp_path, llm, PIBOT_DAY_TOKENS="30") as running:
        assert running.run("The first")[0]["success"]
        result, _ = running.run("The second")
        assert "could not be planned: the fleet has used 30 tokens on " in result["error"]
        assert "PIBOT_DAY_TOKENS on the master allows 30 a day" in result["error"]
