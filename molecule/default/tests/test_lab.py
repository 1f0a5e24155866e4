"""The lab itself: what tests prove on its hosts holds for real machines only if these tests pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

testinfra_hosts = ["lab"]

# How a worker runs an untrusted command, with options that bubblewrap 0.4 (bullseye) has too.
SANDBOXED = (
    "sudo systemd-run --quiet --wait --pipe -p User=pi -p NoNewPrivileges=yes -p ProtectSystem=strict"
    " bwrap --unshare-all --die-with-parent --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib"
    " --symlink usr/lib64 /lib64 --proc /proc --dev /dev --tmpfs /tmp sh -c 'ls -d /proc/[0-9]*'"
)

OCTETS = {"pibot-master": 113, "worker-1": 66, "worker-2": 67, "worker-3": 68, "outside": 200}


def test_every_host_runs_systemd_and_no_unit_failed(host: Host) -> None:
    assert host.process.get(pid=1).comm == "systemd"
    assert host.check_output("systemctl is-system-running") == "running"


def test_every_host_has_the_guides_last_octet(host: Host) -> None:
    name = host.check_output("hostname")
    (own,) = [ip for ip in host.interface("eth0").addresses if "." in ip]
    assert own.rsplit(".", 1)[1] == str(OCTETS[name])


def test_every_host_is_held_to_the_memory_of_a_zero_2w(host: Host) -> None:
    limit = host.check_output(
        "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
    )
    assert int(limit) == 512 * 2**20


def test_every_host_has_its_own_ssh_key(on: Callable[[str], Host]) -> None:
    keys = {on(name).check_output("cat /etc/ssh/ssh_host_ed25519_key.pub") for name in OCTETS}
    assert len(keys) == len(OCTETS)


def test_pi_becomes_root_without_a_password(host: Host) -> None:
    assert host.check_output("id -un") == "pi"
    assert host.check_output("sudo -n id -un") == "root"


@pytest.mark.parametrize("target", ["pibot-master", "worker-1", "worker-2", "worker-3"])
def test_the_outside_host_reaches_ssh(target: str, connect: Callable[[str, str, int], str]) -> None:
    assert connect("outside", target, 22) == "open"


def test_the_owners_firewall_drops_what_the_owner_did_not_allow(connect: Callable[[str, str, int], str]) -> None:
    assert connect("outside", "worker-2", 9100) == "refused"  # allowed, but no program listens
    assert connect("outside", "worker-2", 9101) == "dropped"


@pytest.mark.parametrize("name", ["pibot-master", "worker-1", "worker-2"])
def test_bubblewrap_hides_the_hosts_processes_in_a_hardened_unit_of_pi(name: str, on: Callable[[str], Host]) -> None:
    seen = on(name).check_output(SANDBOXED).split()
    assert 0 < len(seen) <= 3


def test_a_reboot_from_inside_keeps_the_address_and_the_disk(
    on: Callable[[str], Host], reboot: Callable[[str], None]
) -> None:
    on("outside").check_output("sudo touch /etc/survived")
    reboot("outside")
    assert on("outside").file("/etc/survived").exists
    assert on("outside").check_output("hostname -I").split()[0].endswith(".200")
