"""A task's command cannot escape under the real units. Each escape must succeed for the owner's user."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from conftest import Lab

testinfra_hosts = ["pibot-master"]

WORKERS = ("worker-1", "worker-2", "worker-3")
"""Each has another release of Debian, and so another bubblewrap."""

FOLDER = "/home/pi/pibot-worker"
PYTHON = "/usr/bin/python3 -c"
FORKS = "import os, time; [os.fork() or time.sleep(2) or os._exit(0) for _ in range(100)]"

# Commands that exit with 0 if they succeed. They contain no backtick, which ends a command for the offline model.
ESCAPES = {
    "read the settings": f"grep -qs KEY {FOLDER}/.env || sudo -n grep -q KEY {FOLDER}/.env",
    "read the log": f"grep -qs worker_ready {FOLDER}/worker.log || sudo -n grep -q worker_ready {FOLDER}/worker.log",
    "list the tasks' folders": f"ls {FOLDER}/workspace || sudo -n ls {FOLDER}/workspace",
    "read the environment of the worker": (
        "P=$(pgrep -f worker_task_executor | tail -n 1) && "
        "(cat /proc/$P/environ; sudo -n cat /proc/$P/environ) | grep -qa INVOCATION_ID"
    ),
    "list the homes": "ls /home/pi/.profile || sudo -n ls /root/.profile",
    "read the public keys that may log in": "grep -q ssh- /home/pi/.ssh/authorized_keys",
    "read the machine's accounts": "grep -q sshd /etc/passwd",
    "list the sockets and credentials in /run": "ls /run/systemd",
    "list the machine's logs and boot files": "ls /var/log /boot",
    "see the machine's processes": "pgrep -x sshd",
    "signal the machine's processes": "P=$(pgrep -x sshd | tail -n 1) && sudo -n kill -0 $P",
    "become root": "sudo -n true",
    "change the code of the worker": f"sudo -n touch {FOLDER}/releases/x && sudo -n rm {FOLDER}/releases/x",
    "change the system prompt": f"sudo -n touch {FOLDER}/worker_soul.md",
    "change the owner's home": "touch /home/pi/x && rm /home/pi/x",
    "change the system": "sudo -n touch /usr/local/bin/x && sudo -n rm /usr/local/bin/x",
    "add a cron job": "sudo -n touch /etc/cron.d/x && sudo -n rm /etc/cron.d/x",
    "make a namespace of users": "unshare -Ur true",
    "mount something": "sudo -n unshare -m mount -t tmpfs none /mnt",
    "trace a process": f"{PYTHON} 'import ctypes, sys; sys.exit(ctypes.CDLL(None).ptrace(0, 0, 0, 0) != 0)'",
    "make a socket that reaches the machine's": f"{PYTHON} 'import socket; socket.socket(socket.AF_UNIX)'",
    "connect to the worker's own port": "timeout 5 bash -c '</dev/tcp/127.0.0.1/5000'",
    "connect to its machine's SSH": "timeout 5 bash -c '</dev/tcp/127.0.0.1/22'",
    "connect to the master": "timeout 5 bash -c '</dev/tcp/MASTER/5000'",
    "start a hundred processes": f"{PYTHON} '{FORKS}'",
    "fill the disk by a file": "cd && head -c 80000000 /dev/zero >big && rm big",
}


class Tried(NamedTuple):
    """Whether each escape succeeded.

    Attributes:
        by_owner: in the shell of the owner's user.
        by_task: in a task.
    """

    by_owner: Mapping[str, bool]
    by_task: Mapping[str, bool]


def script(lab: Lab) -> str:
    """Return a script that tries all escapes and prints a line with each result."""
    master = lab.hosts["pibot-master"]["ansible_host"]
    lines = [
        f"({command.replace('MASTER', master)}) >/dev/null 2>&1 && echo {number}=yes || echo {number}=no"
        for number, command in enumerate(ESCAPES.values())
    ]
    return "\n".join(lines)


def read(printed: str) -> dict[str, bool]:
    found = {f"{number}={answer}" for number in range(len(ESCAPES)) for answer in ("yes", "no")}
    said = [line for line in printed.splitlines() if line in found]
    assert len(said) == len(ESCAPES), printed
    return {name: line.endswith("yes") for name, line in zip(ESCAPES, said)}


def run(lab: Lab, name: str, command: str) -> str:
    """Run a command in a task on that worker, sent by the master with the worker's key; return its output."""
    key = lab.shell(name, f"sudo sed -n 's/^PIBOT_API_KEY=//p' {FOLDER}/.env").strip()
    task = {"task_id": f"escape-{uuid4().hex}", "description": f"Run `{command}`", "skills": ["shell_exec"]}
    headers = ("-H", f"Authorization: Bearer {key}", "-H", "Prefer: wait=60")
    # On standard input, since the task contains both kinds of quotes.
    words = " ".join(f"'{word}'" for word in ("curl", "-sS", "--max-time", "90", *headers, "-d", "@-"))
    answer = json.loads(lab.shell("pibot-master", f"{words} {lab.url(name, '/task')}", json.dumps(task)))
    assert answer["success"] is True, answer
    return str(answer["output"])


@pytest.fixture(scope="module")
def tried(lab: Lab) -> Callable[[str], Tried]:
    """Return the results of the escapes on a worker; each is tried once there."""
    known: dict[str, Tried] = {}

    def get(name: str) -> Tried:
        if name not in known:
            by_owner = read(lab.shell(name, "bash -s", script(lab)))
            known[name] = Tried(by_owner, read(run(lab, name, script(lab))))
        return known[name]

    return get


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("name", WORKERS)
def test_a_tasks_command_can_not(name: str, escape: str, tried: Callable[[str], Tried]) -> None:
    assert tried(name).by_owner[escape], "the escape fails without the sandbox too, so it proves nothing"
    assert not tried(name).by_task[escape]


@pytest.mark.parametrize("name", WORKERS)
def test_a_tasks_command_leaves_no_process_behind(name: str, lab: Lab) -> None:
    daemon = "setsid -f sleep 987654"
    run(lab, name, f"{daemon}; (nohup {daemon} &); {daemon} </dev/null >/dev/null 2>&1; echo started")
    assert lab.shell(name, "pgrep -f '[s]leep 987654'", check=False) == ""
