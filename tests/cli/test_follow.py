"""Following a job, with a hub that gives the answers of a list."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pibot.cli.follow import changes, follow
from pibot.cli.hub_client import REFUSED, UNREACHABLE, HubClient, HubError
from pibot.contracts import JsonObject

GONE = HubError("no hub at …", UNREACHABLE)
RUNNING: JsonObject = {"status": "running", "plan": None, "subtasks": []}
RESULT = {"success": True, "status": "completed", "output": "done"}


class ScriptedHub:
    """Gives its answers one after the other, and raises those that are errors."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)

    def request(self, method: str, path: str, body: Any = None, *, wait: int = 0) -> tuple[int, JsonObject]:
        answer = self._answers.pop(0)
        if isinstance(answer, HubError):
            raise answer
        return (200, RESULT) if answer is RESULT else (202, cast(JsonObject, answer))

    def get(self, path: str, *, wait: int = 0) -> JsonObject:
        return {"job": RUNNING}


class Time:
    """A clock that advances only during pauses."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def watch(*answers: object) -> tuple[JsonObject, list[str]]:
    time, said = Time(), list[str]()
    hub = cast(HubClient, ScriptedHub(*answers))
    return follow(hub, "job-1", said.append, patience=30, clock=time, pause=time.pause), said


def test_an_unreachable_hub_is_tried_again_and_reported_once() -> None:
    result, said = watch(RUNNING, GONE, GONE, GONE, RUNNING, RESULT)
    assert result == RESULT
    assert len(said) == 1
    assert "does not answer" in said[0]


def test_following_ends_when_the_hub_stays_unreachable() -> None:
    with pytest.raises(HubError) as raised:
        watch(RUNNING, *[GONE] * 40)
    assert raised.value.exit_code == UNREACHABLE


def test_a_refused_request_is_not_repeated() -> None:
    with pytest.raises(HubError) as raised:
        watch(HubError("the hub requires its key", REFUSED), RESULT)
    assert raised.value.exit_code == REFUSED


def test_text_of_a_model_or_a_page_cannot_control_the_terminal() -> None:
    step: JsonObject = {
        "task_id": "step-1",
        "status": "completed",
        "worker_id": "worker-1",
        "attempts": [{}],
        "error": None,
        "output": "\x1b]0;owned\x07 fine",
    }
    (line,) = changes({"plan": None, "subtasks": [step]}, {})
    assert "\x1b" not in line
    assert "fine" in line


def test_each_lost_attempt_and_each_wait_of_a_step_is_shown_once() -> None:
    lost = {"number": 1, "worker_id": "worker-1", "error": "worker-1: no sign of life for 60 s"}
    step = {"task_id": "s", "status": "ready", "worker_id": "worker-1", "attempts": [lost], "error": None, "output": ""}
    waits = {"waiting_for": "worker-2 is set aside until 08:00:00 UTC (lost)", "waiting_for_kind": "unavailable"}
    job = {"plan": None, "subtasks": [{**step, **waits}]}
    seen: dict[str, str] = {}
    assert changes(job, seen) == [
        "  ! s attempt 1 was lost: worker-1: no sign of life for 60 s",
        "  · s waits: worker-2 is set aside until 08:00:00 UTC (lost)",
    ]
    assert changes(job, seen) == []
    for kind in ("all_busy", "next"):
        job["subtasks"] = [{**step, "waiting_for": "it is others' turn", "waiting_for_kind": kind}]
        assert changes(job, seen) == []


def test_a_call_that_waits_for_approval_is_shown_once_with_the_command_to_type() -> None:
    approval = {"approval_id": "a", "task_id": "s1", "tool": "shell_exec", "arguments": {"command": "ls"}}
    job: JsonObject = {
        "job_id": "job-1",
        "plan": None,
        "subtasks": [],
        "approvals": [{**approval, "status": "waiting"}],
    }
    seen: dict[str, str] = {}
    lines = changes(job, seen)
    assert "s1 waits for your approval of shell_exec: command: ls" in lines[0]
    assert lines[1].endswith("pibot approve job-1")
    assert changes(job, seen) == []
    assert changes({**job, "approvals": [{**approval, "status": "approved"}]}, {}) == []
