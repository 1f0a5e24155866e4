"""The worker's unit holds the tool calls that take most memory, under a real limit of the kernel.

Where the lab's hosts can't set that limit themselves (control groups of version 1, which a container may only read),
the same limit is set from this computer, around the same process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from conftest import Lab

testinfra_hosts = ["pibot-master"]

NAME = "worker-2"
"""With the oldest Python, which takes most."""

SERVER = Path(__file__).with_name("hungry_server.py")
FOLDER = "/run/pibot-hungry"
DROP_IN = "/run/systemd/system/pibot-worker.service.d"
MOST_MB = 150
"""What the worker with these calls may take of its unit's 160 MB; 133 were measured."""

SKILL = {
    "SKILL.md": "---\nname: hoard\ndescription: Takes 16 MB for a while, and says so.\n---\n",
    "tools.py": '''
import asyncio
MEMORY_MB = {"hoard": 16}
async def hoard() -> str:
    """Take 16 MB for a while."""
    data = b"x" * (16 * 2**20)
    await asyncio.sleep(0.5)
    return f"hoarded {len(data)}"
''',
}

SETTINGS = f"""[Service]
Environment=VOLC_BASE_URL=http://127.0.0.1:5080/v1 PIBOT_WEB_ALLOW=127.0.0.1 PIBOT_SKILLS_DIR={FOLDER}/skills
"""

# As the unit's own start, but for the room.
WITHOUT_ROOM = f"""ExecStart=
ExecStart=/bin/sh -c 'exec "$(readlink -f /home/pi/pibot-worker/current)/venv/bin/python" -I {FOLDER}/roomless.py'
"""
ROOMLESS = """
from pibot.tool_registry.room import MemoryRoom
from pibot.worker_task_executor import main
MemoryRoom.__init__.__defaults__ = (10_000,)
main(["--port", "5000"])
"""


def as_root(command: str) -> str:
    """Run a command on this computer."""
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    done = subprocess.run([*sudo, "sh", "-euc", command], capture_output=True, text=True, check=False)  # nosec B603 # a test's own command
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


class Limit:
    """The memory limit of the worker's unit, set by its own systemd or, where that can't, from outside."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        shown = lab.shell(NAME, "systemctl show -p MemoryMax -p MemoryCurrent pibot-worker")
        self.bytes = int(re.findall(r"MemoryMax=(\d+)", shown)[0])
        self._group = None if re.search(r"MemoryCurrent=\d+$", shown, re.MULTILINE) else self._own_group()

    def _own_group(self) -> Path:
        conf = self._lab.state / "containers.conf"
        container = self._lab.hosts[NAME]["lab_container"]
        pid = as_root(f"CONTAINERS_CONF={conf} podman inspect --format '{{{{.State.Pid}}}}' {container}")
        (where,) = re.findall(r"^\d+:memory:(.*)$", as_root(f"cat /proc/{pid}/cgroup"), re.MULTILINE)
        return Path(f"/sys/fs/cgroup/memory{where}")

    def restart(self) -> None:
        """Restart the worker within the limit: what systemd starts is where systemd is."""
        if self._group is None:
            self._lab.shell(NAME, "sudo systemctl restart pibot-worker")
            return
        init = as_root(
            f"for p in $(cat {self._group}/cgroup.procs); do "
            f"grep -l '^NSpid:.*[[:space:]]1$' /proc/$p/status 2>/dev/null || true; done"
        ).split("/")[2]
        inner = self._group / "pibot-worker"
        as_root(f"mkdir -p {inner} && echo {self.bytes} >{inner}/memory.limit_in_bytes")
        as_root(f"echo {init} >{inner}/cgroup.procs")
        try:
            self._lab.shell(NAME, "sudo systemctl restart pibot-worker")
        finally:
            as_root(f"echo {init} >{self._group}/cgroup.procs; echo 0 >{inner}/memory.max_usage_in_bytes")

    def remove(self) -> None:
        """Remove the group that was made."""
        if self._group is not None:
            inner = self._group / "pibot-worker"
            as_root(
                f"for p in $(cat {inner}/cgroup.procs); do echo $p >{self._group}/cgroup.procs; done; rmdir {inner}"
            )

    def most_mb(self) -> float:
        """Return the most memory that the worker's unit has had since its start."""
        if self._group is not None:
            return int(as_root(f"cat {self._group}/pibot-worker/memory.max_usage_in_bytes")) / 2**20
        own = self._lab.shell(NAME, "systemctl show -p ControlGroup --value pibot-worker").strip()
        return int(self._lab.shell(NAME, f"cat /sys/fs/cgroup{own}/memory.peak")) / 2**20


