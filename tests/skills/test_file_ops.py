from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pibot.contracts import CommandResult
from pibot.sandbox import create_command_runner
from pibot.tool_registry import Toolbox
from tests.skills.support import FakeCommands, answer, ask, complaint, toolbox

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)

NOTHING = FakeCommands(CommandResult(1, ""))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "task"
    folder.mkdir()
    return folder


@pytest.fixture
def tools(workspace: Path) -> Toolbox:
    return toolbox("file_ops", workspace, NOTHING)


def test_the_skill_has_these_tools(tools: Toolbox) -> None:
    names = ["list_files", "read_file", "write_file", "append_file", "move_file", "delete_file", "search_files"]
    assert [spec.name for spec in tools.specs] == names


# --- what it is for ---


async def test_a_file_is_written_read_appended_to_listed_moved_and_deleted(tools: Toolbox, workspace: Path) -> None:
    assert await answer(tools, "write_file", path="notes/a.txt", content="one\n") == "created notes/a.txt (4 bytes)"
    assert await answer(tools, "append_file", path="notes/a.txt", content="two\n") == (
        "appended 4 bytes to notes/a.txt, which has 8 now"
    )
    assert await answer(tools, "read_file", path="notes/a.txt") == "one\ntwo\n"
    assert await answer(tools, "list_files") == "notes/"
    assert await answer(tools, "list_files", path="notes") == "a.txt (8 bytes)"
    assert await answer(tools, "move_file", source="notes/a.txt", target="b.txt") == "moved notes/a.txt to b.txt"
    assert await answer(tools, "list_files", recursive=True) == "b.txt (8 bytes)\nnotes/"
    assert await answer(tools, "delete_file", path="b.txt") == "deleted b.txt"
    assert await answer(tools, "delete_file", path="notes") == "deleted notes"
    assert await answer(tools, "list_files") == "(nothing in it)"
    assert list(workspace.iterdir()) == []  # noqa: ASYNC240


async def test_replacing_a_file_keeps_its_mode_and_leaves_no_temporary_file(tools: Toolbox, workspace: Path) -> None:
    script = workspace / "run.sh"
    script.write_text("old")
    script.chmod(0o750)
    assert await answer(tools, "write_file", path="run.sh", content="new") == "replaced run.sh (3 bytes)"
    assert (script.read_text(), script.stat().st_mode & 0o777) == ("new", 0o750)
    assert await answer(tools, "list_files") == "run.sh (3 bytes)"


@pytest.mark.parametrize(
    "path", ["a.txt", "./a.txt", "sub/../a.txt", "~/a.txt", "/workspace/a.txt", "/workspace/./sub//../a.txt"]
)
async def test_the_task_folder_can_be_named_as_models_name_it(tools: Toolbox, workspace: Path, path: str) -> None:
    (workspace / "a.txt").write_text("here")
    assert await answer(tools, "read_file", path=path) == "here"
    assert await answer(tools, "read_file", path=str(workspace / "a.txt")) == "here"


async def test_moving_into_a_folder_keeps_the_name_and_replaces_nothing_by_default(
    tools: Toolbox, workspace: Path
) -> None:
    (workspace / "sub").mkdir()
    for name in ("a.txt", "b.txt", "sub/b.txt"):
        (workspace / name).write_text(name)
    assert await answer(tools, "move_file", source="a.txt", target="sub") == "moved a.txt to sub/a.txt"
    assert "sub/b.txt exists already" in await complaint(tools, "move_file", source="b.txt", target="sub/")
    await answer(tools, "move_file", source="b.txt", target="sub", overwrite=True)
    assert (workspace / "sub/b.txt").read_text() == "b.txt"
    assert await answer(tools, "move_file", source="sub/a.txt", target=".") == "moved sub/a.txt to a.txt"
    assert "into itself" in await complaint(tools, "move_file", source="sub", target="sub/deeper")
    assert await answer(tools, "move_file", source="sub", target="new/place") == "moved sub to new/place"


