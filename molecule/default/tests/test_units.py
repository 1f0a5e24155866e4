"""The units' hardening: what their processes may do, and what other users see of them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from conftest import Lab

testinfra_hosts = ["pibot-master"]

WORKERS = ("worker-1", "worker-2", "worker-3")
WORKER_PSS_BUDGET_KB = 46 * 1000

# The highest exposure by "systemd-analyze security" (0 best, 10 worst): 1.5 with keys, 3.0 with bubblewrap.
SCORES = [
    ("pibot-master", "pibot-master.service", 1.5),
    ("pibot-master", "pibot-rehearsal.service", 1.5),
    *((name, "pibot-worker.service", 1.5) for name in WORKERS),
    *((name, "pibot-sandbox.service", 3.0) for name in WORKERS),
]

# Runs a script from standard input exactly as the unit would run its program.
AS_UNIT = r"""
set -eu
cat > /run/pibot-probe.sh
cd /run/systemd/system
cp "/etc/systemd/system/$0" pibot-probe.service
mkdir pibot-probe.service.d
cat > pibot-probe.service.d/probe.conf <<'END'
[Service]
Type=oneshot
Restart=no
StandardOutput=file:/run/pibot-probe.out
StandardError=inherit
ExecStart=
ExecStart=/bin/sh /run/pibot-probe.sh
END
systemctl daemon-reload
systemctl start pibot-probe.service || true
cat /run/pibot-probe.out
rm -r pibot-probe.service pibot-probe.service.d /run/pibot-probe.sh /run/pibot-probe.out
systemctl daemon-reload
"""


@pytest.fixture
def as_unit(lab: Lab) -> Callable[[str, str, str], str]:
    """Run a script as that unit and return its output: `as_unit("worker-1", "pibot-worker.service", "id")`."""

    def get(name: str, unit: str, script: str) -> str:
        return lab.shell(name, f"sudo sh -c {shlex.quote(AS_UNIT)} {unit}", script)

    return get


def run_task(lab: Lab, name: str, description: str = "List files in home directory", *, wait: int = 60) -> Any:
    """Send a task that runs a command to that worker from the master, and return its result."""
    body = json.dumps({"task_id": f"units-{uuid4().hex}", "description": description, "skills": ["shell_exec"]})
    headers = ("-H", f"Authorization: Bearer {lab.key_of(name)}", "-H", f"Prefer: wait={wait}")
    return lab.curl("pibot-master", lab.url(name, "/task"), *headers, "-d", body)


def main_process(on: Callable[[str], Host], name: str, unit: str) -> str:
    return str(on(name).service(unit).systemd_properties["MainPID"])


def pss_kb(on: Callable[[str], Host], name: str, process: str) -> int:
    return int(on(name).check_output(f"sudo grep ^Pss: /proc/{process}/smaps_rollup").split()[1])


@pytest.mark.parametrize(("name", "unit", "most"), SCORES)
def test_a_unit_is_hardened_as_far_as_its_work_allows(
    name: str, unit: str, most: float, on: Callable[[str], Host]
) -> None:
    said = on(name).check_output(f"systemd-analyze security --no-pager {unit}")
    score = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert score is not None, said
    assert float(score[1]) <= most, said


@pytest.mark.parametrize("name", WORKERS)
def test_a_task_runs_its_command_as_the_user_without_keys(name: str, lab: Lab, on: Callable[[str], Host]) -> None:
    assert run_task(lab, name)["success"] is True
    agent, sandbox = (main_process(on, name, unit) for unit in ("pibot-worker", "pibot-sandbox"))
    users = [on(name).check_output(f"ps -o user:20= -p {process}") for process in (agent, sandbox)]
    assert users == ["pi", "pibot-sandbox"]
    assert pss_kb(on, name, agent) <= WORKER_PSS_BUDGET_KB
    assert pss_kb(on, name, sandbox) <= WORKER_PSS_BUDGET_KB // 2
    assert on(name).check_output("sudo ls -A /home/pi/pibot-worker/workspace") == ""


# Without single quotes, which the task's way to the worker needs.
WORK = (
    "set -m; sleep 9 & kill %1; wait; mkdir d && tar -czf d.tgz d && seq 9999 | sort -R -T . | sort -n | "
    "xargs -P2 -n5000 echo | wc -w && python3 -m venv --without-pip v && "
    'v/bin/python -c "import threading, sqlite3, ssl; threading.Thread(target=print, args=(42,)).start()"'
)


@pytest.mark.parametrize("name", WORKERS)
def test_what_tasks_run_finds_the_system_calls_that_it_needs(name: str, lab: Lab) -> None:
    answer = run_task(lab, name, f"Run `{WORK}`")
    assert answer["success"] is True, answer
    assert answer["output"].split()[-2:] == ["9999", "42"]


@pytest.mark.parametrize(
    ("name", "unit", "folder"),
    [
        ("pibot-master", "pibot-master.service", "/home/pi/pibot"),
        *((name, "pibot-worker.service", "/home/pi/pibot-worker") for name in WORKERS),
    ],
)
def test_a_unit_with_keys_can_change_neither_its_code_nor_its_settings_and_become_no_other_user(
    name: str, unit: str, folder: str, as_unit: Callable[[str, str, str], str]
) -> None:
    script = f"""
    cd {folder}
    test -r .env && echo reads its settings
    for file in .env *soul.md releases/new new current/new current/venv/bin/python logs/probe /etc/new /usr/bin/new; do
        touch -c "$file" 2>/dev/null && [ -w "$file" ] && echo "could change $file"
        touch "$file" 2>/dev/null && rm "$file" && echo "could make $file"
    done
    ln -sfn /tmp current 2>/dev/null && echo could change current
    mv .env env 2>/dev/null && echo could move .env
    sudo -n id -un 2>/dev/null
    unshare --user true 2>/dev/null && echo could make a namespace
    ls /run/user /run/dbus /home/pi/.ssh 2>/dev/null && echo sees more than it needs
    grep -E '^(CapPrm|CapBnd|NoNewPrivs):' /proc/self/status | tr -d '\\t' | tr '\\n' ' '
    ulimit -c
    """
    assert as_unit(name, unit, script).splitlines() == [
        "reads its settings",
        "could make logs/probe",
        "CapPrm:0000000000000000 CapBnd:0000000000000000 NoNewPrivs:1 0",
    ]


@pytest.mark.parametrize("name", WORKERS)
def test_the_unit_that_runs_commands_has_no_keys_no_homes_and_no_network(
    name: str, as_unit: Callable[[str, str, str], str]
) -> None:
    script = """
    id -un
    cat /home/pi/pibot-worker/.env 2>/dev/null
    ls /home /home/pi /root /var/lib/pibot 2>/dev/null
    touch /run/pibot-sandbox/workspaces/new 2>/dev/null && echo could make a task of its own
    touch /run/pibot-sandbox/release/new 2>/dev/null && echo could change its code
    ls /run/pibot-sandbox/release/venv/bin/python
    sudo -n id -un 2>/dev/null
    grep -c : /proc/net/dev
    ulimit -c
    """
    assert as_unit(name, "pibot-sandbox.service", script).splitlines() == [
        "pibot-sandbox",
        "/run/pibot-sandbox/release/venv/bin/python",
        "1",
        "0",
    ]


@pytest.mark.parametrize(("name", "unit"), [("pibot-master", "pibot-master"), *((n, "pibot-worker") for n in WORKERS)])
def test_other_programs_of_its_user_cannot_read_the_keys_in_a_units_memory(
    name: str, unit: str, on: Callable[[str], Host]
) -> None:
    process = main_process(on, name, unit)
    assert "Permission denied" in on(name).run(f"cat /proc/{process}/environ").stderr
    assert "Permission denied" in on(name).run(f"cat /proc/{process}/maps").stderr
    assert on(name).check_output(f"grep 'Max core file size' /proc/{process}/limits").split()[4] == "0"


@pytest.mark.parametrize("name", WORKERS)
def test_only_the_workers_user_may_ask_for_a_command(name: str, on: Callable[[str], Host]) -> None:
    connect = "python3 -c \"import socket; socket.socket(socket.AF_UNIX).connect('/run/pibot-sandbox/socket')\""
    for user in ("nobody", "pibot-sandbox"):
        assert "Permission denied" in on(name).run(f"sudo -u {user} {connect}").stderr


@pytest.mark.parametrize("name", WORKERS)
def test_without_its_socket_the_worker_refuses_commands_and_says_what_to_do(
    name: str, lab: Lab, on: Callable[[str], Host]
) -> None:
    on(name).check_output("sudo systemctl stop pibot-sandbox.socket pibot-sandbox.service")
    try:
        refused = json.dumps(run_task(lab, name))
    finally:
        on(name).check_output("sudo systemctl restart pibot-sandbox.socket")
    assert "sudo systemctl restart pibot-sandbox.socket" in refused
    assert run_task(lab, name)["success"] is True


@pytest.mark.parametrize("name", WORKERS)
def test_the_sandbox_service_stops_itself_when_idle_and_its_socket_stays(
    name: str, lab: Lab, on: Callable[[str], Host]
) -> None:
    folder = "/run/systemd/system/pibot-sandbox.service.d"
    start = on(name).check_output("sed -n '/^ExecStart=/,/[^\\\\]$/p' /etc/systemd/system/pibot-sandbox.service")
    shorter = re.sub(r"--idle \S+", "--idle 0.2", start)
    lab.shell(name, f"sudo mkdir {folder} && sudo tee {folder}/idle.conf", f"[Service]\nExecStart=\n{shorter}\n")
    reload = "sudo systemctl daemon-reload && sudo systemctl stop pibot-sandbox.service"
    try:
        on(name).check_output(reload)
        assert run_task(lab, name)["success"] is True
        unit = "pibot-sandbox.service"
        on(name).check_output(f"timeout 30 sh -c 'while systemctl is-active --quiet {unit}; do :; done'")
        assert on(name).check_output(f"systemctl show --property Result --value {unit}") == "success"
        assert on(name).service("pibot-sandbox.socket").is_running
        assert run_task(lab, name)["success"] is True
    finally:
        on(name).check_output(f"sudo rm -r {folder}; {reload}")


# As in a task: the worker and its commands write files into one folder.
TWO_USERS = r"""
cd /home/pi/pibot-worker && current/venv/bin/python -I - <<'END'
import asyncio, shutil
from pathlib import Path
from pibot.sandbox.remote import RemoteSandbox

