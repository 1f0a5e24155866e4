"""Logging in and out, the scope of a session, and the limits on wrong keys and on jobs; over HTTP."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from bs4 import BeautifulSoup

from pibot.contracts import Scope
from pibot.master_hub.access import local
from pibot.settings import AccessKey, Secret
from pibot.web.sessions import MAX_SESSIONS
from tests.support.fleet import Fleet, fleet
from tests.support.serving import Answer, ask

OWNER, TOKEN = "owner-key-0123456789", "token-0123456789"
READER, SENDER = "reader-key-0123456789", "sender-key-0123456789"
KEYS = (AccessKey("wall", Scope.READ, Secret(READER)), AccessKey("phone", Scope.SUBMIT, Secret(SENDER)))
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
COOKIE = re.compile(r"pibot_session=([\w-]{43}); ")


def locked(path: Path) -> AbstractContextManager[Fleet]:
    return fleet(path, workers=0, key=OWNER, keys=KEYS, worker_tokens={"attic": Secret(TOKEN)})


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Fleet]:
    with locked(tmp_path) as parts:
        yield parts


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One hub for tests that neither send a wrong key nor read its jobs."""
    with locked(tmp_path_factory.mktemp("shared")) as parts:
        yield parts


class Browser:
    """A client that keeps its cookie and follows no redirect."""

    def __init__(self, parts: Fleet, cookie: str = "") -> None:
        self._port = parts.port
        self.cookie = cookie

    def get(self, path: str, **headers: str) -> Answer:
        return ask(self._port, "GET", path, headers={"Accept": "text/html", **self._cookie(), **headers})

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> Answer:
        sent = {**FORM, **self._cookie(), **(headers or {})}
        return ask(self._port, "POST", path, urlencode(fields).encode(), headers=sent)

    def log_in(self, key: str, next_: str = "/dashboard") -> Answer:
        answer = self.post("/login", key=key, next=next_)
        found = COOKIE.match(answer.headers.get("Set-Cookie", ""))
        if found:
            self.cookie = found[1]
        return answer

    def token(self, path: str = "/dashboard") -> str:
        html = BeautifulSoup(self.get(path).body, "html.parser")
        return str(html.select_one(".log-out input[name=token]")["value"])  # type: ignore[index]

    def _cookie(self) -> dict[str, str]:
        return {"Cookie": f"pibot_session={self.cookie}"} if self.cookie else {}


@pytest.fixture
def owner(parts: Fleet) -> Browser:
    browser = Browser(parts)
    assert browser.log_in(OWNER).status == 303
    return browser


def jobs(parts: Fleet) -> int:
    return len(parts.ask("GET", "/tasks").json()["tasks"])


# --- in ---


@pytest.mark.parametrize("path", ["/", "/dashboard", "/dashboard/jobs/x", "/tasks?status=queued"])
def test_a_browser_without_a_session_is_led_to_the_login_and_back(shared: Fleet, path: str) -> None:
    browser = Browser(shared)
    led = browser.get(path)
    assert (led.status, led.body) == (303, b"")
    page = BeautifulSoup(browser.get(led.headers["Location"]).body, "html.parser")
    wanted = str(page.select_one("input[name=next]")["value"])  # type: ignore[index]
    assert wanted == path
    assert browser.log_in(OWNER, wanted).headers["Location"] == path
    assert browser.get(path).status != 401


@pytest.mark.parametrize("path", ["/dashboard/data", "/dashboard/jobs/x/data"])
def test_data_is_refused_as_json_for_the_pages_script(shared: Fleet, path: str) -> None:
    refused = Browser(shared).get(path, Accept="application/json")
    assert (refused.status, refused.json()["success"]) == (401, False)


def test_a_program_gets_a_401_and_no_page(parts: Fleet) -> None:
    assert ask(parts.port, "GET", "/tasks").status == 401
    assert ask(parts.port, "GET", "/dashboard", key="wrong").status == 401
    assert ask(parts.port, "POST", "/dashboard/submit", b"").status == 401


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(shared: Fleet) -> None:
    cookie = Browser(shared).log_in(OWNER).headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=604800"} <= set(cookie.split("; "))
    assert "Secure" not in cookie  # browsers would not send it over plain HTTP