async def test_a_folder_with_files_is_deleted_only_when_asked_for(tools: Toolbox, workspace: Path) -> None:
    outside = workspace.parent / "kept.txt"
    outside.write_text("kept")
    (workspace / "sub/deep").mkdir(parents=True)
    (workspace / "sub/deep/a.txt").write_text("x")
    (workspace / "sub/link").symlink_to(outside)
    (workspace / "sub/up").symlink_to(workspace.parent)
    assert "set recursive to true" in await complaint(tools, "delete_file", path="sub")
    assert await answer(tools, "delete_file", path="sub", recursive=True) == "deleted sub with 4 entries in it"
    assert outside.read_text() == "kept"
    assert "is the folder itself" in await complaint(tools, "delete_file", path=".", recursive=True)


# --- reading in parts ---


async def test_a_long_file_comes_in_parts_that_add_up_to_the_whole(tools: Toolbox, workspace: Path) -> None:
    text = "".join(f"line {n}\n" for n in range(1, 5001))
    (workspace / "long.txt").write_text(text)
    read, offset = "", 1
    for _ in range(10):
        part = await answer(tools, "read_file", path="long.txt", offset=offset)
        body, cut, note = part.partition("\n[lines ")
        read += body
        if not cut:
            break
        assert note.startswith(f"{offset} to ")
        offset = int(note.rpartition("=")[2].rstrip("]"))
    assert read == text
    assert await answer(tools, "read_file", path="long.txt", offset=5000) == "line 5000\n"
    assert "fewer than 9000 lines" in await complaint(tools, "read_file", path="long.txt", offset=9000)
    limited = await answer(tools, "read_file", path="long.txt", offset=3, limit=2)
    assert limited == "line 3\nline 4\n\n[lines 3 to 4; go on with offset=5]"


async def test_a_line_longer_than_an_answer_is_cut_and_the_next_line_can_be_read(
    tools: Toolbox, workspace: Path
) -> None:
    (workspace / "one.txt").write_text("x" * 500_000 + "\nlast\n")
    said = await answer(tools, "read_file", path="one.txt")
    assert "the line is longer than can be shown" in said
    assert said.endswith("go on with offset=2]")
    assert await answer(tools, "read_file", path="one.txt", offset=2) == "last\n"


async def test_a_binary_file_is_refused_as_such(tools: Toolbox, workspace: Path) -> None:
    (workspace / "data.bin").write_bytes(b"\x7fELF\0\0")
    (workspace / "empty").touch()
    (workspace / "latin.txt").write_bytes(b"caf\xe9\n")
    assert "data.bin is a binary file of 6 bytes" in await complaint(tools, "read_file", path="data.bin")
    assert await answer(tools, "read_file", path="empty") == "(the file is empty)"
    assert await answer(tools, "read_file", path="latin.txt") == "caf\ufffd\n"


async def test_a_huge_file_is_not_read_to_its_end(tools: Toolbox, workspace: Path) -> None:
    with (workspace / "huge.txt").open("wb") as file:
        file.write(b"first\n" + b"x" * 10_000)
        file.truncate(200 * 1024 * 1024)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast\n")
    assert "first" in await answer(tools, "read_file", path="huge.txt", limit=1)
    assert "too large to be read that far" in await complaint(tools, "read_file", path="huge.txt", offset=3)


async def test_content_beyond_the_limit_is_not_written(tools: Toolbox, workspace: Path) -> None:
    assert "are allowed" in await complaint(tools, "write_file", path="a", content="x" * (4 * 1024 * 1024 + 1))
    with (workspace / "log").open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    assert "begin a new file" in await complaint(tools, "append_file", path="log", content="x")


async def test_a_listing_with_very_many_entries_is_cut(tools: Toolbox, workspace: Path) -> None:
    for number in range(510):
        (workspace / f"{number:03}").touch()
    for recursive in (False, True):
        lines = (await answer(tools, "list_files", recursive=recursive)).splitlines()
        assert lines[499:] == ["499 (0 bytes)", "[only the first 500 entries; list one of the folders]"]


