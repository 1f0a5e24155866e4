"""The dashboard's pages and forms over HTTP; test_in_browser.py has them in a browser."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from bs4 import BeautifulSoup

from pibot.contracts import WorkerAddress
from pibot.master_hub.pages.routes import _etag
from tests.support import scripted_llm as model
from tests.support.fleet import Fleet, fleet, plan, step
from tests.support.scripted_llm import ScriptedLLM
from tests.support.serving import Answer, ask

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path) as parts:
        yield parts


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One fleet for tests that read only their own jobs."""
    with fleet(tmp_path_factory.mktemp("shared")) as parts:
        yield parts


def jobs_of(parts: Fleet) -> list[str]:
    return [job["job_id"] for job in parts.ask("GET", "/tasks").json()["tasks"]]


def page(parts: Fleet, path: str = "/dashboard") -> BeautifulSoup:
    answer = parts.ask("GET", path)
    assert answer.status == 200, answer.body
    return BeautifulSoup(answer.body, "html.parser")


def token_of(parts: Fleet) -> str:
    return str(parts.ask("GET", "/dashboard/data").json()["token"])


def send_form(parts: Fleet, path: str, *, headers: dict[str, str] | None = None, **fields: object) -> Answer:
    body = urlencode(fields, doseq=True).encode()
    sent = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
    return ask(parts.port, "POST", path, body, headers=sent)


def test_it_is_readable_without_javascript(running: Fleet) -> None:
    job_id = running.submit("look at the sky")
    running.result(job_id)

    html = page(running)
    text = html.get_text(" ", strip=True)

    for wanted in ("Worker-1 status", "Worker-2 status", "Active tasks", "Recent activity", "look at the sky"):
        assert wanted in text
    assert model.MODEL in text
    assert html.select_one(f'a[href="/dashboard/jobs/{job_id}"]')
    assert "completed" in [pill.get_text() for pill in html.select("ul[data-list=jobs] > li .pill")]


def test_an_empty_fleet_says_what_to_do(tmp_path: Path) -> None:
    with fleet(tmp_path, workers=0) as parts:
        text = page(parts).get_text(" ", strip=True)

    assert "WORKER_1_IP" in text
    assert "pibot run" in text


def test_a_jobs_page_shows_its_plan_the_worker_of_each_step_and_the_answer(shared: Fleet) -> None:
    shared.llm.enqueue(plan(step("s1", "look here"), step("s2", "tell of it", "s1")), model.text("It is fine."))
    answer = shared.ask("POST", "/task", {"description": "look and tell"}, Prefer="wait=30").json()

    html = page(shared, f"/dashboard/jobs/{answer['job_id']}")
    steps = [item.get_text(" ", strip=True) for item in html.select("ol[data-list=steps] > li")]

    assert "It is fine." in html.get_text()
    assert len(steps) == 2
    assert "look here" in steps[0]
    assert "on worker-" in steps[0]
    assert "after s1" in steps[1]
    assert "It has parts." in html.get_text()


def test_a_jobs_page_shows_what_the_model_thought_as_visible_text_and_only_where_there_is_some(shared: Fleet) -> None:
    thinking, plain = shared.submit(f"think {HOSTILE}\u202e\u200b"), shared.submit("look here")
    for job_id in (thinking, plain):
        shared.result(job_id)

    answer = shared.ask("GET", f"/dashboard/jobs/{thinking}")
    (shown,) = BeautifulSoup(answer.body, "html.parser").select("ol[data-list=steps] > li [data-show=reasoning]")
    (hidden,) = page(shared, f"/dashboard/jobs/{plain}").select("ol[data-list=steps] > li [data-show=reasoning]")

    assert b"<script>alert" not in answer.body
    assert not shown.has_attr("hidden")
    assert shown.get_text("|", strip=True) == f"What the model thought|{HOSTILE}\\u{{202e}}\\u{{200b}}"
    assert hidden.has_attr("hidden")


def test_a_failed_jobs_page_says_why(shared: Fleet) -> None:
    job_id = shared.submit("fail at it")
    shared.result(job_id)

    html = page(shared, f"/dashboard/jobs/{job_id}")

    assert "it was told to fail" in html.select_one(".failed").get_text()  # type: ignore[union-attr]


def test_the_page_of_an_unknown_job_links_back_to_the_dashboard(shared: Fleet) -> None:
    answer = shared.ask("GET", "/dashboard/jobs/none", Accept="text/html")

    assert answer.status == 404
    assert b"Not found" in answer.body
    assert b'href="/dashboard"' in answer.body
    assert shared.ask("GET", "/dashboard/jobs/none/data").json()["success"] is False


