"""Keep whole outputs in a task's workspace, where the task's own tools can read on in them."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path

log = logging.getLogger("pibot.tools")

FOLDER = "tool_outputs"
"""The folder in the workspace; its name is part of what the model is told."""

MOST_BYTES = 8 * 1024 * 1024
"""Bytes of all outputs that one task keeps: they are on an SD card, and the workspace is deleted with the task."""

READERS = frozenset({"file_ops", "shell_exec"})
"""The skills whose tools can read the workspace."""


class KeptOutputs:
    """Writes the outputs of one task's tools to files.

    The commands of a task may be another user's, and write into the same folder: nothing here follows a link.

    Args:
        workspace: the task's folder.
    """

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._number = 0
        self._left = MOST_BYTES

    def keep(self, tool: str, text: str) -> str | None:
        """Write ``text`` to a new file; return its path within the workspace, or None where it can't be kept.

        Args:
            tool: the tool whose output it is, for the file's name.
        """
        data = text.encode("utf-8", "replace")
        if len(data) > self._left:
            return None
        self._number += 1
        name = f"{self._number}-{re.sub(r'[^A-Za-z0-9_-]', '_', tool)[:64]}.txt"
        try:
            self._write(name, data)
        except OSError as exc:
            log.warning("output_not_kept file=%s: %s", name, exc)
            return None
        self._left -= len(data)
        return f"{FOLDER}/{name}"

    def _write(self, name: str, data: bytes) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.ExitStack() as opened:
            workspace = os.open(self._workspace, flags)
            opened.callback(os.close, workspace)
            with contextlib.suppress(FileExistsError):
                os.mkdir(FOLDER, 0o775, dir_fd=workspace)
            folder = os.open(FOLDER, flags, dir_fd=workspace)
            opened.callback(os.close, folder)
            new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(name, new, 0o664, dir_fd=folder), "wb") as file:
                file.write(data)
