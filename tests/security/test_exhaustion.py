"""Commands that use up the machine. Each succeeds when its limit is higher."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from pibot.contracts import CommandResult
from pibot.sandbox import CommandLimits, bubblewrap
from pibot.sandbox.bubblewrap import Bubblewrap
from pibot.sandbox.limits import DEFAULT_COMMAND_LIMITS, MIB
from tests.security.attacks import LONG, as_root, python
from tests.support.nobody import as_nobody
from tests.support.processes import processes_with

pytestmark = pytest.mark.system

HIGH = CommandLimits(
    memory_bytes=1024 * MIB,
    processes=2000,
    file_bytes=512 * MIB,
    open_files=1024,
    tmp_bytes=256 * MIB,
    flood_bytes=512 * MIB,
)
"""Limits that no attack here reaches, but that still protect this computer."""


async def attacked(limits: CommandLimits, command: str, workspace: Path, timeout: float = LONG) -> CommandResult:
    return await Bubblewrap(limits).run(["bash", "-c", command], workspace=workspace, timeout=timeout)


BOMBS = {
    "a memory bomb": python("x = bytearray(400 << 20); print('succeeded')"),
    "a memory bomb in small pieces": python("x = [bytearray(1 << 20) for _ in range(400)]; print('succeeded')"),
    "a memory bomb by a pipe": "head -c 300M /dev/zero | tail -n 1 | wc -c | grep -q 314572800 && echo succeeded",
    "a bomb of shared memory": python("import mmap; x = mmap.mmap(-1, 1100 << 20); print('succeeded')"),
    "a bomb of open files": python("import os; x = [os.dup(0) for _ in range(300)]; print('succeeded')"),
    "a file that fills the disk": "head -c 100M /dev/zero >big && echo succeeded; rm -f big",
    "a sparse file that fills the disk": "truncate -s 100M big && echo succeeded; rm -f big",
    "a file in tmp that fills the memory": "head -c 50M /dev/zero >/tmp/big && echo succeeded",
    "a file in shm that fills the memory": "head -c 50M /dev/zero >/dev/shm/big && echo succeeded",
    "a bomb that unpacks": "head -c 70M /dev/zero | gzip -1 | gunzip >big && echo succeeded; rm -f big",
}


@pytest.mark.parametrize("attack", BOMBS.values(), ids=list(BOMBS))
async def test_a_command_takes_no_more_than_its_limit_by(attack: str, workspace: Path) -> None:
    assert "succeeded" not in (await attacked(DEFAULT_COMMAND_LIMITS, attack, workspace)).output
    assert "succeeded" in (await attacked(HIGH, attack, workspace)).output


FORKS = """
import os, time
made = 0
try:
    for _ in range(200):
        if not os.fork():
            try:
                os.fork()
                time.sleep(1000)
            finally:
                os._exit(0)
        made += 1
    print("succeeded")
except OSError as exc:
    print(made, exc.strerror)
"""


@pytest.fixture
def nobodys_folder() -> Iterator[Path]:
    folder = Path("/var/tmp") / f"pibot-{uuid4().hex}"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    yield folder
    shutil.rmtree(folder)


@as_root
async def test_a_fork_bomb_of_a_worker_that_runs_as_root_fills_only_its_own_limit(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack, limits = python(FORKS), replace(HIGH, processes=64)
    assert "Resource temporarily unavailable" in (await attacked(limits, attack, workspace)).output
    # Without the other user: the kernel does not count root's processes.
    monkeypatch.setattr(bubblewrap, "_is_root", lambda: False)
    assert "succeeded" in (await attacked(limits, attack, workspace)).output


@as_root  # only root can become another user, and the kernel limits only those
def test_a_fork_bomb_fills_only_its_own_limit_of_processes(nobodys_folder: Path) -> None:
    # If the limit does not hold, there are 400 sleeping processes, which this computer can bear.
    attack = python(FORKS)
    limited = as_nobody(lambda: attacked(replace(HIGH, processes=64), attack, nobodys_folder))
    assert "Resource temporarily unavailable" in limited
    assert "succeeded" in as_nobody(lambda: attacked(HIGH, attack, nobodys_folder))


async def test_a_flood_of_output_is_ended(workspace: Path) -> None:
    attack = "head -c 100000000 /dev/zero; touch succeeded"
    flooded = await attacked(DEFAULT_COMMAND_LIMITS, attack, workspace)
    assert flooded.truncated
    assert not (workspace / "succeeded").exists()
    await attacked(HIGH, attack, workspace)
    assert (workspace / "succeeded").exists()


async def test_a_command_that_burns_processor_time_is_ended_by_its_limit(workspace: Path) -> None:
    attack = "trap '' XCPU TERM; i=0; while ((i < 100000000)); do ((i++)); done"
    burned = await attacked(CommandLimits(cpu_seconds=1), attack, workspace)
    assert burned.exit_code == -9
    assert not burned.timed_out


async def test_a_command_that_ignores_signals_is_ended_at_the_deadline_with_all_its_processes(workspace: Path) -> None:
    token = f"pibot-test-{uuid4().hex}"
    burner = f"bash -c 'trap \"\" TERM INT HUP XCPU; while :; do :; done; : {token}'"
    burned = await attacked(DEFAULT_COMMAND_LIMITS, f"echo begun; setsid {burner} & {burner}", workspace, timeout=1.0)
    assert (burned.output, burned.timed_out) == ("begun\n", True)
    assert processes_with(token) == []


async def test_a_crash_leaves_no_core_dump_on_the_disk(workspace: Path) -> None:
    crashed = await attacked(HIGH, "ulimit -c; ulimit -c unlimited; kill -SEGV $$", workspace)
    assert crashed.output.startswith("0\n")
    assert "cannot modify limit" in crashed.output
    assert list(workspace.iterdir()) == []