def test_the_cookie_over_tls_is_bound_to_this_very_host(shared: Fleet) -> None:
    from pibot.master_hub import create_hub_app

    client = create_hub_app(shared.service, shared.service.settings).test_client()
    answer = client.post("/login", base_url="https://pi.local", data={"key": OWNER})
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-pibot=")
    assert {"HttpOnly", "Secure", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    assert client.get("/dashboard", base_url="https://pi.local").status_code == 200


@pytest.mark.parametrize("key", ["", "wrong", TOKEN, "\udcff", "x" * 100_000])
def test_only_a_persons_key_logs_in(parts: Fleet, key: str) -> None:
    refused = ask(parts.port, "POST", "/login", b"key=" + key.encode("utf-8", "surrogateescape"), headers=FORM)
    assert refused.status == 403
    assert "Set-Cookie" not in refused.headers
    alert = BeautifulSoup(refused.body, "html.parser").select_one("[role=alert]")
    assert alert is not None
    assert "not valid for this dashboard" in alert.get_text()
    assert not key or key.encode("utf-8", "replace") not in refused.body


def test_the_login_page_needs_nothing_that_requires_a_session(shared: Fleet) -> None:
    page = BeautifulSoup(Browser(shared).get("/login").body, "html.parser")
    links = {str(tag.get("href") or tag.get("src")) for tag in page.find_all(["link", "script", "img"])}
    assert links
    assert all(Browser(shared).get(link).status == 200 for link in links)
    assert not page.find_all("style")
    assert not page.select("[style], [onclick], script:not([src])")


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "\\\\evil.example",
        "/\t/evil.example",
        "/x\r\nSet-Cookie: a=b",
        "javascript:alert(1)",
        "dashboard",
        "/login?next=/login",
        "",
        "/ü",
        "/" + "x" * 600,
    ],
)
def test_the_way_back_never_leads_to_another_site(shared: Fleet, path: str) -> None:
    answer = Browser(shared).log_in(OWNER, path)
    assert answer.headers["Location"] == "/dashboard"
    assert local(path) == "/dashboard"


def test_a_page_of_another_site_can_not_log_a_browser_in(shared: Fleet) -> None:
    refused = Browser(shared).post("/login", {"Origin": "https://evil.example"}, key=OWNER)
    assert (refused.status, "Set-Cookie" in refused.headers) == (403, False)


def test_a_logged_in_browser_does_not_see_the_login(owner: Browser) -> None:
    led = owner.get("/login?next=/dashboard/jobs/x")
    assert (led.status, led.headers["Location"]) == (303, "/dashboard/jobs/x")


def test_a_second_log_in_of_the_browser_ends_the_first(parts: Fleet, owner: Browser) -> None:
    first = owner.cookie
    owner.log_in(OWNER)
    assert owner.cookie != first
    assert Browser(parts, first).get("/dashboard").status == 303


def test_without_a_key_nobody_has_to_log_in(tmp_path: Path) -> None:
    with fleet(tmp_path, workers=0) as parts:
        browser = Browser(parts)
        assert browser.get("/login").headers["Location"] == "/dashboard"
        assert browser.post("/login", key="x").headers["Location"] == "/dashboard"
        assert browser.post("/logout").headers["Location"] == "/dashboard"
        page = browser.get("/dashboard").body
    assert b"New job" in page
    assert b"Log out" not in page


# --- the scope of a session ---


