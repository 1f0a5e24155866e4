"""Commands try to affect other processes, or to leave some behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from pibot.errors import SandboxUnavailable
from pibot.sandbox.bubblewrap import Bubblewrap
from tests.security.attacks import LONG, as_root, bare, both, boxed, process, python, sandbox, weakened
from tests.support.nobody import as_nobody
from tests.support.processes import processes_with
from tests.support.waiting import until

pytestmark = pytest.mark.system


@pytest.fixture
def victim() -> Iterator[int]:
    """A process of the service's user."""
    with process() as pid:
        yield pid


SIGNALS = {
    "kills": "kill -KILL {pid}",
    "stops": "kill -STOP {pid}",
    "kills by its name": "pkill -KILL -f 'sleep {seconds}'",
    "kills by its group": "kill -KILL -- -{pid}",
}


@pytest.mark.parametrize("attack", SIGNALS.values(), ids=list(SIGNALS))
async def test_a_command_signals_no_process_of_the_host(attack: str, workspace: Path) -> None:
    seconds = f"9{uuid4().int % 10**9}"  # so that no other process has this command line
    running = subprocess.Popen(["sleep", seconds], start_new_session=True)
    try:
        command = attack.format(pid=running.pid, seconds=seconds)
        await boxed(command, workspace)
        assert os.waitpid(running.pid, os.WNOHANG | os.WUNTRACED) == (0, 0)
        await bare(command, workspace)
        _, status = os.waitpid(running.pid, os.WUNTRACED)
        assert os.WIFSIGNALED(status) or os.WIFSTOPPED(status)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(running.pid, 0)
        running.returncode = 0


async def test_a_command_sees_no_process_of_the_host(victim: int, workspace: Path) -> None:
    found = await both(f"ls -d /proc/{victim} && echo seen", workspace)
    assert "seen" in found.bare
    assert "seen" not in found.boxed


async def test_a_command_slows_no_process_of_the_host(victim: int, workspace: Path) -> None:
    attack = f"renice -n 19 -p {victim}"
    before = os.getpriority(os.PRIO_PROCESS, victim)
    await boxed(attack, workspace)
    assert os.getpriority(os.PRIO_PROCESS, victim) == before < 19
    await bare(attack, workspace)
    assert os.getpriority(os.PRIO_PROCESS, victim) == 19


async def test_a_command_changes_no_limit_of_a_process_of_the_host(victim: int, workspace: Path) -> None:
    found = await both(f"prlimit --pid {victim} --nofile=3:3 && echo limited", workspace)
    assert "limited" in found.bare
    assert "limited" not in found.boxed


async def test_a_command_cannot_exempt_itself_from_the_out_of_memory_killer(workspace: Path) -> None:
    found = await both("echo 0 > /proc/self/oom_score_adj; cat /proc/self/oom_score_adj", workspace)
    assert found.boxed.endswith("1000\n")
    if os.geteuid() == 0:
        assert found.bare == "0\n"


LEAVING = {
    "a job in the background": "{sleeper} &",
    "a job that ignores the end of its shell": "nohup {sleeper} >/dev/null 2>&1 &",
    "a process in a session of its own": "setsid {sleeper} &",
    "a process whose parent is gone": "(({sleeper} &) &)",
    "a daemon": "setsid -f setsid -f {sleeper} </dev/null >/dev/null 2>&1",
    "a process without an environment": "env -i setsid -f {sleeper}",
    "a process that takes no signal": "(trap '' TERM INT HUP QUIT; setsid {sleeper} &)",
    # It waits until the program runs, since a deleted file can't be started.
    "a program that deletes itself": (
        "cp $(command -v sleep) own; (exec -a {token} ./own 1000) & "
        'until [ "$(readlink /proc/$!/exe)" = "$PWD/own" ]; do :; done; rm own'
    ),
}


@pytest.mark.parametrize("attack", LEAVING.values(), ids=list(LEAVING))
async def test_a_command_leaves_nothing_behind(attack: str, workspace: Path) -> None:
    token = f"pibot-test-{uuid4().hex}"
    command = attack.format(token=token, sleeper=f"bash -c 'exec -a {token} sleep 1000'")
    await boxed(command, workspace)
    assert processes_with(token) == []
    subprocess.run(["bash", "-c", command], cwd=workspace, stdout=subprocess.DEVNULL, check=False)
    for pid in until(lambda: processes_with(token)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@as_root
def test_a_program_with_the_setuid_bit_makes_no_command_root() -> None:
    folder = Path("/var/tmp") / f"pibot-{uuid4().hex}"
    folder.mkdir(mode=0o777)
    try:
        folder.chmod(0o777)
        shutil.copy("/usr/bin/id", folder / "id")
        (folder / "id").chmod(0o4755)
        plain = subprocess.run([str(folder / "id"), "-u"], user=65534, capture_output=True, text=True, check=True)
        if plain.stdout != "0\n":
            pytest.skip("the folder is mounted nosuid")
        printed = as_nobody(lambda: Bubblewrap().run(["./id", "-u"], workspace=folder, timeout=LONG))
        assert printed == "1000\n"
    finally:
        shutil.rmtree(folder)


@as_root
async def test_a_command_gains_no_right_by_sudo(workspace: Path) -> None:
    attack = "sudo -n cat /etc/shadow || su -c 'cat /etc/shadow' </dev/null"
    assert "root:" not in await boxed(attack, workspace)


# --- no bubblewrap ---


BROKEN = {
    "is missing": None,
    "fails": "exit 1",
    "says nothing and succeeds": "exit 0",
    "runs the command with nothing around it": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    "may make no namespace": "echo 'bwrap: No permissions to create new namespace' >&2; exit 1",
    "is ended by a signal": "kill -KILL $$",
}


@pytest.mark.parametrize("otherwise", BROKEN.values(), ids=list(BROKEN))
async def test_no_command_runs_unconfined_where_bubblewrap(
    otherwise: str | None, tmp_path: Path, workspace: Path
) -> None:
    program = tmp_path / "bwrap"
    if otherwise is not None:
        program.write_text(f'#!/bin/sh\ncase "$*" in *--help) echo --disable-userns --size;; *) {otherwise};; esac\n')
        program.chmod(0o755)
    with pytest.raises(SandboxUnavailable, match="so none is run"):
        await Bubblewrap(program=str(program)).run(["touch", "ran"], workspace=workspace, timeout=LONG)
    assert not (workspace / "ran").exists()
    await sandbox().run(["touch", "ran"], workspace=workspace, timeout=LONG)
    assert (workspace / "ran").exists()


# --- sockets of other processes ---

CONNECT = """
import socket
socket.socket(socket.AF_UNIX).connect({name!r})
print("reached")
"""


@pytest.mark.parametrize("network", [False, True], ids=["without network", "with network"])
async def test_a_command_reaches_no_abstract_socket_of_the_host(network: bool, workspace: Path) -> None:
    name = f"\0pibot-test-{uuid4().hex}"
    attack = python(CONNECT.format(name=name))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        assert "reached" not in await boxed(attack, workspace, network=network)
        assert "reached" in await bare(attack, workspace)
        if network:
            assert "reached" in weakened(attack, workspace, network=True)  # so it is the filter that stops the attack


async def test_a_command_reaches_no_socket_that_lies_in_its_own_folder(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)  # a socket's path may have only 107 bytes
    attack = python(CONNECT.format(name="control"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("control")
        listener.listen()
        assert "reached" in weakened(attack, workspace)
        assert "reached" not in await boxed(attack, workspace)