def test_a_hostile_description_is_only_text_everywhere(shared: Fleet) -> None:
    job_id = shared.submit(f"fail {HOSTILE}")
    shared.result(job_id)

    for path in ("/dashboard", f"/dashboard/jobs/{job_id}"):
        answer = shared.ask("GET", path)
        html = BeautifulSoup(answer.body, "html.parser")
        assert b"<script>alert" not in answer.body
        assert b"<img src=x" not in answer.body
        assert HOSTILE in html.get_text()
        assert all(script.get("src") for script in html.find_all("script"))


@pytest.mark.parametrize("path", ["", "/data", "/static/dashboard.js", "/static/none", "/jobs/x"])
def test_every_answer_is_locked_down_by_its_headers(shared: Fleet, path: str) -> None:
    headers = shared.ask("GET", f"/dashboard{path}").headers

    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


def test_a_page_has_nothing_inline_loads_nothing_from_elsewhere_and_is_small(running: Fleet) -> None:
    answer = running.ask("GET", "/dashboard")
    html = BeautifulSoup(answer.body, "html.parser")
    links = [str(tag.get("href") or tag.get("src")) for tag in html.find_all(["link", "script", "img"])]
    total = len(answer.body) + sum(len(running.ask("GET", link).body) for link in set(links))

    assert all(link.startswith("/dashboard/static/") for link in links)
    assert not html.find_all("style")
    assert not [
        tag for tag in html.find_all(True) if any(name.startswith("on") or name == "style" for name in tag.attrs)
    ]
    assert total < 30_000


def test_the_root_leads_to_the_dashboard(shared: Fleet) -> None:
    answer = shared.ask("GET", "/")

    assert answer.status == 302
    assert answer.headers["Location"] == "/dashboard"


def test_unchanged_data_is_a_304(running: Fleet) -> None:
    running.result(running.submit("look"))
    for _ in range(20):  # the data has this machine's memory and load, which may change between two requests
        first = running.ask("GET", "/dashboard/data")
        again = running.ask("GET", "/dashboard/data", If_None_Match=first.headers["ETag"])
        if again.status == 304:
            break
    running.result(running.submit("look again"))
    changed = running.ask("GET", "/dashboard/data", If_None_Match=first.headers["ETag"])

    assert (again.status, again.body) == (304, b"")
    assert changed.status == 200
    assert changed.json()["jobs"][0]["title"] == "look again"


def test_a_workers_reading_alone_does_not_change_the_etag() -> None:
    cool, warm = ({"workers": [{"id": "worker-1", "reading": reading}]} for reading in ("48 °C", "52 °C"))
    hot = {"workers": [{"id": "worker-1", "reading": "81 °C", "note": "no new task: hot: 81 °C"}]}
    assert _etag(cool) == _etag(warm) != _etag(hot)


def test_a_page_and_its_data_have_the_same_etag(running: Fleet) -> None:
    running.poll_workers()
    html = page(running)

    assert html.body is not None
    assert html.body["data-etag"] == running.ask("GET", "/dashboard/data").headers["ETag"]


def test_what_a_worker_does_is_shown_with_the_job(running: Fleet) -> None:
    job_id = running.submit("hold the door")
    running.gate.wait_for_a_task()

    data = running.ask("GET", "/dashboard/data").json()

    assert [(row["title"], row["href"]) for row in data["active"]] == [("hold the door", f"/dashboard/jobs/{job_id}")]
    busy = [row for row in data["workers"] if row["status"] == "busy"]
    assert [(row["id"], row["title"]) for row in busy] == [(data["active"][0]["worker"], "hold the door")]
    assert "1 busy" in data["summary"]


@pytest.mark.parametrize(
    ("changes", "tone", "words"),
    [
        ({"sandbox": "off"}, "warn", "PIBOT_SANDBOX=off"),
        ({"allow_open": True}, "warn", "PIBOT_API_KEY"),
    ],
)
def test_a_banner_says_what_is_wrong(tmp_path: Path, changes: dict[str, Any], tone: str, words: str) -> None:
    with fleet(tmp_path, workers=1, **changes) as parts:
        banners = parts.ask("GET", "/dashboard/data").json()["banners"]

    assert [row["tone"] for row in banners] == [tone]
    assert words in banners[0]["text"]


