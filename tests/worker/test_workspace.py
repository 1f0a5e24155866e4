"""A worker sees without writing that its tasks could not write their workspaces."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest

from pibot.worker.workspace import LEAST_FREE, WorkspaceWatch, workspace_problem


def disk(*, free: int = LEAST_FREE, files: int = 1000, flags: int = 0) -> Callable[[str], os.statvfs_result]:
    """Return a statvfs of a disk with so many free bytes and files."""
    block = 4096
    blocks = free // block
    return lambda path: os.statvfs_result((block, block, blocks, blocks, blocks, 1000, files, files, flags, 255))


def test_a_disk_with_room_has_no_problem_even_where_the_folder_is_not_made_yet(tmp_path: Path) -> None:
    assert workspace_problem(tmp_path) is None
    assert workspace_problem(tmp_path / "not" / "yet", statvfs=disk()) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("statvfs", "reason"),
    [
        (disk(flags=os.ST_RDONLY), "its disk is read-only"),
        (disk(free=LEAST_FREE - 4096), "its disk is full"),
        (disk(files=0), "its disk has no room for another file"),
    ],
)
def test_a_disk_that_takes_nothing_is_told_with_the_setting(
    tmp_path: Path, statvfs: Callable[[str], os.statvfs_result], reason: str
) -> None:
    problem = workspace_problem(tmp_path, statvfs=statvfs)
    assert problem == f"its workspace can't be written: {reason} ({tmp_path}, PIBOT_WORKSPACE_DIR)"


def test_a_file_in_the_place_of_the_folder_and_a_broken_link_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert f"{tmp_path}/file is no folder" in str(workspace_problem(tmp_path / "file" / "workspace"))
    assert f"{tmp_path}/link is no folder" in str(workspace_problem(tmp_path / "link"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_another_user_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "this user may not write" in str(workspace_problem(tmp_path))


def test_a_disk_at_the_limit_does_not_change_state_with_each_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [LEAST_FREE]
    seen: list[int] = []

    def problem(folder: Path, *, room_for: int) -> str | None:
        seen.append(room_for)
        return None if free[0] >= room_for else "full"

    monkeypatch.setattr("pibot.worker.workspace.workspace_problem", problem)
    watch = WorkspaceWatch(tmp_path)
    states = []
    for free[0] in (LEAST_FREE, LEAST_FREE - 1, LEAST_FREE, 2 * LEAST_FREE, LEAST_FREE):
        states.append(watch.problem() is None)
    assert states == [True, False, False, True, True]
