"""The master's HTTP API over a real fleet."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pibot import __version__
from pibot.contracts import WorkerAddress
from pibot.master_hub.api import WAITING_PLACES
from pibot.master_hub.jobs import CANCELS_AT_ONCE
from tests.support import scripted_llm as model
from tests.support.fleet import Fleet, fleet, hub, plan, settings_for, step
from tests.support.scripted_llm import ScriptedLLM
from tests.support.serving import Answer, ask


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path) as parts:
        yield parts


def test_a_job_is_planned_run_on_workers_and_answered(running: Fleet) -> None:
    running.llm.enqueue(
        plan(step("s1", "look here"), step("s2", "look there"), step("s3", "compare", "s1", "s2")),
        model.text("Here is better."),
    )

    accepted = running.ask("POST", "/task", {"description": "compare here and there"})
    job_id = accepted.json()["job_id"]
    result = running.result(job_id)
    job = running.ask("GET", f"/task/{job_id}").json()["job"]

    assert accepted.status == 202
    assert accepted.json() == {"success": True, "job_id": job_id, "status": "accepted"}
    assert accepted.headers["Location"] == f"/task/{job_id}"
    assert result["success"] is True
    assert result["status"] == "completed"
    assert result["output"] == result["data"]["output"] == "Here is better."
    assert set(result["data"]["subtasks"]) == {"s1", "s2", "s3"}
    assert result["data"]["subtasks"]["s1"]["output"] == "did: look here"
    assert result["usage"]["total_tokens"] == 5 * 15  # a plan, an answer, three steps
    assert job["plan"]["reasoning"] == "It has parts."
    assert [s["status"] for s in job["subtasks"]] == ["completed"] * 3
    assert {s["worker_id"] for s in job["subtasks"]} <= {"worker-1", "worker-2"}


def test_prefer_wait_returns_the_result_in_the_same_answer(running: Fleet) -> None:
    answer = running.ask("POST", "/task", {"description": "look", "skills": []}, Prefer="wait=30")

    assert answer.status == 200
    assert answer.json()["output"] == "did: look"
    assert answer.headers["Preference-Applied"] == "wait=30"


def test_a_wait_that_is_too_short_ends_with_a_202(running: Fleet) -> None:
    answer = running.ask("POST", "/task", {"description": "hold", "skills": []}, Prefer="wait=1")
    job_id = answer.json()["job_id"]

    assert answer.status == 202
    result = running.ask("GET", f"/task/{job_id}/result")
    assert result.status == 202
    assert result.json()["status"] in ("queued", "planning", "running")
    running.gate.open()
    assert running.result(job_id)["status"] == "completed"


def test_the_same_id_with_the_same_body_is_the_same_job(running: Fleet) -> None:
    body = {"description": "look", "skills": [], "job_id": "mine-1"}

    first = running.ask("POST", "/task", body, Prefer="wait=30")
    again = running.ask("POST", "/task", body, Prefer="wait=30")
    other = running.ask("POST", "/task", {**body, "description": "look elsewhere"})

    assert first.json() == again.json()
    assert other.status == 409
    assert "mine-1" in other.json()["error"]
    assert len(running.ask("GET", "/tasks").json()["tasks"]) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"\xff", None),
        ({}, "description"),
        ({"description": ""}, "description"),
        ({"description": "  \n"}, "description"),
        ({"description": 7}, "description"),
        ({"description": "x" * 100_001}, "description"),
        (b'{"description": "\\ud800"}', "description"),
        ({"description": "x", "skills": "shell_exec"}, "skills"),
        ({"description": "x", "skills": [1]}, "skills"),
        ({"description": "x", "skills": ["../etc"]}, "skills"),
        ({"description": "x", "skills": ["no_such_skill"]}, "skills"),
        ({"description": "x", "timeout": 0}, "timeout"),
        ({"description": "x", "timeout": "1"}, "timeout"),
        ({"description": "x", "timeout": 1e9}, "timeout"),
        ({"description": "x", "priority": "high"}, "priority"),
        ({"description": "x", "priority": 10**30}, "priority"),
        ({"description": "x", "job_id": "../x"}, "job_id"),
        ({"description": "x", "job_id": ""}, "job_id"),
        ({"description": "x", "nonsense": 1}, "nonsense"),
    ],
)
def test_a_bad_job_is_a_400_that_names_the_field(shared: Fleet, body: object, field: str | None) -> None:
    answer = shared.ask("POST", "/task", body)

    assert answer.status == 400
    assert answer.json()["success"] is False
    assert answer.json().get("field") == field
    assert field is None or field in answer.json()["error"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One fleet for tests that leave nothing behind."""
    with fleet(tmp_path_factory.mktemp("shared"), workers=1) as parts:
        yield parts