def test_banners_report_a_missing_model_and_a_fleet_that_is_offline(tmp_path: Path) -> None:
    with ScriptedLLM() as gone:
        nobody = WorkerAddress("worker-1", "127.0.0.1", gone.port)
    with fleet(tmp_path, workers=0, more_workers=(nobody,)) as parts:
        parts.poll_workers()
        data = parts.ask("GET", "/dashboard/data").json()
        keyless = replace(parts.service.settings.llm, api_key=None)
    with fleet(tmp_path / "b", workers=1, llm=keyless) as parts:
        without_model = parts.ask("GET", "/dashboard/data").json()

    assert "Every worker is offline" in data["banners"][0]["text"]
    assert data["workers"][0]["error"]
    assert "VOLC_API_KEY" in without_model["banners"][0]["text"]
    assert without_model["model"] == "none"


# --- the forms ---


def test_a_form_with_the_pages_token_submits_a_job(shared: Fleet) -> None:
    answer = send_form(shared, "/dashboard/submit", token=token_of(shared), description="look", skills=["shell_exec"])

    assert answer.status == 303
    job_id = answer.headers["Location"].rpartition("/")[2]
    assert shared.result(job_id)["output"] == "did: look"
    assert shared.ask("GET", f"/task/{job_id}").json()["job"]["subtasks"][0]["skills"] == ["shell_exec"]


def test_a_form_without_skills_is_planned(shared: Fleet) -> None:
    shared.llm.enqueue(plan(step("s1", "look here")))

    answer = send_form(shared, "/dashboard/submit", token=token_of(shared), description="look")

    assert shared.result(answer.headers["Location"].rpartition("/")[2])["output"] == "did: look here"


def test_dashboard_js_gets_its_answer_as_json(shared: Fleet) -> None:
    accept = {"Accept": "application/json"}

    taken = send_form(
        shared, "/dashboard/submit", headers=accept, token=token_of(shared), description="l", skills="web_fetch"
    )
    refused = send_form(shared, "/dashboard/submit", headers=accept, token=token_of(shared), description=" ")

    assert taken.status == 200
    assert taken.json()["href"].startswith("/dashboard/jobs/")
    assert refused.status == 400
    assert "description" in refused.json()["error"]


def test_a_form_can_cancel_a_job(running: Fleet) -> None:
    job_id = running.submit("hold on")
    running.gate.wait_for_a_task()

    answer = send_form(running, "/dashboard/cancel", token=token_of(running), job_id=job_id)

    assert answer.status == 303
    assert running.result(job_id)["status"] == "cancelled"


@pytest.mark.parametrize("path", ["/dashboard/submit", "/dashboard/cancel"])
@pytest.mark.parametrize("token", ["", "wrong", "\udcff", None])
def test_a_form_without_the_pages_token_does_nothing(shared: Fleet, path: str, token: str | None) -> None:
    fields: dict[str, Any] = {} if token is None else {"token": token.encode("utf-8", "surrogateescape")}
    before = jobs_of(shared)

    answer = send_form(shared, path, description="look", job_id="x", **fields)

    assert answer.status == 403
    assert jobs_of(shared) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_form_from_another_sites_page_does_nothing_even_with_the_token(
    shared: Fleet, headers: dict[str, str]
) -> None:
    before = jobs_of(shared)

    answer = send_form(shared, "/dashboard/submit", headers=headers, token=token_of(shared), description="look")

    assert answer.status == 403
    assert jobs_of(shared) == before


def test_a_form_needs_the_key_as_well_as_the_token(tmp_path: Path) -> None:
    with fleet(tmp_path, workers=1, key="fleet-key") as parts:
        token = token_of(parts)
        fields: dict[str, Any] = {"token": token, "description": "look", "skills": "shell_exec"}
        without = send_form(parts, "/dashboard/submit", **fields)
        wrong = send_form(parts, "/dashboard/submit", headers={"Authorization": "Bearer no"}, **fields)
        right = send_form(parts, "/dashboard/submit", headers={"Authorization": "Bearer fleet-key"}, **fields)

    assert (without.status, wrong.status, right.status) == (401, 401, 303)


def test_without_a_key_a_request_for_a_name_from_the_internet_is_refused(shared: Fleet) -> None:
    for host in ("evil.example", "evil.example:5000", "127.0.0.1.evil.example", "evil.local"):
        assert ask(shared.port, "GET", "/dashboard", headers={"Host": host}).status == 403
        assert ask(shared.port, "POST", "/task", {"description": "x"}, headers={"Host": host}).status == 403
    own = socket.gethostname()
    for host in ("127.0.0.1:1", "[::1]:5000", "localhost:5000", own, f"{own}.local:5000", "192.168.10.113:5000"):
        assert ask(shared.port, "GET", "/dashboard", headers={"Host": host}).status == 200


def test_the_data_is_plain_json(shared: Fleet) -> None:
    shared.result(shared.submit("look"))

    json.loads(shared.ask("GET", "/dashboard/data").body)