# --- mistakes ---


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("read_file", {"path": "gone.txt"}, "file not found: gone.txt; list_files shows what is there"),
        ("list_files", {"path": "gone"}, "file not found: gone; list_files"),
        ("delete_file", {"path": "gone"}, "file not found: gone; list_files"),
        ("move_file", {"source": "gone", "target": "b"}, "file not found: gone; list_files"),
        ("search_files", {"path": "gone"}, "file not found: gone; list_files"),
        ("read_file", {"path": "sub"}, "sub is a folder; list_files shows what is in it"),
        ("write_file", {"path": "sub", "content": ""}, "sub is a folder"),
        ("append_file", {"path": "sub", "content": ""}, "sub is a folder"),
        ("list_files", {"path": "a.txt"}, "a.txt: a.txt is a file, not a folder"),
        ("read_file", {"path": "a.txt/b"}, "a.txt is a file, not a folder"),
        ("read_file", {"path": "."}, ". is the folder itself"),
        ("read_file", {"path": "a\0b"}, "NUL"),
        ("read_file", {"path": "x" * 300}, "File name too long"),
        ("read_file", {"path": "/".join("d" * 100)}, "more than 60 folders deep"),
        ("read_file", {"path": "a.txt", "offset": 0}, "must be 1 or more"),
    ],
)
async def test_the_answer_to_a_mistake_says_what_to_change(
    tools: Toolbox, workspace: Path, name: str, arguments: dict[str, Any], said: str
) -> None:
    (workspace / "sub").mkdir()
    (workspace / "a.txt").write_text("x")
    assert said in await complaint(tools, name, **arguments)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: os.mkfifo(path), id="pipe"),
        pytest.param(lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), id="socket"),
        pytest.param(
            lambda path: os.mknod(path, 0o20666, os.makedev(1, 5)),
            id="device",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="takes root"),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the garbage collector closes the socket
async def test_a_special_file_is_refused_without_waiting_for_it(
    tools: Toolbox, workspace: Path, make: Callable[[Path], object]
) -> None:
    make(workspace / "special")
    for name, arguments in (
        ("read_file", {}),
        ("write_file", {"content": "x"}),
        ("append_file", {"content": "x"}),
    ):
        assert "not a file that can be read or written" in await complaint(tools, name, path="special", **arguments)
    assert await answer(tools, "list_files") == "special (special file)"
    assert "nothing found" in await answer(tools, "search_files", text="x")
    assert await answer(tools, "delete_file", path="special") == "deleted special"


# --- staying inside ---


ESCAPES = [
    "../secret.txt",
    "sub/../../secret.txt",
    "~/../secret.txt",
    "/workspace/../secret.txt",
    "/etc/passwd",
    "//etc/passwd",
]


@pytest.mark.parametrize("path", [*ESCAPES, "ABSOLUTE"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("read_file", {"path": "PATH"}),
        ("list_files", {"path": "PATH"}),
        ("search_files", {"path": "PATH", "text": "s"}),
        ("write_file", {"path": "PATH", "content": "x"}),
        ("append_file", {"path": "PATH", "content": "x"}),
        ("delete_file", {"path": "PATH"}),
        ("move_file", {"source": "PATH", "target": "b"}),
        ("move_file", {"source": "a.txt", "target": "PATH"}),
    ],
)
async def test_no_path_leads_outside_the_task_folder(
    tools: Toolbox, workspace: Path, path: str, name: str, arguments: dict[str, Any]
) -> None:
    secret = workspace.parent / "secret.txt"
    secret.write_text("secret")
    (workspace / "sub").mkdir()
    (workspace / "a.txt").write_text("x")
    path = str(secret) if path == "ABSOLUTE" else path
    arguments = {key: path if value == "PATH" else value for key, value in arguments.items()}
    assert "outside of the task's folder" in await complaint(tools, name, **arguments)
    assert secret.read_text() == "secret"
    assert sorted(p.name for p in workspace.iterdir()) == ["a.txt", "sub"]  # noqa: ASYNC240


