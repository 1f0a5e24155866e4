"""The owner sees tokens and costs in the API, on the dashboard, in the metrics and with the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pibot.cli import main
from pibot.settings import GatewaySettings, Price
from tests.support import scripted_llm as model
from tests.support.fleet import Fleet, fleet

USAGE = {"prompt_tokens": 1000, "completion_tokens": 250, "total_tokens": 1250}
LIMITS = GatewaySettings(job_tokens=5000, day_tokens=10_000, prices={model.MODEL: Price(1, 4)}, currency="CNY")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("spending"), workers=1, gateway=LIMITS) as parts:
        yield parts


@pytest.fixture(scope="module")
def job_id(shared: Fleet) -> str:
    """A job that the master answered by itself, with one model call."""
    body = {"complexity": "simple", "handle_locally": True, "subtasks": [], "answer": "It is."}
    shared.llm.enqueue(model.text(json.dumps(body), usage=USAGE))
    answer = shared.ask("POST", "/task", {"description": "Is it?"}, Prefer="wait=30")
    assert answer.status == 200, answer.body
    assert (answer.json()["cost"], answer.json()["currency"]) == (0.002, "CNY")
    return str(answer.json()["job_id"])


def test_a_jobs_record_and_its_export_list_its_model_calls_by_caller_and_model(shared: Fleet, job_id: str) -> None:
    row = {**USAGE, "caller": "master", "model": model.MODEL, "llm_calls": 1, "estimated_calls": 0, "cost": 0.002}
    for path in (f"/task/{job_id}", f"/task/{job_id}/export"):
        job = shared.ask("GET", path).json()["job"]
        assert job["spending"] == [row]
        assert job["usage"] == {**USAGE, "llm_calls": 1}
        assert (job["cost"], job["currency"]) == (0.002, "CNY")


def test_usage_reports_today_and_what_is_left_of_the_budget(shared: Fleet, job_id: str) -> None:
    body = shared.ask("GET", "/usage").json()
    today = body["today"]
    assert (today["total_tokens"], today["budget"], today["left"]) == (1250, 10_000, 8750)
    assert [row["caller"] for row in today["by"]] == ["master"]
    assert [(day["day"], day["cost"]) for day in body["days"]] == [(today["day"], 0.002)]
    assert body["job_budget"] == 5000


@pytest.mark.parametrize("days", ["0", "401", "x", "-1"])
def test_an_invalid_number_of_days_is_refused(shared: Fleet, days: str) -> None:
    answer = shared.ask("GET", f"/usage?days={days}")
    assert (answer.status, answer.json()["field"]) == (400, "days")


def test_the_dashboard_shows_today_and_each_jobs_cost(shared: Fleet, job_id: str) -> None:
    data: Any = shared.ask("GET", "/dashboard/data").json()
    assert data["spent"] == "1,250 tokens today, 0.0020 CNY, 8,750 of 10,000 left"
    assert data["jobs"][0]["cost"] == "0.0020 CNY"
    assert "8,750 of 10,000 left" in shared.ask("GET", "/dashboard").body.decode()
    page = shared.ask("GET", f"/dashboard/jobs/{job_id}").body.decode()
    assert f"master, {model.MODEL}: 1,000 + 250 tokens in 1 call, 0.0020 CNY" in page


def test_the_metrics_have_tokens_and_cost_by_worker_and_model(shared: Fleet, job_id: str) -> None:
    text = shared.ask("GET", "/metrics").body.decode()
    labels = f'{{model="{model.MODEL}",worker="master"}}'
    assert f'pibot_gateway_tokens_total{{kind="prompt",model="{model.MODEL}",worker="master"}} 1000.0' in text
    assert f"pibot_gateway_completions_total{labels} 1.0" in text
    assert f"pibot_gateway_cost_total{labels} 0.002" in text
    assert "pibot_tokens_left_today 8750.0" in text
    assert 'pibot_tokens_total{kind="completion"} 250.0' in text  # the jobs' tokens are counted once


def test_the_command_shows_todays_tokens_and_those_of_a_job(
    shared: Fleet, job_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIBOT_HUB_URL", shared.url)
    status = CliRunner().invoke(main, ["status"])
    assert "today    1,250 tokens in 1 model call, 0.002 CNY, 8,750 of 10,000 left" in status.output
    run = CliRunner().invoke(main, ["run", "--skills", "", "Do it"])  # its worker's agent reports 15 tokens
    assert "15 tokens in 1 model call" in run.output