@pytest.fixture
def limit(lab: Lab, healthy: Callable[[str], Any]) -> Iterator[Limit]:
    """Give the worker a hungry model and a skill of its owner, and its unit's memory limit."""
    bundled = "/home/pi/pibot-worker/current/venv/lib/python3*/site-packages/pibot/bundled/skills"
    lab.shell(
        NAME, f"sudo mkdir -p {DROP_IN} {FOLDER} && sudo cp -r {bundled} {FOLDER} && sudo mkdir {FOLDER}/skills/hoard"
    )
    files = {"server.py": SERVER.read_text(), "roomless.py": ROOMLESS}
    files |= {f"skills/hoard/{name}": text for name, text in SKILL.items()}
    for name, text in files.items():
        lab.shell(NAME, f"sudo tee {FOLDER}/{name}", text)
    lab.shell(NAME, f"sudo systemd-run --quiet --unit lab-hungry -p Type=forking python3 {FOLDER}/server.py")
    found = Limit(lab)
    try:
        yield found
    finally:
        lab.shell(NAME, f"sudo systemctl stop lab-hungry; sudo rm -rf {DROP_IN} {FOLDER}; sudo systemctl daemon-reload")
        lab.shell(NAME, "sudo systemctl restart pibot-worker")
        healthy(NAME)
        found.remove()


def start(lab: Lab, limit: Limit, healthy: Callable[[str], Any], drop_in: str) -> None:
    lab.shell(NAME, f"sudo tee {DROP_IN}/hungry.conf && sudo systemctl daemon-reload", drop_in)
    limit.restart()
    healthy(NAME)


def main_process(on: Callable[[str], Host]) -> str:
    return str(on(NAME).service("pibot-worker").systemd_properties["MainPID"])


def run_hungry_task(lab: Lab, task_id: str, description: str) -> str:
    """Run the task on the worker, and return what curl printed: nothing if the worker died."""
    skills = ["shell_exec", "web_fetch", "file_ops", "hoard"]
    body = json.dumps({"task_id": task_id, "description": description, "skills": skills})
    curl = f"curl -sS --max-time 90 -H 'Authorization: Bearer {lab.key_of(NAME)}' -H 'Prefer: wait=80'"
    return lab.shell("pibot-master", f"{curl} -d '{body}' {lab.url(NAME, '/task')}", check=False)


def test_the_worst_mix_of_tool_calls_stays_within_the_units_memory_and_would_not_without_their_room(
    lab: Lab, on: Callable[[str], Host], healthy: Callable[[str], Any], limit: Limit
) -> None:
    start(lab, limit, healthy, SETTINGS)
    before = main_process(on)
    result = json.loads(run_hungry_task(lab, "hungry", "Fill the memory bit by bit"))
    found = {"exit code: 0": 1, "the text was cut": 20, "nothing found": 20, "hoarded": 8}
    assert result["data"] == {**found, "output": "done"}
    assert main_process(on) == before
    assert limit.most_mb() <= MOST_MB < limit.bytes / 2**20

    start(lab, limit, healthy, SETTINGS + WITHOUT_ROOM)
    before = main_process(on)
    assert run_hungry_task(lab, "roomless", "Fill the memory at once") == ""
    assert main_process(on) != before