folder = Path.cwd() / "workspace" / "two-users"
runner = RemoteSandbox(Path("/run/pibot-sandbox/socket"), folder.parent)
def sh(command):
    print(asyncio.run(runner.run(["sh", "-c", command], workspace=folder, timeout=30)).output, end="")

folder.mkdir(mode=0o770)
(folder / "run.sh").write_text("#!/bin/sh\necho ran\n")
sh("chmod +x run.sh && ./run.sh")
sh("umask 077; mkdir -p closed/inner; echo command >closed/inner/file; chmod 700 closed; mkdir -m 0 shut")
with (folder / "closed/inner/file").open("a") as file:
    file.write("worker\n")
(folder / "closed/more").mkdir()
sh("cat closed/inner/file; touch closed/more/x && echo both can write")
shutil.rmtree(folder)
print("removed")
END
"""


@pytest.mark.parametrize("name", WORKERS)
def test_the_worker_and_its_commands_work_on_the_same_files(name: str, as_unit: Callable[[str, str, str], str]) -> None:
    printed = as_unit(name, "pibot-worker.service", TWO_USERS)
    assert printed.splitlines() == ["ran", "command", "worker", "both can write", "removed"]


def test_a_command_leaves_nothing_behind_when_its_worker_is_killed_and_the_sandbox_service_is_not(
    lab: Lab, on: Callable[[str], Host], healthy: Callable[[str], Any]
) -> None:
    name = "worker-2"
    assert run_task(lab, name)["success"] is True
    sandbox = main_process(on, name, "pibot-sandbox")
    assert run_task(lab, name, "Sleep for 55 seconds", wait=0)["status"] == "accepted"
    on(name).check_output("timeout 20 sh -c 'until pgrep -u pibot-sandbox -x sleep; do :; done'")
    on(name).check_output(f"sudo kill -9 {main_process(on, name, 'pibot-worker')}")
    on(name).check_output("timeout 20 sh -c 'while pgrep -u pibot-sandbox -x sleep; do :; done'")
    # The same process still: it ended the command, and systemd restarts both only some seconds later.
    assert main_process(on, name, "pibot-sandbox") == sandbox
    assert healthy(name)["status"] == "healthy"
