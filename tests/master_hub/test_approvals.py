"""Tool calls that wait for approval: over the hub's API, on its pages and with the pibot command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from pibot.contracts import Scope
from pibot.settings import AccessKey, Secret
from tests.support.fleet import Fleet, fleet
from tests.support.serving import Answer, ask

KEY = "the-fleets-own-key"
READER = "a-key-to-read-with"
SUBMITTER = "a-key-to-submit-with"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Fleet]:
    keys = tuple(
        AccessKey(scope.value, scope, Secret(key)) for scope, key in ((Scope.READ, READER), (Scope.SUBMIT, SUBMITTER))
    )
    with fleet(tmp_path, workers=1, key=KEY, keys=keys) as running:
        yield running


def test_a_waiting_tool_call_is_listed_with_its_job(running: Fleet) -> None:
    job_id = running.submit("ask rm -r old")
    approval = running.waiting_call(job_id)
    assert running.ask("GET", "/approvals").json() == {"success": True, "approvals": [approval]}
    assert approval["arguments"] == {"command": "rm -r old"}
    row = running.ask("GET", "/tasks").json()["tasks"][0]
    assert (row["status"], row["waiting_for_approval"], "approvals" in row) == ("running", True, False)
    assert running.ask("GET", f"/task/{job_id}/result").json()["waiting_for_approval"] is True
    assert "pibot_approvals_waiting 1.0" in running.ask("GET", "/metrics").body.decode()
    answer = running.ask(
        "POST", f"/approvals/{approval['approval_id']}", {"digest": approval["digest"], "approved": True}
    )
    assert (answer.status, answer.json()["approval"]["status"]) == (200, "approved")
    assert running.result(job_id)["output"] == "approved"
    assert running.ask("GET", "/approvals").json()["approvals"] == []
    assert running.ask("GET", "/tasks").json()["tasks"][0]["waiting_for_approval"] is False
    exported = running.ask("GET", f"/task/{job_id}/export").json()["job"]["approvals"]
    assert [(a["status"], a["decided_by"]) for a in exported] == [("approved", "owner")]


@pytest.mark.parametrize("key", [READER, SUBMITTER, "wrong", None])
def test_only_a_key_with_the_scope_admin_decides(running: Fleet, key: str | None) -> None:
    job_id = running.submit("ask rm -r old")
    approval = running.waiting_call(job_id)
    body = {"digest": approval["digest"], "approved": True}
    answer = ask(running.port, "POST", f"/approvals/{approval['approval_id']}", body, key=key)
    assert answer.status == (403 if key in (READER, SUBMITTER) else 401)
    form = {"approval_id": approval["approval_id"], "digest": approval["digest"], "approved": "yes"}
    page = running.ask("GET", "/dashboard").body.decode()
    token = re.findall(r'name="token" value="([\w-]+)"', page)[0]
    assert ask(
        running.port, "POST", "/dashboard/approve", _form({**form, "token": token}), key=key, headers=FORM
    ).status in (
        401,
        403,
    )
    assert running.waiting_call(job_id)["approval_id"] == approval["approval_id"]


FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}


def _form(fields: dict[str, str]) -> bytes:
    return urlencode(fields).encode()


def send(running: Fleet, **fields: str) -> Answer:
    return ask(running.port, "POST", "/dashboard/approve", _form(fields), key=KEY, headers=FORM)


def test_the_pages_show_the_complete_tool_call_and_their_buttons_decide_it(running: Fleet) -> None:
    job_id = running.submit("ask echo '<b>' && rm -r old")
    approval = running.waiting_call(job_id)
    for path in ("/dashboard", f"/dashboard/jobs/{job_id}"):
        page = running.ask("GET", path).body.decode()
        assert "command: echo &#39;&lt;b&gt;&#39; &amp;&amp; rm -r old" in page
        assert f'name="digest" data-value="digest" value="{approval["digest"]}"' in page
        assert "needs approval" in page
    assert "1 tool call waits for your approval" in running.ask("GET", "/dashboard").body.decode()
    token = re.findall(r'name="token" value="([\w-]+)"', running.ask("GET", "/dashboard").body.decode())[0]
    good = {"token": token, "approval_id": approval["approval_id"], "digest": approval["digest"], "approved": "no"}
    assert send(running, **{**good, "token": "x"}).status == 403
    assert send(running, **{**good, "digest": "0" * 64}).status == 409
    assert send(running, **{**good, "approved": ""}).status == 400
    assert send(running, **{**good, "approval_id": "none"}).status == 404
    answer = send(running, **good, reason="not today")
    assert (answer.status, answer.json()["href"]) == (200, f"/dashboard/jobs/{job_id}")
    assert running.result(job_id)["output"] == "refused: not today"
    page = running.ask("GET", f"/dashboard/jobs/{job_id}").body.decode()
    assert "shell_exec refused by owner: not today" in page
    assert send(running, **{**good, "approved": "yes"}).status == 409


def test_a_tool_call_of_a_cancelled_job_no_longer_waits(running: Fleet) -> None:
    job_id = running.submit("ask rm -r old")
    approval = running.waiting_call(job_id)
    running.ask("POST", f"/task/{job_id}/cancel")
    body = {"digest": approval["digest"], "approved": True}
    late = running.ask("POST", f"/approvals/{approval['approval_id']}", body)
    assert (late.status, "does not wait any more" in late.json()["error"]) == (410, True)


def test_the_command_says_that_a_job_waits_and_what_to_type(running: Fleet) -> None:
    job_id = running.submit("ask rm -r old")
    running.waiting_call(job_id)
    assert f"waits    for your approval: pibot approve {job_id}" in running.pibot("status").stdout
    assert "approve?" in running.pibot("jobs").stdout
    shown = running.pibot("job", job_id).stdout
    assert "step-1 waits for your approval of shell_exec: command: rm -r old" in shown
    assert f"pibot approve {job_id}" in shown
    refused = running.pibot("approve", job_id, "--refuse", "--reason", "no", stdin="y\n")
    assert "Refuse it? [y/N]" in refused.stdout
    assert running.result(job_id)["output"] == "refused: no"


def test_the_command_shows_all_of_a_tool_call_and_approves_what_it_showed(running: Fleet) -> None:
    job_id = running.submit("ask rm -r old \x1b[2K\rls \u202e#")
    running.waiting_call(job_id)
    done = running.pibot("approve", job_id, "--yes")
    assert "    command: rm -r old \\u{1b}[2K\\u{d}ls \\u{202e}#\n" in done.stdout
    assert running.result(job_id)["output"] == "approved"
    assert "is completed" in running.pibot("approve", job_id).stderr
