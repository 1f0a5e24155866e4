"""The file_ops tools are asked for files outside the task's folder. Each path leads there if it is simply opened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pibot.contracts import CommandResult
from pibot.tool_registry import Toolbox
from tests.security.attacks import Service, as_root
from tests.skills.support import FakeCommands, ask, toolbox
from tests.skills.test_file_ops import SWAP

NOTHING = FakeCommands(CommandResult(1, ""))


@pytest.fixture
def tools(around: Service) -> Toolbox:
    return toolbox("file_ops", around.workspace, NOTHING)


PATHS = {
    "the way up": "../../.env",
    "the way up through a folder of its own": "sub/../../../.env",
    "the way up with doubled slashes": "..//..//.env",
    "the way up with dots between": "./.././.././.env",
    "the absolute path": "{root}/.env",
    "the absolute path with doubled slashes": "//{root}//.env",
    "the absolute path through its own folder": "{workspace}/../../.env",
    "the file system as a process sees it": "/proc/{pid}/root{root}/.env",
    "the folder of the services process": "/proc/{pid}/cwd/.env",
    "the open files of the services process": "/proc/{pid}/fd/3",
    "its own root": "/proc/self/root{root}/.env",
    "its own thread": "/proc/thread-self/root{root}/.env",
    "the folder that the service works in": "/proc/self/cwd/../../.env",
    "a device of the open files": "/dev/fd/../../../{root}/.env",
    "another tasks file": "../other/notes.txt",
    "the environment of the service": "/proc/{pid}/environ",
    "a symbolic link to the file": "link",
    "a symbolic link to its folder": "folder/.env",
    "a symbolic link to a symbolic link": "second",
    "a symbolic link to the root": "slash{root}/.env",
    "a symbolic link to the services process": "process/cwd/.env",
}


def make_links(around: Service) -> None:
    """Create the links that a command of the task could leave in its folder."""
    (around.workspace / "sub").mkdir()
    for name, target in (
        ("link", "{root}/.env"),
        ("folder", "{root}"),
        ("second", "link"),
        ("slash", "/"),
        ("process", "/proc/{pid}"),
    ):
        (around.workspace / name).symlink_to(around.fill(target))


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
async def test_no_secret_is_read_by(
    path: str, tools: Toolbox, around: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_links(around)
    monkeypatch.chdir(around.workspace)
    path = around.fill(path)
    assert around.secret in Path(path).read_text()  # without the control
    for name, arguments in (("read_file", {}), ("search_files", {"text": "canary"})):
        result = await ask(tools, name, path=path, **arguments)
        assert result.is_error or "nothing found" in result.content
        assert around.secret not in result.content
    listed = await ask(tools, "list_files", path=".", recursive=True)
    searched = await ask(tools, "search_files", text="canary")
    assert around.secret not in listed.content + searched.content
    assert "notes.txt" not in listed.content


CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "writing": ("write_file", {"path": "PATH", "content": "owned"}),
    "appending": ("append_file", {"path": "PATH", "content": "owned"}),
    "deleting": ("delete_file", {"path": "PATH", "recursive": True}),
    "moving away": ("move_file", {"source": "PATH", "target": "stolen"}),
    "moving over": ("move_file", {"source": "own.txt", "target": "PATH", "overwrite": True}),
}
THROUGH = ["the way up", "the absolute path", "its own root", "a symbolic link to its folder"]


@pytest.mark.parametrize("how", THROUGH)
@pytest.mark.parametrize("change", CHANGES)
async def test_nothing_outside_is_changed_by(
    change: str, how: str, tools: Toolbox, around: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_links(around)
    (around.workspace / "own.txt").write_text("owned")
    monkeypatch.chdir(around.workspace)
    path = around.fill(PATHS[how])
    before = (around.root / ".env").read_text()
    name, arguments = CHANGES[change]
    result = await ask(tools, name, **{key: path if value == "PATH" else value for key, value in arguments.items()})
    assert result.is_error
    assert (around.root / ".env").read_text() == before
    plainly(change, path)
    assert not (around.root / ".env").exists() or "owned" in (around.root / ".env").read_text()


def plainly(change: str, path: str) -> None:
    """Open the file as a tool without the control would."""
    if change == "writing":
        Path(path).write_text("owned")
    elif change == "appending":
        with Path(path).open("a") as file:
            file.write("owned")
    elif change == "deleting":
        Path(path).unlink()
    elif change == "moving away":
        shutil.move(path, "stolen")
    else:
        shutil.move("own.txt", path)


async def test_a_folder_that_becomes_a_link_between_check_and_use_leads_nowhere(
    tools: Toolbox, around: Service
) -> None:
    own = around.workspace / "sub"
    own.mkdir()
    (own / ".env").write_text("its own")
    (around.workspace / "other").symlink_to(around.root)
    arguments = [str(own), str(around.workspace / "other")]
    swapper = subprocess.Popen([sys.executable, "-c", SWAP, *arguments])
    checked = said = ""
    try:
        # A check by name and then a use, which the attack exploits.
        while around.secret not in checked:
            if not own.is_symlink():
                checked = (own / ".env").read_text()
        for _ in range(300):
            said += (await ask(tools, "read_file", path="sub/.env")).content
            await ask(tools, "write_file", path="sub/owned.txt", content="x")
    finally:
        swapper.kill()
        swapper.wait()
    assert "its own" in said
    assert around.secret not in said
    assert not (around.root / "owned.txt").exists()


ODD = {
    "a name of 300 characters": "x" * 300,
    "a path of 10000 characters": "x/" * 5000,
    "a name of 255 bytes with a letter more": "ü" * 128,
    "a thousand steps up and down": "a/../" * 1000 + "../.env",
    "a NUL in the name": "a.txt\0../../.env",
    "half a surrogate pair": "\ud800.txt",
    "nothing": "",
    "only spaces": "   ",
    "a tilde of another user": "~root/.ssh/id_rsa",
    "a variable": "$HOME/../../.env",
    "an escaped way up": "%2e%2e/%2e%2e/.env",
    "a way up with backslashes": "..\\..\\.env",
    "a way up in wide dots": "．．/．．/.env",
    "an address of a file": "file:///etc/passwd",
}


@pytest.mark.parametrize("path", ODD.values(), ids=list(ODD))
async def test_an_odd_name_is_refused_or_stays_inside(path: str, tools: Toolbox, around: Service) -> None:
    def outside() -> set[Path]:
        return {one for one in around.root.rglob("*") if around.workspace not in one.parents}

    before = outside()
    written = await ask(tools, "write_file", path=path, content="x")
    read = await ask(tools, "read_file", path=path)
    assert around.secret not in read.content
    assert "defect" not in written.content + read.content  # an unexpected exception is answered so
    assert outside() == before
    assert written.is_error == read.is_error


@as_root
@pytest.mark.parametrize("kind", ["a device of memory", "the disk itself"])
async def test_a_device_in_the_folder_is_neither_read_nor_written(kind: str, tools: Toolbox, around: Service) -> None:
    device = around.workspace / "device"
    block, number = {"a device of memory": (False, os.makedev(1, 5)), "the disk itself": (True, os.makedev(7, 0))}[kind]
    os.mknod(device, 0o60666 if block else 0o20666, number)
    if not block:
        with device.open("rb") as opened:
            assert opened.read(4) == b"\0" * 4  # without the control
    for name, arguments in (("read_file", {}), ("write_file", {"content": "x"}), ("append_file", {"content": "x"})):
        assert "not a file that can be read or written" in (await ask(tools, name, path="device", **arguments)).content