@pytest.mark.parametrize("link_to", ["the file", "its folder", "itself", "inside"])
async def test_links_are_not_followed_wherever_they_lead(tools: Toolbox, workspace: Path, link_to: str) -> None:
    outside = workspace.parent / "outside"
    outside.mkdir()
    (outside / "f.txt").write_text("secret")
    (workspace / "own").mkdir()
    (workspace / "own/f.txt").write_text("own")
    target = {
        "the file": outside / "f.txt",
        "its folder": outside,
        "itself": workspace / "link",
        "inside": workspace / "own",
    }
    (workspace / "link").symlink_to(target[link_to])
    for path in ("link", "link/f.txt"):
        for name, arguments in (
            ("read_file", {}),
            ("write_file", {"content": "x"}),
            ("append_file", {"content": "x"}),
        ):
            assert "symbolic link" in await complaint(tools, name, path=path, **arguments)
    assert "symbolic link" in await complaint(tools, "list_files", path="link")
    assert "symbolic link" in await complaint(tools, "delete_file", path="link/f.txt")
    assert "symbolic link" in await complaint(tools, "move_file", source="own/f.txt", target="link/f.txt")
    assert "symbolic link" in await complaint(tools, "search_files", text="s", path="link/f.txt")
    assert "link (symbolic link)" in await answer(tools, "list_files")
    assert "secret" not in await answer(tools, "search_files", text="e", ignore_case=True)
    assert await answer(tools, "delete_file", path="link") == "deleted link"
    assert (outside / "f.txt").read_text() == "secret"
    assert (workspace / "own/f.txt").read_text() == "own"


SWAP = f"""
import ctypes, sys
libc = ctypes.CDLL(None)
here, other = (path.encode() for path in sys.argv[1:])
while True:
    libc.renameat2({AT_FDCWD}, here, {AT_FDCWD}, other, {RENAME_EXCHANGE})
"""


@pytest.mark.parametrize("swapped", ["folder for a link", "file for a link", "file for a pipe"])
async def test_a_name_that_is_swapped_while_in_use_leads_nowhere(tools: Toolbox, workspace: Path, swapped: str) -> None:
    outside = workspace.parent / "outside"
    outside.mkdir()
    (outside / "f.txt").write_text("secret")
    (workspace / "sub").mkdir()
    (workspace / "sub/f.txt").write_text("own")
    here, other = workspace / "sub" / "f.txt", workspace / "other"
    if swapped == "folder for a link":
        here = workspace / "sub"
        other.symlink_to(outside)
    elif swapped == "file for a link":
        other.symlink_to(outside / "f.txt")
    else:
        os.mkfifo(other)
    # A process, since a thread would share the interpreter's lock, and each step of the test would take milliseconds.
    swapper = subprocess.Popen([sys.executable, "-c", SWAP, str(here), str(other)])  # noqa: ASYNC220
    said: set[str] = set()
    try:
        for turn in range(5000):
            if turn > 100 and len(said) > 1:
                break
            said.add((await ask(tools, "read_file", path="sub/f.txt")).content)
            await ask(tools, "append_file", path="sub/f.txt", content="")
            if here.name == "sub":
                await ask(tools, "write_file", path="sub/g.txt", content="x")
                await ask(tools, "delete_file", path="sub/g.txt")
    finally:
        swapper.kill()
        swapper.wait()
    assert "own" in said
    assert len(said) > 1  # it was swapped now and then
    assert "secret" not in said
    assert not [text for text in said if "defect" in text]
    assert [path.name for path in outside.iterdir()] == ["f.txt"]
    assert (outside / "f.txt").read_text() == "secret"


async def test_reading_elsewhere_needs_the_owners_permission(workspace: Path) -> None:
    shared = workspace.parent / "shared"
    (shared / "sub").mkdir(parents=True)
    (shared / "sub/a.txt").write_text("shared text")
    (shared / "out").symlink_to(workspace.parent)
    (workspace.parent / "secret.txt").write_text("secret")
    single = workspace.parent / "single.txt"
    single.write_text("single")
    tools = toolbox("file_ops", workspace, NOTHING, {"read_paths": (shared, single)})
    assert await answer(tools, "read_file", path=f"{shared}/sub/a.txt") == "shared text"
    assert await answer(tools, "read_file", path=f"{shared}/sub/../sub/a.txt") == "shared text"
    assert await answer(tools, "list_files", path=str(shared)) == "out (symbolic link)\nsub/"
    found = await answer(tools, "search_files", path=str(shared), text="text")
    assert found == f"{shared}/sub/a.txt:1: shared text"
    assert await answer(tools, "read_file", path=str(single)) == "single"
    for path in (f"{shared}/../secret.txt", f"{shared}extra", f"{single}.old", "/etc/passwd"):
        said = await complaint(tools, "read_file", path=path)
        assert f"reading is allowed in {shared}, {single}" in said
    assert "symbolic link" in await complaint(tools, "read_file", path=f"{shared}/out/secret.txt")
    for name, arguments in (
        ("write_file", {"path": f"{shared}/b.txt", "content": "x"}),
        ("append_file", {"path": f"{shared}/sub/a.txt", "content": "x"}),
        ("delete_file", {"path": f"{shared}/sub/a.txt"}),
        ("move_file", {"source": f"{shared}/sub/a.txt", "target": "a.txt"}),
    ):
        assert "outside of the task's folder" in await complaint(tools, name, **arguments)


