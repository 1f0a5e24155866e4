"""Commands try to read what does not belong to their task."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.security.attacks import LONG, Service, as_root, both, boxed, sandbox

pytestmark = pytest.mark.system

READING = {
    "the services .env": "cat {root}/.env",
    "the services .env by its way up": "cat ../../.env",
    "the services credentials": "cat {root}/credentials/env",
    "the services log": "cat {root}/worker.log",
    "another tasks workspace": "cat {other}/notes.txt",
    "another tasks workspace beside its own": "cat ../other/notes.txt",
    "every workspace there is": "grep -rhs canary- {root}/workspace",
    "the key of ssh": "cat {home}/.ssh/id_ed25519",
    "the history of the shell": "cat {home}/.bash_history",
    "the environment of the service": "tr '\\0' '\\n' </proc/{pid}/environ",
    "the environment of whatever runs": "grep -haos 'canary-[0-9a-f]*' /proc/[0-9]*/environ",
    "the arguments of whatever runs": "grep -haos 'canary-[0-9a-f]*' /proc/[0-9]*/cmdline",
    "the services folder through proc": "cat /proc/{pid}/cwd/.env",
    "the services root through proc": "cat /proc/{pid}/root{root}/.env",
    "a file that the service has open": "cat /proc/{pid}/fd/3",
    "a symbolic link to the secret": "ln -s {root}/.env link && cat link",
    "a symbolic link to the root": "ln -s / link && cat link{root}/.env",
    "a hard link to the secret": "ln {root}/.env link && cat link",
    "a copy through a mount of its own": "unshare -Urm cat {root}/.env",
    "a search of the whole disk": "grep -rhs {secret} {home} {root}",
}


@pytest.mark.parametrize("attack", READING.values(), ids=list(READING))
async def test_a_command_reads_none_of_the_hosts_secrets(attack: str, around: Service) -> None:
    command = around.fill(attack)
    found = await both(command, around.workspace)
    assert around.secret in found.bare.replace(command, "")
    (around.workspace / "link").unlink(missing_ok=True)
    assert around.secret not in (await boxed(command, around.workspace)).replace(command, "")
    assert around.secret not in found.boxed.replace(command, "")


LOOKING = {
    "the home of root": "/root",
    "the homes": "/home",
    "the sockets and credentials in run": "/run",
    "the logs and databases in var": "/var",
    "the kernel and its settings in boot": "/boot",
    "the devices and settings in sys": "/sys",
    "the accounts passwords": "/etc/shadow",
    "the machines own number": "/etc/machine-id",
    "the hosts memory": "/proc/kcore",
}


@pytest.mark.parametrize("path", LOOKING.values(), ids=list(LOOKING))
async def test_a_command_does_not_see(path: str, workspace: Path) -> None:
    if not Path(path).exists():
        pytest.skip(f"{path} is not on this computer")
    found = await both(f"head -c 1 {path} >/dev/null 2>&1 || ls {path} >/dev/null 2>&1 && echo seen", workspace)
    assert "seen" not in found.boxed
    if os.geteuid() == 0:
        assert "seen" in found.bare


@as_root
async def test_a_command_finds_no_device_of_the_machine(workspace: Path) -> None:
    found = await both("find /dev -type b -o -name mem -o -name kmsg -o -name port -o -name input", workspace)
    assert found.bare
    assert found.boxed == ""


@as_root
async def test_a_command_makes_no_device_of_its_own(workspace: Path) -> None:
    found = await both("mknod null c 1 3 && echo made; rm -f null", workspace)
    assert "made" in found.bare
    assert "made" not in found.boxed


async def test_a_command_inherits_no_open_file(around: Service) -> None:
    attack = "for file in /proc/self/fd/*; do [ -f $file ] && cat $file; done"
    fd = os.open(around.root / ".env", os.O_RDONLY)
    try:
        os.set_inheritable(fd, True)
        inherits = subprocess.run(["bash", "-c", attack], close_fds=False, capture_output=True, text=True, check=False)
        assert around.secret in inherits.stdout
        os.lseek(fd, 0, os.SEEK_SET)
        assert around.secret not in await boxed(attack, around.workspace)
    finally:
        os.close(fd)


async def test_a_command_inherits_no_key_in_its_environment(around: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLC_API_KEY", around.secret)
    inherits = subprocess.run(["env"], capture_output=True, text=True, check=False)
    assert around.secret in inherits.stdout
    result = await sandbox().run(["env"], workspace=around.workspace, timeout=LONG)
    assert around.secret not in result.output
