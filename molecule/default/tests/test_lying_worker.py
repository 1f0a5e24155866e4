"""A worker that was taken over lies to the master under the real units. The master stays small, and no job is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from conftest import Lab

testinfra_hosts = ["pibot-master"]

LIAR = "worker-3"
HONEST = ("worker-1", "worker-2")
SERVER = Path(__file__).with_name("lying_server.py")
UNITS = "pibot-worker pibot-sandbox.socket pibot-sandbox.service"
MOST_MORE_KB = 30 * 1024
"""Memory that the lies may cost the master at their worst."""


@pytest.fixture
def liar(lab: Lab, healthy: Callable[[str], Any]) -> Iterator[None]:
    """Put the lying server in the place of a worker. Afterwards the worker is back and has completed a job."""
    run = "sudo systemd-run --quiet --unit lab-liar -p Type=forking -p User=pi python3 /tmp/lying_server.py"
    try:
        lab.shell(LIAR, f"cat >/tmp/lying_server.py && sudo systemctl stop {UNITS} && {run}", SERVER.read_text())
        yield
    finally:
        lab.shell(LIAR, "sudo systemctl stop lab-liar; rm /tmp/lying_server.py; sudo systemctl start pibot-worker")
        healthy(LIAR)
    # A result also makes the master forget the tasks that the worker has lost.
    drain(lab, *HONEST)
    try:
        assert outcome(lab, submit(lab))["attempts"][-1]["worker_id"] == LIAR
    finally:
        undrain(lab, *HONEST)


def drain(lab: Lab, *names: str, again: str = "") -> None:
    """Give these workers no new task."""
    for name in names:
        assert lab.ask("pibot-master", f"/workers/{name}/{again}drain", {}, key=lab.key).status == 200


def undrain(lab: Lab, *names: str) -> None:
    """Give these workers tasks again."""
    drain(lab, *names, again="un")


def submit(lab: Lab) -> str:
    body = {"description": "List files in home directory", "skills": ["shell_exec"]}
    answer = lab.ask("pibot-master", "/task", body, key=lab.key)
    assert answer.status == 202, answer
    return str(answer.body["job_id"])


def outcome(lab: Lab, job: str) -> Any:
    """Wait until the job has completed and return its only step."""
    result = lab.ask("pibot-master", f"/task/{job}/result", key=lab.key, wait=60)
    assert (result.status, result.body["status"]) == (200, "completed"), result
    (step,) = lab.ask("pibot-master", f"/task/{job}", key=lab.key).body["job"]["subtasks"]
    return step


def lies_told(lab: Lab, number: int) -> int:
    """Wait until the liar has told so many lies, and return how many it has told."""
    printed = lab.shell(LIAR, f"curl -sS --max-time 60 http://127.0.0.1:5000/told?number={number}")
    return len(json.loads(printed))


def process(on: Callable[[str], Host]) -> tuple[str, str]:
    """Return the process of the master's unit, and how often systemd has restarted it."""
    properties = on("pibot-master").service("pibot-master").systemd_properties
    return properties["MainPID"], properties["NRestarts"]


def peak_kb(on: Callable[[str], Host], pid: str) -> int:
    """Return the most memory that a process of the master's host has had."""
    return int(on("pibot-master").check_output(f"sudo grep ^VmHWM: /proc/{pid}/status").split()[1])


def test_a_worker_that_lies_costs_the_master_neither_memory_nor_a_job(
    lab: Lab, on: Callable[[str], Host], liar: None
) -> None:
    before = process(on)
    most = peak_kb(on, before[0]) + MOST_MORE_KB

    drain(lab, *HONEST)  # so that the liar gets the tasks
    try:
        jobs = [submit(lab) for _ in range(3)]
        assert lies_told(lab, 2) == 2
    finally:
        undrain(lab, *HONEST)
    steps = [outcome(lab, job) for job in jobs]
    assert {step["worker_id"] for step in steps} <= set(HONEST)
    lost = [attempt["worker_id"] for step in steps for attempt in step["attempts"] if attempt["error"]]
    assert lost == [LIAR] * 2

    assert lies_told(lab, 3) == 3
    workers = lab.ask("pibot-master", "/workers", key=lab.key).body["workers"]
    assert {row["id"]: row["status"] for row in workers if row["id"] != LIAR} == dict.fromkeys(HONEST, "idle")
    assert process(on) == before
    assert peak_kb(on, before[0]) <= most