def test_a_session_submits_and_cancels_with_its_token_and_not_without(tmp_path: Path) -> None:
    fields: Any = {"description": "hold on", "skills": "shell_exec"}
    with fleet(tmp_path, workers=1, key=OWNER) as parts:
        owner, other = Browser(parts), Browser(parts)
        owner.log_in(OWNER)
        other.log_in(OWNER)
        token = owner.token()
        assert owner.post("/dashboard/submit", **fields).status == 403
        for wrong in ("", "x", other.token()):
            assert owner.post("/dashboard/submit", **fields, token=wrong).status == 403
        assert jobs(parts) == 0
        taken = owner.post("/dashboard/submit", **fields, token=token)
        assert taken.status == 303
        job_id = taken.headers["Location"].rpartition("/")[2]
        parts.gate.wait_for_a_task()
        assert owner.post("/dashboard/cancel", job_id=job_id).status == 403
        assert owner.post("/dashboard/cancel", job_id=job_id, token=token).status == 303
        assert parts.result(job_id)["status"] == "cancelled"


def test_the_api_accepts_a_session_for_reading_and_requires_its_token_for_changes(parts: Fleet, owner: Browser) -> None:
    assert owner.get("/tasks").status == 200
    body = b'{"description": "look", "skills": []}'
    cookie = {"Cookie": f"pibot_session={owner.cookie}"}
    assert ask(parts.port, "POST", "/task", body, headers=cookie).status == 403
    assert ask(parts.port, "POST", "/task", body, headers={**cookie, "X-Form-Token": "x"}).status == 403
    assert ask(parts.port, "POST", "/task", body, headers={**cookie, "X-Form-Token": "\xff"}).status == 403
    assert jobs(parts) == 0
    assert ask(parts.port, "POST", "/task", body, headers={**cookie, "X-Form-Token": owner.token()}).status == 202


def test_a_key_with_scope_read_gets_no_form_and_can_submit_none(shared: Fleet) -> None:
    browser = Browser(shared)
    browser.log_in(READER)
    page = BeautifulSoup(browser.get("/dashboard").body, "html.parser")
    assert [form["action"] for form in page.find_all("form")] == ["/logout"]
    refused = browser.post("/dashboard/submit", description="look", token=browser.token())
    assert refused.status == 403
    assert "submit" in refused.json()["error"]


@pytest.mark.parametrize(
    ("key", "forms"),
    [
        (READER, {"/logout"}),
        (SENDER, {"/logout", "/dashboard/submit"}),
        (OWNER, {"/logout", "/dashboard/submit", "/dashboard/approve"}),
    ],
    ids=["read", "submit", "admin"],
)
def test_a_page_has_the_forms_that_its_keys_scope_allows(shared: Fleet, key: str, forms: set[str]) -> None:
    browser = Browser(shared)
    browser.log_in(key)
    page = BeautifulSoup(browser.get("/dashboard").body, "html.parser")
    assert {form["action"] for form in page.find_all("form")} == forms
    if "/dashboard/approve" not in forms:
        refused = browser.post("/dashboard/approve", approval_id="x", digest="y", approved="yes", token=browser.token())
        assert refused.status == 403
        assert "admin" in refused.json()["error"]


def test_a_key_takes_precedence_over_a_cookie(parts: Fleet, owner: Browser) -> None:
    assert owner.get("/tasks", Authorization="Bearer wrong").status == 401
    assert owner.get("/tasks", Authorization="Basic eDp5").status == 401
    assert owner.get("/tasks", Authorization="").status == 401


@pytest.mark.parametrize("cookie", ["x", "\xff", "a; pibot_session=b", '"', "x" * 40_000, "=;=;;;"])
def test_an_invalid_cookie_leads_to_the_login(shared: Fleet, cookie: str) -> None:
    assert Browser(shared, cookie).get("/dashboard").status == 303


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/data", "/login", "/tasks", "/nowhere", "/task/x"])
def test_a_browser_may_not_cache_frame_or_sniff_any_answer(shared: Fleet, path: str) -> None:
    owner = Browser(shared)
    owner.log_in(OWNER)
    headers = owner.get(path).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]


# --- out ---