# --- searching ---


@pytest.fixture
def notes(workspace: Path) -> Path:
    (workspace / "sub").mkdir()
    (workspace / "a.txt").write_text("first\nHello world (a.b)\n")
    (workspace / "sub/b.md").write_text("  hello again  \nnothing\n")
    (workspace / "c.bin").write_bytes(b"\0hello")
    return workspace


async def test_lines_are_found_by_plain_text(tools: Toolbox, notes: Path) -> None:
    assert await answer(tools, "search_files", text="hello") == "sub/b.md:1: hello again"
    assert await answer(tools, "search_files", text="HELLO", ignore_case=True) == (
        "a.txt:2: Hello world (a.b)\nsub/b.md:1: hello again"
    )
    assert await answer(tools, "search_files", text="(a.b)") == "a.txt:2: Hello world (a.b)"
    assert await answer(tools, "search_files", text="hello", path="sub") == "sub/b.md:1: hello again"
    assert await answer(tools, "search_files", text="first", path="a.txt") == "a.txt:1: first"
    assert await answer(tools, "search_files", text="hello", name="*.txt") == (
        "nothing found: no line holds 'hello' in files named *.txt under ."
    )


async def test_files_are_found_by_name(tools: Toolbox, notes: Path) -> None:
    assert await answer(tools, "search_files", name="*.md") == "sub/b.md (24 bytes)"
    assert await answer(tools, "search_files", name="*.zip") == "nothing found: no file is named *.zip under ."


async def test_very_many_matches_are_cut(tools: Toolbox, workspace: Path) -> None:
    (workspace / "a.txt").write_text("x\n" * 1000)
    lines = (await answer(tools, "search_files", text="x")).splitlines()
    assert len(lines) == 101
    assert lines[-1] == "[only the first 100; search for something rarer]"


@pytest.mark.parametrize("mode", [pytest.param("bwrap", marks=pytest.mark.system), "off"])
async def test_a_command_that_can_be_ended_searches_for_regular_expressions(notes: Path, mode: str) -> None:
    tools = toolbox("file_ops", notes, create_command_runner(mode))
    found = await answer(tools, "search_files", text="^ *h.l+o", regex=True, ignore_case=True)
    assert sorted(found.splitlines()) == ["a.txt:2:Hello world (a.b)", "sub/b.md:1:  hello again  "]
    assert await answer(tools, "search_files", text="^h", regex=True, path="a.txt", ignore_case=True) == (
        "a.txt:2:Hello world (a.b)"
    )
    assert "nothing found" in await answer(tools, "search_files", text="^z", regex=True)
    assert "nothing found" in await answer(tools, "search_files", text="hello", regex=True, name="*.txt")
    assert "could not be searched for" in await complaint(tools, "search_files", text="a(", regex=True)
    (notes / "bar.log").write_bytes(b"1%\r50%\r\x1b[2K100%\r\n")
    assert await answer(tools, "search_files", text="%", regex=True) == "bar.log:1:1% 50%  [2K100%"
    (notes / "link").symlink_to(notes.parent)
    assert "symbolic link" in await complaint(tools, "search_files", text="a", regex=True, path="link/x")


async def test_a_pattern_that_takes_forever_is_ended_with_an_error(notes: Path) -> None:
    commands = FakeCommands(CommandResult(-9, "", timed_out=True))
    tools = toolbox("file_ops", notes, commands)
    assert "use a simpler pattern" in await complaint(tools, "search_files", text="-e (a*)*", regex=True)
    assert commands.asked[0]["argv"][-4:] == ["-e", "-e (a*)*", "--", "."]


async def test_a_cancelled_search_stops(tools: Toolbox, workspace: Path) -> None:
    (workspace / "a.txt").write_text("x")
    searching = asyncio.ensure_future(answer(tools, "search_files", text="x"))
    await asyncio.sleep(0)
    searching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await searching
