"""Finds out whether tasks can write their workspaces, without writing: a poll every few seconds would wear the card."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

MEGABYTE = 1024 * 1024

LEAST_FREE = 4 * MEGABYTE
"""Bytes below which the disk counts as full: a task's first file would already fail."""


def workspace_problem(
    folder: Path, *, room_for: int = LEAST_FREE, statvfs: Callable[[str], os.statvfs_result] = os.statvfs
) -> str | None:
    """Return why no task can write below ``folder``, as a sentence; None if one can, as far as the system says.

    Args:
        folder: where each task gets its workspace; it need not exist yet.
        room_for: bytes that must be free.
        statvfs: reads the state of a disk.
    """
    problem = _problem(folder, room_for, statvfs)
    return None if problem is None else f"its workspace can't be written: {problem} ({folder}, PIBOT_WORKSPACE_DIR)"


def _problem(folder: Path, room_for: int, statvfs: Callable[[str], os.statvfs_result]) -> str | None:
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        if not there.is_dir():
            return f"{there} is no folder"
        disk = statvfs(str(there))
    except OSError as exc:
        return exc.strerror or str(exc)
    if disk.f_flag & os.ST_RDONLY:
        return "its disk is read-only"
    if disk.f_bavail * disk.f_frsize < room_for:
        return "its disk is full"
    if disk.f_files and not disk.f_favail:
        return "its disk has no room for another file"
    return None if os.access(there, os.W_OK | os.X_OK) else f"this user may not write {there}"


def left_behind(workspace: Path) -> bool:
    """Whether a power cut left a task's workspace behind."""
    return os.path.lexists(workspace)


def made(workspace: Path, mode: int) -> str | None:
    """Make a task's workspace; return why it can't be made, as :func:`workspace_problem` does."""
    try:
        workspace.mkdir(parents=True, mode=mode)
    except OSError as exc:
        return f"its workspace can't be written: {exc.strerror} ({workspace}, PIBOT_WORKSPACE_DIR)"
    return None


class WorkspaceWatch:
    """Reports the state of the workspaces' disk, with a margin so that it does not change with each report.

    Args:
        folder: where each task gets its workspace.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sick = False

    def problem(self) -> str | None:
        """Return why no task can write its workspace; None if one can."""
        found = workspace_problem(self._folder, room_for=LEAST_FREE * (2 if self._sick else 1))
        self._sick = found is not None
        return found
