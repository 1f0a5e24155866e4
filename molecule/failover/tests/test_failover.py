"""Every job completes despite a cut network, a host without power or a master that restarts."""

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
"""Seconds that a test waits for anything."""


def until(what: str, ask: Callable[[], Any]) -> Any:
    """Call `ask` until its answer is true and return that; it may raise OSError before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            answer = ask()
        except OSError:
            answer = None
        if answer:
            return answer
        time.sleep(0.3)
    pytest.fail(f"{what} did not happen within {PATIENCE:g} s")


def submit(lab: Lab, seconds: int) -> str:
    body = {"description": f"Sleep for {seconds} seconds", "skills": ["shell_exec"]}
    answer = lab.ask("pibot-master", "/task", body, key=lab.key)
    assert answer.status == 202, answer
    return str(answer.body["job_id"])


def step(lab: Lab, job: str) -> Any:
    """Return the job's only step."""
    (only,) = lab.ask("pibot-master", f"/task/{job}", key=lab.key).body["job"]["subtasks"]
    return only


def holder(lab: Lab, job: str) -> str:
    """Wait until a worker runs the job and return its name."""
    return str(until("a lease", lambda: step(lab, job)["status"] == "leased" and step(lab, job)["worker_id"]))


def ended(lab: Lab, job: str) -> Any:
    """Wait until the job has ended and return its step."""

    def has_ended() -> bool:
        return lab.ask("pibot-master", f"/task/{job}/result", key=lab.key, wait=10).status == 200

    until(f"the end of {job}", has_ended)
    return step(lab, job)


def all_workers_back(lab: Lab) -> None:
    """Wait until the master reaches all its workers."""
    until("three workers", lambda: lab.ask("pibot-master", "/health").body["workers"]["offline"] == 0)


def podman(lab: Lab, *arguments: str) -> None:
    command = ["env", f"CONTAINERS_CONF={lab.state / 'containers.conf'}", "podman", *arguments]
    subprocess.run(command if os.geteuid() == 0 else ["sudo", "-n", *command], check=True, capture_output=True)  # nosec B603 # no shell; a test's own command


def check_failover(lost: str, record: Any) -> None:
    """Check that another worker completed the step, and that the lost attempt has a reason."""
    assert record["status"] == "completed"
    first, second = record["attempts"]
    assert first["worker_id"] == lost
    assert first["error"]
    assert second["worker_id"] != lost
    assert second["error"] is None


def test_another_worker_completes_a_step_when_the_first_ones_network_is_cut(lab: Lab) -> None:
    all_workers_back(lab)
    master = lab.hosts["pibot-master"]["ansible_host"]
    job = submit(lab, 10)
    lost = holder(lab, job)
    rules = (f"INPUT -s {master}", f"OUTPUT -d {master}")
    lab.shell(lost, "; ".join(f"sudo iptables -I {rule} -j DROP" for rule in rules))
    try:
        check_failover(lost, ended(lab, job))
    finally:
        lab.shell(lost, "; ".join(f"sudo iptables -D {rule} -j DROP" for rule in rules))
    all_workers_back(lab)


def test_another_worker_completes_a_step_when_the_first_ones_host_loses_power(
    lab: Lab, healthy: Callable[[str], Any]
) -> None:
    job = submit(lab, 10)
    lost = holder(lab, job)
    podman(lab, "kill", lab.hosts[lost]["lab_container"])
    try:
        check_failover(lost, ended(lab, job))
    finally:
        podman(lab, "start", lab.hosts[lost]["lab_container"])
    until(f"SSH on {lost}", lambda: lab.shell(lost, "systemctl is-system-running --wait", check=False) == "running\n")
    assert healthy(lost)["current_task"] is None
    all_workers_back(lab)


def test_jobs_complete_though_the_master_is_rebooted_and_no_step_runs_twice(
    lab: Lab, reboot: Callable[[str], None]
) -> None:
    jobs = [submit(lab, 6) for _ in range(6)]
    for job in jobs[:3]:
        holder(lab, job)
    reboot("pibot-master")
    records = [ended(lab, job) for job in jobs]
    assert [record["status"] for record in records] == ["completed"] * 6
    # A worker keeps its task meanwhile, and the master fetches the result: that is no second attempt.
    assert [len(record["attempts"]) for record in records] == [1] * 6