def test_a_log_out_ends_the_session_for_a_copied_cookie_too(parts: Fleet, owner: Browser) -> None:
    token = owner.token()
    assert owner.post("/logout").status == 403
    assert owner.get("/dashboard").status == 200
    out = owner.post("/logout", token=token)
    assert (out.status, out.headers["Location"]) == (303, "/login")
    assert "Max-Age=0" in out.headers["Set-Cookie"]
    assert owner.get("/dashboard").status == 303
    assert owner.post("/dashboard/submit", description="look", token=token).status == 401
    assert owner.post("/logout", token=token).headers["Location"] == "/login"
    assert jobs(parts) == 0


def test_a_session_survives_a_restart_but_not_a_change_of_the_fleets_key(tmp_path: Path) -> None:
    with fleet(tmp_path, workers=0, key=OWNER) as parts:
        browser = Browser(parts)
        browser.log_in(OWNER)
    with fleet(tmp_path, workers=0, key=OWNER) as parts:
        assert Browser(parts, browser.cookie).get("/dashboard").status == 200
    with fleet(tmp_path, workers=0, key="another-key-0123456789") as parts:
        assert Browser(parts, browser.cookie).get("/dashboard").status == 303


# --- guessing ---


def test_after_ten_wrong_keys_no_key_from_that_address_is_checked_for_a_while(
    parts: Fleet, owner: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    guesses = [f"guess-{number}" for number in range(5)]
    with caplog.at_level(logging.WARNING):
        for guess in guesses:
            assert ask(parts.port, "GET", "/tasks", key=guess).status == 401
            assert Browser(parts).log_in(guess).status == 403
        blocked = ask(parts.port, "GET", "/tasks", key=OWNER)
        form = Browser(parts).log_in(OWNER)
    assert (blocked.status, form.status) == (429, 429)
    assert 1 <= int(blocked.headers["Retry-After"]) <= 6
    assert 1 <= int(form.headers["Retry-After"]) <= 6
    assert "Set-Cookie" not in form.headers
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("auth_")]
    assert sum(line.startswith("auth_failed address=127.0.0.1 ") for line in lines) == 10
    assert sum(line.startswith("auth_blocked address=127.0.0.1 ") for line in lines) == 1
    assert not any("guess-" in line for line in lines)
    assert owner.get("/dashboard").status == 200  # a session is not a guess
    assert ask(parts.port, "GET", "/health").status == 200


def test_a_request_without_a_key_is_not_a_guess(parts: Fleet) -> None:
    for _ in range(12):
        assert ask(parts.port, "GET", "/tasks").status == 401
        assert Browser(parts, "no session").get("/dashboard").status == 303
    assert ask(parts.port, "GET", "/tasks", key=OWNER).status == 200


# --- submitting ---


def test_a_caller_that_submits_too_often_is_told_when_to_continue(tmp_path: Path) -> None:
    with fleet(tmp_path, workers=0, key=OWNER, keys=KEYS, submit_per_minute=3) as parts:
        browser = Browser(parts)
        browser.log_in(OWNER)
        body = {"description": "look", "skills": []}
        statuses = [parts.ask("POST", "/task", body).status for _ in range(4)]
        refused = browser.post("/dashboard/submit", description="look", token=browser.token())
        told = parts.ask("POST", "/task", body)
        there = jobs(parts)
    assert statuses == [202, 202, 202, 429]
    assert there == 3
    assert refused.status == 429
    assert 1 <= int(told.headers["Retry-After"]) <= 20
    assert "PIBOT_SUBMIT_PER_MINUTE" in told.json()["error"]


def test_a_key_that_only_reads_ends_no_session_of_the_owners_however_often_it_logs_in(
    parts: Fleet, owner: Browser
) -> None:
    """Without a count for each key this attack ends them: see ``tests/web/test_sessions.py`` for the key's own."""
    for _ in range(MAX_SESSIONS + 5):
        assert Browser(parts).log_in(READER).status == 303
    assert owner.get("/dashboard").status == 200


def test_a_limit_of_0_is_no_limit(tmp_path: Path) -> None:
    with fleet(tmp_path, workers=0, submit_per_minute=0) as parts:
        body = {"description": "look", "skills": []}
        assert {parts.ask("POST", "/task", body).status for _ in range(20)} == {202}