def test_an_unknown_skill_is_answered_with_the_ones_there_are(shared: Fleet) -> None:
    answer = shared.ask("POST", "/task", {"description": "x", "skills": ["fly"]})

    assert answer.json()["skills"] == ["shell_exec", "web_fetch"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=asleep", "status"),
        ("status=", "status"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=%C2%B2", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("before=..", "before"),
    ],
)
def test_a_bad_query_is_a_400_that_names_the_field(shared: Fleet, query: str, field: str) -> None:
    answer = shared.ask("GET", f"/tasks?{query}")

    assert answer.status == 400
    assert answer.json()["field"] == field


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/task/none"),
        ("GET", "/task/none/result"),
        ("POST", "/task/none/cancel"),
        ("GET", "/task/%00"),
        ("GET", "/tasks?before=none"),
        ("GET", "/nowhere"),
    ],
)
def test_a_missing_resource_is_a_404_in_json(shared: Fleet, method: str, path: str) -> None:
    answer = shared.ask(method, path, Prefer="wait=30")

    assert answer.status == 404
    assert answer.json()["error"]


def test_a_wrong_method_is_a_405_that_names_the_right_ones(shared: Fleet) -> None:
    answer = shared.ask("DELETE", "/task")

    assert answer.status == 405
    assert "POST" in answer.headers["Allow"]
    assert "error" in answer.json()


def test_a_body_beyond_the_limit_is_a_413(shared: Fleet) -> None:
    assert shared.ask("POST", "/task", b"x" * (8 * 1024 * 1024 + 1)).status == 413


def test_a_chunked_body_is_a_411(shared: Fleet) -> None:
    assert shared.ask("POST", "/task", b"2\r\n{}\r\n0\r\n\r\n", Transfer_Encoding="chunked").status in (400, 411)


def test_jobs_come_a_page_at_a_time_the_newest_first(running: Fleet) -> None:
    ids = [running.submit(f"look {n}") for n in range(5)]
    for job_id in ids:
        running.result(job_id)

    seen: list[str] = []
    path: str | None = "/tasks?limit=2"
    while path:
        page = running.ask("GET", path).json()
        assert len(page["tasks"]) <= 2
        seen += [job["job_id"] for job in page["tasks"]]
        path = f"/tasks?limit=2&before={page['next']}" if page["next"] else None

    assert seen == ids[::-1]
    assert "subtasks" not in running.ask("GET", "/tasks").json()["tasks"][0]


def test_jobs_can_be_filtered_by_status(running: Fleet) -> None:
    done, failed = running.submit("look"), running.submit("fail")
    running.result(done)
    result = running.result(failed)

    assert result["success"] is False
    assert result["status"] == "failed"
    assert "told to fail" in result["error"]
    rows = running.ask("GET", "/tasks?status=failed").json()["tasks"]
    assert [row["job_id"] for row in rows] == [failed]


