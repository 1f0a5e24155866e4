"""Commands try to change what does not belong to their task."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.security.attacks import Service, as_root, bare, both, boxed

pytestmark = pytest.mark.system

WRITING = {
    "the skills of the worker": "{root}/skills/shell_exec/tools.py",
    "the standing orders of the worker": "{root}/worker_soul.md",
    "the settings of the worker": "{root}/.env",
    "the log of the worker": "{root}/worker.log",
    "another tasks file": "{other}/notes.txt",
    "another tasks file beside its own": "../other/notes.txt",
    "the keys that may log in": "{home}/.ssh/id_ed25519",
}


@pytest.mark.parametrize("target", WRITING.values(), ids=list(WRITING))
async def test_a_command_changes_nothing_of(target: str, around: Service) -> None:
    path = around.workspace / around.fill(target)
    before = path.read_text()
    attack = around.fill(f"echo owned >> {target}")
    await boxed(attack, around.workspace)
    assert path.read_text() == before
    await bare(attack, around.workspace)
    assert path.read_text() == f"{before}owned\n"


MAKING = {
    "a program that runs at each log-in": "echo owned > {home}/.bashrc",
    "a skill of its own": "mkdir -p {root}/skills/mine && echo owned > {root}/skills/mine/tools.py",
    "a file in the services folder": "echo owned > {root}/sitecustomize.py",
    "a workspace for a later task": "mkdir -p {root}/workspace/next && echo owned > {root}/workspace/next/x",
}


@pytest.mark.parametrize("attack", MAKING.values(), ids=list(MAKING))
async def test_a_command_plants_nothing_outside(attack: str, around: Service) -> None:
    def planted() -> list[Path]:
        places = (around.root, around.home)
        return [path for place in places for path in place.rglob("*") if path.is_file() and owned(path)]

    await boxed(around.fill(attack), around.workspace)
    assert planted() == []
    await bare(around.fill(attack), around.workspace)
    assert len(planted()) == 1


def owned(path: Path) -> bool:
    return path.read_text() == "owned\n"


DELETING = {
    "the log of the worker": "rm -rf {root}/worker.log",
    "another tasks workspace": "rm -rf {other}",
    "all that it can reach by its way up": "rm -rf ../../skills ../other",
    "what a link leads to": "ln -s {other} link; rm -rf link/*",
}


@pytest.mark.parametrize("attack", DELETING.values(), ids=list(DELETING))
async def test_a_command_deletes_nothing_outside(attack: str, around: Service) -> None:
    def there() -> set[Path]:
        return {path for path in around.root.rglob("*") if around.workspace not in path.parents}

    before = there()
    await boxed(around.fill(attack), around.workspace)
    assert there() == before
    (around.workspace / "link").unlink(missing_ok=True)
    await bare(around.fill(attack), around.workspace)
    assert there() < before


SYSTEM = {
    "etc": "/etc",
    "the programs in usr": "/usr/local/bin",
    "the periodic jobs": "/etc/cron.d",
    "the units of systemd": "/etc/systemd/system",
    "the runtime folder": "/run",
    "the home of root": "/root",
}


@as_root
@pytest.mark.parametrize("folder", SYSTEM.values(), ids=list(SYSTEM))
async def test_a_command_writes_nothing_into_the_system(folder: str, around: Service) -> None:
    if not Path(folder).is_dir():
        pytest.skip(f"{folder} is not on this computer")
    name = around.secret
    attack = f"touch {folder}/{name} && rm {folder}/{name} && echo written"
    found = await both(attack, around.workspace)
    assert "written" in found.bare
    assert "written" not in found.boxed


KERNEL = {
    "what runs when a program crashes": "/proc/sys/kernel/core_pattern",
    "what runs when a module is wanted": "/proc/sys/kernel/modprobe",
    "the magic keys": "/proc/sysrq-trigger",
}


@as_root
@pytest.mark.parametrize("path", KERNEL.values(), ids=list(KERNEL))
async def test_a_command_does_not_set_the_kernels(path: str, workspace: Path) -> None:
    if not Path(path).exists():
        pytest.skip(f"{path} is not on this computer")
    # Open it without writing anything, since that would change this machine.
    found = await both(f"exec 3>>{path} && echo opened", workspace)
    assert "opened" in found.bare
    assert "opened" not in found.boxed
