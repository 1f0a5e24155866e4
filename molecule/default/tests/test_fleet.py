"""The provisioned fleet, as its owner, its workers and a stranger see it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from conftest import Lab

testinfra_hosts = ["pibot-master"]

WORKERS = ("worker-1", "worker-2", "worker-3")
UNITS = {"pibot-master": "pibot-master", **dict.fromkeys(WORKERS, "pibot-worker")}
FOLDERS = {"pibot-master": "/home/pi/pibot", **dict.fromkeys(WORKERS, "/home/pi/pibot-worker")}

WORKER_PSS_BUDGET_KB = 46 * 1000
"""PSS that a worker may use after it has run a task."""


# --- the firewall ---


@pytest.mark.parametrize("name", WORKERS)
def test_the_master_reaches_each_workers_health_without_a_key(name: str, lab: Lab) -> None:
    assert lab.curl("pibot-master", lab.url(name, "/health")) == {
        "status": "healthy",
        "worker_id": name,
        "current_task": None,
    }


def test_the_owners_computer_reaches_the_masters_health_without_a_key(lab: Lab) -> None:
    answer = lab.ask("pibot-master", "/health")
    assert answer.status == 200
    assert (answer.body["status"], answer.body["workers"]["total"], answer.body["workers"]["offline"]) == (
        "healthy",
        3,
        0,
    )


@pytest.mark.parametrize("source", ["outside", "worker-2", "worker-3"])
def test_a_workers_port_is_closed_to_all_but_the_master(source: str, connect: Callable[[str, str, int], str]) -> None:
    assert connect("pibot-master", "worker-1", 5000) == "open"
    assert connect(source, "worker-1", 5000) == "dropped"


def test_a_workers_port_is_closed_to_the_owners_computer_too(lab: Lab) -> None:
    with pytest.raises(TimeoutError):
        socket.create_connection((lab.hosts["worker-1"]["ansible_host"], 5000), timeout=3)


def test_the_offline_model_answers_the_master_alone(lab: Lab, connect: Callable[[str, str, int], str]) -> None:
    assert [connect(source, "pibot-master", 5009) for source in ("worker-1", "outside")] == ["dropped", "dropped"]
    assert "VOLC_BASE_URL=http://127.0.0.1:5009/v1" in lab.shell("pibot-master", "cat ~/pibot/.env")


@pytest.mark.parametrize("name", UNITS)
def test_ssh_stays_open_to_everybody(name: str, connect: Callable[[str, str, int], str]) -> None:
    assert connect("outside", name, 22) == "open"


def test_the_owners_rules_stay(on: Callable[[str], Host], connect: Callable[[str, str, int], str]) -> None:
    assert connect("outside", "worker-2", 9100) == "refused"  # open, but no program listens
    assert "SSH of the owner" in on("worker-2").check_output("sudo ufw status")


# --- the key ---


def test_a_task_runs_through_the_master_by_curl_with_the_key(lab: Lab) -> None:
    body = json.dumps({"description": "List files in home directory", "skills": ["shell_exec"]})
    headers = ("-H", f"Authorization: Bearer {lab.key}", "-H", "Prefer: wait=60")
    answer = lab.curl("outside", lab.url("pibot-master", "/task"), *headers, "-d", body)
    assert answer["success"] is True
    assert "total" in answer["output"]


@pytest.mark.parametrize("key", [None, "", "x" * 43])
def test_neither_the_master_nor_a_worker_runs_a_task_for_a_caller_without_the_key(key: str | None, lab: Lab) -> None:
    body = {"task_id": "stranger", "description": "List files in home directory", "skills": ["shell_exec"]}
    assert lab.ask("pibot-master", "/task", {"description": body["description"]}, key=key).status == 401
    header = () if key is None else ("-H", f"Authorization: Bearer {key}")
    refused = lab.curl("pibot-master", lab.url("worker-1", "/task"), *header, "-d", json.dumps(body))
    assert refused["success"] is False
    known = lab.curl(
        *("pibot-master", lab.url("worker-1", "/task/stranger/result")),
        *("-H", f"Authorization: Bearer {lab.key_of('worker-1')}"),
    )
    assert "stranger" in known["error"]
    assert "never sent here" in known["error"]


@pytest.mark.parametrize("name", UNITS)
def test_only_pi_can_read_the_settings(name: str, on: Callable[[str], Host]) -> None:
    env = on(name).file(f"{FOLDERS[name]}/.env")
    with on(name).sudo():
        assert (env.user, env.mode) == ("pi", 0o600)
        assert re.search(r"^PIBOT_API_KEY=\w{43}$", env.content_string, re.MULTILINE)
    assert "Permission denied" in on(name).run(f"sudo -u nobody cat {FOLDERS[name]}/.env").stderr


def test_only_the_owner_can_read_the_keys_and_no_log_contains_them(lab: Lab) -> None:
    kept = [path for path in (lab.state / "secrets").iterdir() if path.is_file()]
    assert {path.name for path in kept} >= {"api_key", "worker_token_1", "worker_token_2", "worker_token_3"}
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    keys = "\n".join({lab.key_of(name) for name in UNITS})
    for name in UNITS:
        # On standard input, since sudo would write them into the journal.
        found = lab.shell(name, "sudo grep -rlFf - /var/log /run/log /etc ~/*/logs ~/*/worker.log", keys, check=False)
        assert found == ""


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_has_neither_the_fleets_key_nor_the_models_nor_another_workers(name: str, lab: Lab) -> None:
    env = lab.shell(name, f"cat {FOLDERS[name]}/.env")
    own = lab.key_of(name)
    assert re.findall(r"^(\w+_KEY)=(.*)$", env, re.MULTILINE) == [("VOLC_API_KEY", own), ("PIBOT_API_KEY", own)]
    assert len({lab.key_of(other) for other in UNITS}) == len(UNITS)
    assert lab.ask("pibot-master", "/tasks", key=own).status == 403
    assert f"VOLC_BASE_URL={lab.url('pibot-master', '/v1')}" in env


# --- the units ---


@pytest.mark.parametrize(("name", "unit"), UNITS.items())
def test_the_unit_is_enabled_and_runs_as_pi(name: str, unit: str, on: Callable[[str], Host]) -> None:
    service = on(name).service(unit)
    assert service.is_enabled
    assert service.is_running
    process = on(name).process.get(pid=int(service.systemd_properties["MainPID"]))
    assert process.user == "pi"


def test_the_units_come_back_after_kill_9(on: Callable[[str], Host], healthy: Callable[[str], Any]) -> None:
    before = {name: on(name).service(unit).systemd_properties["MainPID"] for name, unit in UNITS.items()}
    for name, process in before.items():  # all at once, since each unit waits some seconds before it restarts
        on(name).check_output(f"sudo kill -9 {process}")
    for name, unit in UNITS.items():
        assert healthy(name)["status"] == "healthy"
        assert on(name).service(unit).systemd_properties["MainPID"] not in ("0", before[name])


@pytest.mark.parametrize("name", ["worker-3", "pibot-master"])
def test_unit_and_firewall_come_back_after_a_reboot(
    name: str,
    on: Callable[[str], Host],
    reboot: Callable[[str], None],
    healthy: Callable[[str], Any],
    connect: Callable[[str, str, int], str],
) -> None:
    reboot(name)
    assert healthy(name)["status"] == "healthy"
    assert "Status: active" in on(name).check_output("sudo ufw status")
    assert connect("outside", name, 5009 if name == "pibot-master" else 5000) == "dropped"


@pytest.mark.parametrize(("name", "unit"), UNITS.items())
def test_a_unit_has_its_limits_and_hardening(name: str, unit: str, on: Callable[[str], Host]) -> None:
    properties = on(name).service(unit).systemd_properties
    assert properties["Restart"] == "always"
    assert properties["StartLimitIntervalUSec"] == "0"
    assert int(properties["MemoryMax"]) < 512 * 2**20
    assert properties["NoNewPrivileges"] == "yes"
    assert properties["ProtectSystem"] == "strict"


@pytest.mark.parametrize("name", WORKERS)
def test_the_agent_can_change_neither_its_code_nor_the_system(name: str, on: Callable[[str], Host]) -> None:
    pid = on(name).service("pibot-worker").systemd_properties["MainPID"]
    # Read from the kernel: a container's root may not enter the process's view to try it.
    mounts = [line.split() for line in on(name).check_output(f"sudo cat /proc/{pid}/mountinfo").splitlines()]
    access = {fields[4].rstrip("/"): fields[5].split(",")[0] for fields in mounts}

    def accessible(path: str) -> str:
        return next(
            access[str(at).rstrip("/")] for at in (Path(path), *Path(path).parents) if str(at).rstrip("/") in access
        )

    home, folder = "/home/pi", "/home/pi/pibot-worker"
    read_only = ("/etc", home, folder, f"{folder}/.env", f"{folder}/releases")
    assert {accessible(path) for path in read_only} == {"ro"}
    assert {accessible(f"{folder}/{name}") for name in ("logs", "workspace")} == {"rw"}
    # The rest of the user's home is hidden.
    assert "tmpfs" in next(fields for fields in mounts if fields[4] == home)


# --- memory, logs ---


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_that_has_run_a_task_is_within_its_memory_budget(
    name: str, lab: Lab, on: Callable[[str], Host]
) -> None:
    task = json.dumps({"task_id": f"memory-{name}", "description": "Sleep for 1 seconds", "skills": ["shell_exec"]})
    headers = ("-H", f"Authorization: Bearer {lab.key_of(name)}", "-H", "Prefer: wait=60")
    done = lab.curl("pibot-master", lab.url(name, "/task"), *headers, "-d", task)
    assert done["success"] is True
    pid = on(name).service("pibot-worker").systemd_properties["MainPID"]
    pss = on(name).check_output(f"sudo awk '/^Pss:/ {{ print $2 }}' /proc/{pid}/smaps_rollup")
    assert int(pss) <= WORKER_PSS_BUDGET_KB


def test_logs_are_where_the_guide_expects_them(lab: Lab) -> None:
    assert "hub_ready" in lab.shell("pibot-master", "cat ~/pibot/logs/master_$(date +%Y%m%d).log")
    assert "worker_ready" in lab.shell("worker-1", "cat ~/pibot-worker/worker.log")
    assert "worker_ready" in lab.shell("worker-1", "sudo journalctl -u pibot-worker --no-pager")


def test_the_dashboard_shows_the_fleet(lab: Lab) -> None:
    page = lab.shell(
        "outside", f"curl -sS -H 'Authorization: Bearer {lab.key}' {lab.url('pibot-master', '/dashboard')}"
    )
    assert all(name in page for name in WORKERS)


def test_the_pibot_command_works_on_the_master(lab: Lab) -> None:
    assert "worker-2" in lab.shell("pibot-master", "pibot status")
