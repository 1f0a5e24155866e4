"""Bad days: a cut network, a host without power, a master that restarts. Every job ends with its result even so."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Lab

testinfra_hosts = ["pibot-master"]

PATIENCE = 180.0
"""Seconds until a test gives up on what it waits for."""


def until(what: str, look: Callable[[], Any]) -> Any:
    """The first answer of `look` that is true; it may raise OSError before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            answer = look()
        except OSError:
            answer = None
        if answer:
            return answer
        time.sleep(0.3)
    pytest.fail(f"{what} did not come about within {PATIENCE:g} s")


def submit(lab: Lab, seconds: int) -> str:
    body = {"description": f"Sleep for {seconds} seconds", "skills": ["shell_exec"]}
    answer = lab.ask("pibot-master", "/task", body, key=lab.key)
    assert answer.status == 202, answer
    return str(answer.body["job_id"])


def step(lab: Lab, job: str) -> Any:
    """The job's one subtask."""
    (only,) = lab.ask("pibot-master", f"/task/{job}", key=lab.key).body["job"]["subtasks"]
    return only


def holder(lab: Lab, job: str) -> str:
    """The worker that runs the job now, once there is one."""
    return str(until("a lease", lambda: step(lab, job)["status"] == "leased" and step(lab, job)["worker_id"]))


def ended(lab: Lab, job: str) -> Any:
    """The job's subtask, once the job has ended."""

    def look() -> bool:
        return lab.ask("pibot-master", f"/task/{job}/result", key=lab.key, wait=10).status == 200

    until(f"the end of {job}", look)
    return step(lab, job)


def well_again(lab: Lab) -> None:
    """Wait until the master can reach all its workers."""
    until("three workers", lambda: lab.ask("pibot-master", "/health").body["workers"]["offline"] == 0)


def podman(lab: Lab, *arguments: str) -> None:
    command = ["env", f"CONTAINERS_CONF={lab.state / 'containers.conf'}", "podman", *arguments]
    subprocess.run(command if os.geteuid() == 0 else ["sudo", "-n", *command], check=True, capture_output=True)  # nosec B603 # no shell; a test's own command


def check_failover(lost: str, record: Any) -> None:
    """The subtask was done by another worker than the one that was lost, and what happened can be read."""
    assert record["status"] == "completed"
    first, second = record["attempts"]
    assert first["worker_id"] == lost
    assert first["error"]
    assert second["worker_id"] != lost
    assert second["error"] is None


def test_a_task_whose_workers_network_is_cut_is_done_by_another(lab: Lab) -> None:
    well_again(lab)
    master = lab.hosts["pibot-master"]["ansible_host"]
    job = submit(lab, 10)
    lost = holder(lab, job)
    rules = (f"INPUT -s {master}", f"OUTPUT -d {master}")
    lab.shell(lost, "; ".join(f"sudo iptables -I {rule} -j DROP" for rule in rules))
    try:
        check_failover(lost, ended(lab, job))
    finally:
        lab.shell(lost, "; ".join(f"sudo iptables -D {rule} -j DROP" for rule in rules))
    well_again(lab)


def test_a_task_whose_host_loses_power_is_done_by_another(lab: Lab, healthy: Callable[[str], Any]) -> None:
    job = submit(lab, 10)
    lost = holder(lab, job)
    podman(lab, "kill", lab.hosts[lost]["lab_container"])
    try:
        check_failover(lost, ended(lab, job))
    finally:
        podman(lab, "start", lab.hosts[lost]["lab_container"])
    until(f"SSH on {lost}", lambda: lab.shell(lost, "systemctl is-system-running --wait", check=False) == "running\n")
    assert healthy(lost)["current_task"] is None
    well_again(lab)


def test_jobs_end_though_the_master_is_rebooted_and_no_task_is_run_twice(
    lab: Lab, reboot: Callable[[str], None]
) -> None:
    jobs = [submit(lab, 6) for _ in range(6)]
    for job in jobs[:3]:
        holder(lab, job)
    reboot("pibot-master")
    records = [ended(lab, job) for job in jobs]
    assert [record["status"] for record in records] == ["completed"] * 6
    # A worker that went on meanwhile is asked for what it has: that is no other attempt.
    assert [len(record["attempts"]) for record in records] == [1] * 6
