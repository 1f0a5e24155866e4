"""A worker that is added to the inventory joins with one run; an uninstall leaves its machine as it was before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Lab

testinfra_hosts = ["outside"]

# What an uninstall must leave unchanged: packages, users, files, the firewall.
STATE = (
    "dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' | grep ^ii; cat /etc/passwd;"
    " sudo find /etc/systemd/system /usr/local /home /var/lib -maxdepth 2 -name '*pibot*'; sudo ufw status"
)


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory, lab: Lab) -> Iterator[Path]:
    """Write an inventory that adds the outside host as worker-4.

    Its SSH also listens on 2222, its user has another shell, and it has no bubblewrap.
    """
    address = lab.hosts["outside"]["ansible_host"]
    inventory = tmp_path_factory.mktemp("inventory") / "added.ini"
    inventory.write_text(f"[workers]\nworker-4 ansible_host={address} ansible_port=2222\n")
    known_hosts = lab.state / "known_hosts"
    lines = known_hosts.read_text()
    (key,) = [line for line in lines.splitlines() if line.startswith(f"{address} ")]
    known_hosts.write_text(f"{lines}{key.replace(address, f'[{address}]:2222')}\n")
    lab.shell("outside", "sudo usermod --shell /bin/dash pi && sudo dpkg --purge bubblewrap")
    file = "/etc/ssh/sshd_config.d/ports.conf"
    lab.shell("outside", f"printf 'Port 22\\nPort 2222\\n' | sudo tee {file} && sudo systemctl restart ssh")
    lab.ports["outside"] = 2222
    yield inventory
    lab.shell("outside", f"sudo rm {file} && sudo systemctl restart ssh")
    del lab.ports["outside"]
    known_hosts.write_text(lines)


def test_a_new_worker_joins_with_one_run_and_an_uninstall_leaves_no_trace(
    lab: Lab, added: Path, connect: Callable[[str, str, int], str]
) -> None:
    before = lab.shell("outside", STATE)

    lab.playbook("--inventory", str(added), "site.yml")
    health = lab.curl("pibot-master", lab.url("outside", "/health"))
    assert health == {"status": "healthy", "worker_id": "worker-4", "current_task": None}
    assert [connect("worker-1", "outside", port) for port in (5000, 2222, 22)] == ["dropped", "open", "dropped"]
    assert lab.ask("pibot-master", "/health").body["workers"]["total"] == 4
    body = {"description": "Sleep for 2 seconds", "skills": ["shell_exec"]}
    jobs = [lab.ask("pibot-master", "/task", body, key=lab.key).body["job_id"] for _ in range(4)]
    results = [lab.ask("pibot-master", f"/task/{job}/result", key=lab.key, wait=60).body for job in jobs]
    assert all(result["success"] for result in results)
    assert "worker-4" in [
        step["worker_id"]
        for job in jobs
        for step in lab.ask("pibot-master", f"/task/{job}", key=lab.key).body["job"]["subtasks"]
    ]

    uninstall = ("--inventory", str(added), "playbooks/uninstall.yml", "--limit", "worker-4")
    refused = lab.playbook(*uninstall, fails=True)
    assert "add -e pibot_uninstall=yes" in refused
    assert lab.curl("pibot-master", lab.url("outside", "/health"))["status"] == "healthy"

    lab.playbook(*uninstall, "-e", "pibot_uninstall=yes")
    assert lab.shell("outside", STATE) == before
    assert connect("worker-1", "outside", 22) == "open"
