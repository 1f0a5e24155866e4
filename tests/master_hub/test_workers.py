"""Workers that register, leave, are unfit and are drained, over the hub's API and on its dashboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pibot.contracts import NoWorkerKind, NoWorkerReason, WorkerAddress
from pibot.errors import StoreError
from pibot.master_components.dispatch.dispatcher import Dispatcher
from pibot.master_components.workers.pool import WorkerPool
from pibot.master_hub.membership import Roster
from pibot.settings import Settings
from pibot.worker.joining import Joining
from tests.master_hub.pages.test_dashboard import page
from tests.support.fleet import Fleet, fleet, hub, settings_for, worker
from tests.support.scripted_llm import ScriptedLLM
from tests.support.serving import ask
from tests.support.workers import closed_port, workers

KEY = "fleet-key"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path, workers=1, key=KEY) as parts:
        yield parts


def ids(parts: Fleet) -> list[str]:
    return [row["id"] for row in parts.ask("GET", "/workers").json()["workers"]]


def row(parts: Fleet, worker_id: str) -> dict[str, Any]:
    return next(row for row in parts.ask("GET", "/workers").json()["workers"] if row["id"] == worker_id)


# --- registering ---


def test_a_worker_that_registers_gets_tasks_and_is_shown(running: Fleet) -> None:
    with workers(1, Settings.load({"PIBOT_API_KEY": KEY})) as (new,):
        joined = {"worker_id": "attic", "url": new.address.url}
        running.ask("POST", "/workers/worker-1/drain")
        answer = running.ask("POST", "/workers", joined)
        assert (answer.status, answer.json()["status"]) == (200, "registered")
        assert running.result(running.submit("look"))["output"] == "look"  # as the new worker's agent does
        assert (row(running, "attic")["registered"], row(running, "worker-1")["registered"]) == (True, False)
        assert "attic" in page_text(running)
        assert running.ask("POST", "/workers", joined).status == 200  # as it does every minute
        assert ids(running) == ["worker-1", "attic"]


def test_registering_requires_the_key(running: Fleet) -> None:
    body = {"worker_id": "attic", "url": "http://127.0.0.1:9"}
    assert ask(running.port, "POST", "/workers", body).status == 401
    assert ask(running.port, "POST", "/workers", body, key="wrong").status == 401
    assert ids(running) == ["worker-1"]


def test_without_a_key_only_a_worker_of_this_machine_may_register(tmp_path: Path) -> None:
    with fleet(tmp_path, workers=0) as parts:
        refused = parts.ask("POST", "/workers", {"worker_id": "attic", "url": "http://192.0.2.1:5000"})
        assert refused.status == 403
        assert "PIBOT_API_KEY" in refused.json()["error"]
        assert parts.ask("POST", "/workers", {"worker_id": "attic", "url": "http://127.0.0.1:9"}).status == 200
        assert ids(parts) == ["attic"]


def test_a_second_worker_of_the_same_name_is_told_to_take_another(running: Fleet) -> None:
    there = row(running, "worker-1")["url"]
    answer = running.ask("POST", "/workers", {"worker_id": "worker-1", "url": "http://127.0.0.1:9"})
    assert answer.status == 409
    assert there in answer.json()["error"]
    assert "WORKER_ID" in answer.json()["error"]
    with workers(1, Settings.load({"PIBOT_API_KEY": KEY})) as (new,):
        assert running.ask("POST", "/workers", {"worker_id": "attic", "url": new.address.url}).status == 200
        assert running.ask("POST", "/workers", {"worker_id": "attic", "url": "http://127.0.0.1:9"}).status == 409


def test_a_worker_that_was_away_may_come_back_under_another_address(running: Fleet) -> None:
    with closed_port() as port:
        running.ask("POST", "/workers", {"worker_id": "attic", "url": f"http://127.0.0.1:{port}"})
        running.poll_workers()
        moved = {"worker_id": "attic", "url": f"http://127.0.0.2:{port}"}
        assert running.ask("POST", "/workers", moved).status == 200
        assert row(running, "attic")["ip"] == "127.0.0.2"


def test_the_number_of_registered_workers_is_limited(running: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pibot.master_hub.membership.MAX_REGISTERED", 1)
    body = {"url": "http://127.0.0.1:9"}
    assert running.ask("POST", "/workers", {"worker_id": "attic", **body}).status == 200
    refused = running.ask("POST", "/workers", {"worker_id": "cellar", **body})
    assert (refused.status, "DELETE /workers" in refused.json()["error"]) == (409, True)
    assert running.ask("POST", "/workers", {"worker_id": "attic", **body}).status == 200
    running.ask("DELETE", "/workers/attic")
    assert running.ask("POST", "/workers", {"worker_id": "cellar", **body}).status == 200


# --- leaving ---


def test_a_leaving_worker_finishes_its_task_and_is_removed(tmp_path: Path) -> None:
    with fleet(tmp_path, workers=1, key=KEY) as running:
        settings = running.service.settings
        with worker("attic", running.gate, settings) as address:
            running.ask("POST", "/workers/worker-1/drain")
            running.ask("POST", "/workers", {"worker_id": "attic", "url": address.url})
            job_id = running.submit("hold on")
            running.gate.wait_for_a_task()
            assert running.ask("DELETE", "/workers/attic").json()["status"] == "leaving"
            assert row(running, "attic")["draining"] is True
            running.gate.open()
            assert running.result(job_id)["success"]
            while "attic" in ids(running):
                pass
            assert running.ask("DELETE", "/workers/attic").status == 404


def test_drained_workers_and_those_that_joined_are_known_after_a_restart(tmp_path: Path) -> None:
    with ScriptedLLM() as llm:
        settings = settings_for(tmp_path, llm, workers=(WorkerAddress("worker-1", "127.0.0.1", 9),))
        with hub(settings) as (_, port):
            ask(port, "POST", "/workers", {"worker_id": "attic", "url": "http://127.0.0.1:10"})
            ask(port, "POST", "/workers", {"worker_id": "gone", "url": "http://127.0.0.1:11"})
            ask(port, "DELETE", "/workers/gone")
            ask(port, "POST", "/workers/worker-1/drain")
        with hub(settings) as (_, port):
            rows = ask(port, "GET", "/workers").json()["workers"]
            assert [(r["id"], r["draining"], r["registered"]) for r in rows] == [
                ("worker-1", True, False),
                ("attic", False, True),
            ]
            ask(port, "POST", "/workers/worker-1/undrain")
        with hub(settings) as (_, port):
            assert [r["draining"] for r in ask(port, "GET", "/workers").json()["workers"]] == [False, False]


def test_a_damaged_list_of_workers_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "workers.json"
    for text in ("{", "[]", '{"registered": [{}], "drained": []}'):
        path.write_text(text)
        with pytest.raises(StoreError, match=r"workers\.json can't be read .* register again"):
            Roster.load(path)


# --- a worker registers by itself ---


def joining(port: int, **changes: Any) -> Joining:
    settings = replace(Settings.load({"PIBOT_API_KEY": KEY, "WORKER_ID": "attic"}), **changes)
    return Joining(settings.replace(hub_url=f"http://127.0.0.1:{port}"), "0.0.0.0", 5077)


def test_a_worker_tells_the_hub_the_address_that_it_is_seen_from_and_that_it_leaves(running: Fleet) -> None:
    new = joining(running.port)
    new.start()
    while "attic" not in ids(running):
        pass
    assert row(running, "attic")["url"] == "http://127.0.0.1:5077"
    new.leave()
    assert ids(running) == ["worker-1"]


def test_a_worker_that_the_hub_refuses_logs_it_once_and_does_not_remove_another(
    running: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    new = joining(running.port, worker_id="worker-1")
    new.start()
    while "not_joined" not in caplog.text:
        pass
    new._join()
    new.leave()
    assert caplog.text.count("not_joined") == 1
    assert "set another WORKER_ID" in caplog.text
    assert KEY not in caplog.text
    assert row(running, "worker-1")["draining"] is False


def test_a_worker_runs_without_its_hub(caplog: pytest.LogCaptureFixture) -> None:
    with closed_port() as port:
        new = joining(port)
        new.start()
        while "not_joined" not in caplog.text:
            pass
        new.leave()


# --- what is shown ---


def page_text(parts: Fleet) -> str:
    return json.dumps(parts.ask("GET", "/dashboard/data").json()["workers"], ensure_ascii=False)


def test_an_unfit_worker_gets_no_task_and_the_dashboard_says_why(tmp_path: Path) -> None:
    with fleet(tmp_path, workers=1, min_memory_mb=10**6) as parts:  # more memory than this machine has
        parts.poll_workers()
        job_id = parts.submit("look")
        (step,) = parts.ask("GET", f"/task/{job_id}").json()["job"]["subtasks"]
        assert step["status"] == "ready"
        assert "worker-1 is short of memory" in step["waiting_for"]
        assert "short of memory" in page(parts).get_text()
        assert "waiting: worker-1 is short of memory" in page(parts, f"/dashboard/jobs/{job_id}").get_text()
        assert "Worker" not in parts.ask("GET", f"/task/{job_id}").json()["job"]["status"]
        metrics = parts.ask("GET", "/metrics").body.decode()
        assert 'pibot_worker_resting{worker="worker-1"} 1.0' in metrics
        assert 'pibot_worker_memory_available_bytes{worker="worker-1"}' in metrics
        assert "gets no task: short of memory" in json.dumps(parts.ask("GET", "/dashboard/data").json()["events"])
        assert parts.ask("POST", f"/task/{job_id}/cancel").json()["status"] == "cancelled"


def test_a_worker_without_its_sandbox_is_marked(tmp_path: Path) -> None:
    with (
        fleet(tmp_path, workers=0) as parts,
        worker("attic", parts.gate, parts.service.settings.replace(sandbox="off")) as address,
    ):
        parts.ask("POST", "/workers", {"worker_id": "attic", "url": address.url})
        parts.poll_workers()
        assert row(parts, "attic")["sandbox"] == "off"
        assert "without the sandbox" in page(parts).get_text()
        assert "PIBOT_SANDBOX=off (attic)" in page(parts).get_text()


def test_a_job_whose_skill_no_worker_has_says_so(tmp_path: Path) -> None:
    with fleet(tmp_path, workers=0) as parts, workers(1) as (other,):  # it has the product's skills
        (tmp_path / "skills" / "telepathy").mkdir()
        for name in ("SKILL.md", "tools.py"):
            text = (tmp_path / "skills" / "shell_exec" / name).read_text().replace("shell_exec", "telepathy")
            (tmp_path / "skills" / "telepathy" / name).write_text(text)
        parts.ask("POST", "/workers", {"worker_id": "attic", "url": other.address.url})
        parts.poll_workers()
        job_id = parts.submit("think", skills=["telepathy"])
        (step,) = parts.ask("GET", f"/task/{job_id}").json()["job"]["subtasks"]
        assert step["waiting_for"] == "no worker has the skill 'telepathy'"


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (NoWorkerKind.NONE_KNOWN, NoWorkerKind.NONE_KNOWN),
        (NoWorkerKind.NO_SKILL, NoWorkerKind.NO_SKILL),
        (NoWorkerKind.ALL_BUSY, NoWorkerKind.MODEL_AWAY),
    ],
)
def test_what_the_models_return_would_not_cure_is_told_before_its_outage(
    running: Fleet, monkeypatch: pytest.MonkeyPatch, kind: NoWorkerKind, shown: NoWorkerKind
) -> None:
    away = NoWorkerReason(NoWorkerKind.MODEL_AWAY, "for the model")
    monkeypatch.setattr(Dispatcher, "waits_for_model", away)
    monkeypatch.setattr(WorkerPool, "why_none", lambda pool, skills=(): NoWorkerReason(kind, "no worker"))
    assert running.service.jobs.why_waits().kind is shown


def test_an_unknown_worker_can_not_be_drained(running: Fleet) -> None:
    for method, path in (("POST", "/workers/x/drain"), ("POST", "/workers/x/undrain"), ("DELETE", "/workers/x")):
        answer = running.ask(method, path)
        assert (answer.status, answer.json()["error"]) == (404, "no worker 'x'; there are: worker-1")