def test_cancels_that_wait_for_a_worker_leave_threads_for_the_others(
    running: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = running.submit("hold on")
    running.gate.wait_for_a_task()
    answers, ended = threading.Event(), threading.Semaphore(0)

    async def silent(worker_id: str, task_id: str) -> None:
        await asyncio.to_thread(answers.wait)

    monkeypatch.setattr(running.service.pool, "cancel", silent)
    statuses: list[int] = []

    def cancel() -> None:
        statuses.append(running.ask("POST", f"/task/{job_id}/cancel").status)
        ended.release()

    threads = [threading.Thread(target=cancel) for _ in range(CANCELS_AT_ONCE + 30)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        assert ended.acquire(timeout=20)
    assert set(statuses) == {429}
    assert running.ask("GET", "/health").status == 200
    answers.set()
    for thread in threads:
        thread.join()
    assert statuses[30:] == [200] * CANCELS_AT_ONCE


def test_cancelling_ends_the_job_and_its_task_on_the_worker(running: Fleet) -> None:
    job_id = running.submit("hold on")
    running.gate.wait_for_a_task()

    cancelled = running.ask("POST", f"/task/{job_id}/cancel")
    result = running.result(job_id)

    assert cancelled.status == 200
    assert cancelled.json()["job_id"] == job_id
    assert result["status"] == "cancelled"
    assert running.ask("POST", f"/task/{job_id}/cancel").json()["status"] == "cancelled"
    assert running.ask("POST", "/task", {"description": "look", "skills": []}, Prefer="wait=30").status == 200


def test_health_counts_workers_and_jobs_and_needs_no_key(tmp_path: Path) -> None:
    with fleet(tmp_path, workers=2, key="fleet-key") as parts:
        job_id = parts.submit("look")
        parts.result(job_id)
        answer = ask(parts.port, "GET", "/health")

    assert answer.status == 200
    body = answer.json()
    assert (body["status"], body["role"], body["version"]) == ("healthy", "master", __version__)
    assert body["workers"]["total"] == 2
    assert body["jobs"]["completed"] == 1


def test_every_other_route_requires_the_key(tmp_path: Path) -> None:
    with fleet(tmp_path, workers=0, key="fleet-key") as parts:
        paths = ["/task/x", "/tasks", "/workers", "/metrics", "/dashboard", "/dashboard/data", "/v1/models"]
        statuses = {path: ask(parts.port, "GET", path).status for path in paths}
        posts = {path: ask(parts.port, "POST", path, {}).status for path in ("/task", "/dashboard/submit")}
        spec = ask(parts.port, "GET", "/openapi.json")

    assert statuses.pop("/dashboard") == 303  # to the login
    assert set(statuses.values()) == {401}
    assert set(posts.values()) == {401}
    assert spec.status == 200


def test_workers_are_listed_with_their_addresses_and_why_they_are_offline(tmp_path: Path) -> None:
    with ScriptedLLM() as gone:
        nobody = WorkerAddress("worker-9", "127.0.0.1", gone.port)
    with fleet(tmp_path, workers=1, more_workers=(nobody,)) as parts:
        parts.poll_workers()
        body = parts.ask("GET", "/workers").json()

    there, not_there = body["workers"]
    assert (body["total"], body["idle"], body["offline"]) == (2, 1, 1)
    assert there["url"] == f"http://127.0.0.1:{there['port']}"
    assert there["last_seen"] is not None
    assert not_there["url"] in not_there["error"]


def test_metrics_are_prometheus_text(running: Fleet) -> None:
    running.result(running.submit("look"))
    running.submit("hold on")
    running.gate.wait_for_a_task()

    answer = running.ask("GET", "/metrics")
    text = answer.body.decode()

    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'pibot_jobs{state="completed"} 1.0' in text
    assert 'pibot_workers{state="offline"} 0.0' in text
    assert 'pibot_subtasks{state="leased"} 1.0' in text
    assert 'pibot_tokens_total{kind="prompt"} 10.0' in text
    assert "pibot_llm_calls_total 1.0" in text
    assert f'pibot_build_info{{model="{model.MODEL}",version="{__version__}"}} 1.0' in text


def test_health_answers_while_the_waiting_room_is_full(running: Fleet) -> None:
    job_id = running.submit("hold on")
    running.gate.wait_for_a_task()
    answers: list[Answer] = []
    waiters = [
        threading.Thread(target=lambda: answers.append(running.ask("GET", f"/task/{job_id}/result", Prefer="wait=30")))
        for _ in range(WAITING_PLACES * 4)
    ]
    for waiter in waiters:
        waiter.start()

    assert running.ask("GET", "/health").status == 200
    running.gate.open()
    for waiter in waiters:
        waiter.join()
    # A request that found the waiting room full was answered at once, as RFC 7240 allows.
    assert {a.status for a in answers} <= {200, 202}
    assert sum(a.status == 200 for a in answers) >= 1


def test_without_a_model_a_job_with_skills_runs_and_another_says_what_to_set(tmp_path: Path) -> None:
    with ScriptedLLM() as llm:
        keyless = settings_for(tmp_path, llm).llm
    with fleet(tmp_path / "fleet", workers=1, llm=replace(keyless, api_key=None)) as parts:
        direct = parts.result(parts.submit("look"))
        planned = parts.ask("POST", "/task", {"description": "think"}, Prefer="wait=30").json()

    assert direct["status"] == "completed"
    assert planned["status"] == "failed"
    assert "VOLC_API_KEY" in planned["error"]


def test_a_stopping_hub_refuses_jobs_and_still_answers_questions(running: Fleet) -> None:
    job_id = running.submit("hold on")
    running.gate.wait_for_a_task()

    running.service.stop()
    refused = running.ask("POST", "/task", {"description": "look"})
    told = running.ask("GET", f"/task/{job_id}/result", Prefer="wait=30")

    assert refused.status == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert told.status == 202
    assert running.ask("GET", "/health").status == 200


def test_a_waiting_request_is_answered_when_the_hub_stops(running: Fleet) -> None:
    job_id = running.submit("hold on")
    running.gate.wait_for_a_task()
    answers: list[Answer] = []
    waiter = threading.Thread(
        target=lambda: answers.append(running.ask("GET", f"/task/{job_id}/result", Prefer="wait=60"))
    )
    waiter.start()

    running.service.stop()
    waiter.join(30)

    assert not waiter.is_alive()
    assert answers[0].status == 202


def test_jobs_continue_after_a_restart_of_the_hub(tmp_path: Path) -> None:
    with ScriptedLLM() as llm:
        settings = settings_for(tmp_path, llm)
        with hub(settings) as (_, port):  # without workers the job waits, or fails with the reason
            accepted = ask(port, "POST", "/task", {"description": "look", "skills": [], "job_id": "kept"})
        with hub(settings) as (_, port):
            found = ask(port, "GET", "/task/kept")

    assert accepted.status == 202
    assert found.json()["job"]["description"] == "look"
