"""Let two users work in one folder: the worker's and the commands' user, which share a group.

The folders' setgid bit gives new files that group, and the umask leaves them open to it. Two things remain: a command
may close its files to the group, and it can't change the mode of a file that the worker made. So the sandbox service
takes over the worker's files before a command, and opens the command's files to the group after it.

Nothing here follows a symbolic link, so that no link of a command's leads out of the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from itertools import islice
from pathlib import Path
from typing import Callable

MAX_ENTRIES = 20_000
"""Files and folders to visit at most; the rest stay as they are."""

MAX_DEPTH = 60
"""Folders within folders to visit at most."""

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""The flags of open(2) for a folder."""

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SHARED_FILE, _SHARED_FOLDER = 0o660, 0o2770

Visit = Callable[[int, str, os.stat_result], None]


# docs/decisions.md, D50
def take_ownership(folder: int) -> None:
    """Replace each file of another user under an open folder by our own copy, so that a command can chmod it."""
    own = os.geteuid()

    def visit(parent: int, name: str, status: os.stat_result) -> None:
        if stat.S_ISREG(status.st_mode) and status.st_uid != own:
            _copy(parent, name)

    _walk(folder, visit)


def open_to_group(folder: int) -> None:
    """Let the group read and write our files and folders under an open folder."""
    own = os.geteuid()

    def visit(parent: int, name: str, status: os.stat_result) -> None:
        mode = status.st_mode
        wanted = _SHARED_FOLDER if stat.S_ISDIR(mode) else _SHARED_FILE if stat.S_ISREG(mode) else 0
        if own in (status.st_uid, 0) and mode & wanted != wanted:  # root's commands are another user's
            _add_mode(parent, name, wanted)

    _walk(folder, visit)


# docs/decisions.md, D107
def give_to(folder: int, user: int) -> None:
    """Make ``user`` the owner of an open folder and of everything under it; takes root."""

    def visit(parent: int, name: str, status: os.stat_result) -> None:
        if status.st_uid != user:
            os.chown(name, user, -1, dir_fd=parent, follow_symlinks=False)

    os.fchown(folder, user, -1)
    _walk(folder, visit)


def _walk(folder: int, visit: Visit) -> None:
    """Visit everything under an open folder, each folder before its content. Skip what is gone or closed to us."""
    left = MAX_ENTRIES

    def enter(parent: int, depth: int) -> None:
        nonlocal left
        with os.scandir(parent) as found:
            names = [entry.name for entry in islice(found, left)]
        left -= len(names)
        for name in names:
            with contextlib.suppress(OSError):
                status = os.lstat(name, dir_fd=parent)
                visit(parent, name, status)
                if stat.S_ISDIR(status.st_mode) and depth < MAX_DEPTH and left > 0:
                    inner = os.open(name, OPEN_FOLDER, dir_fd=parent)
                    try:
                        enter(inner, depth + 1)
                    finally:
                        os.close(inner)

    enter(folder, 1)


def _add_mode(parent: int, name: str, wanted: int) -> None:
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISLNK(mode):
            # By the descriptor: the name may stand for another file by now. fchmod(2) does not take O_PATH.
            Path(f"/proc/self/fd/{fd}").chmod(stat.S_IMODE(mode) | wanted | (mode & 0o700) >> 3)
    finally:
        os.close(fd)


def _copy(parent: int, name: str) -> None:
    with os.fdopen(os.open(name, _FILE, dir_fd=parent), "rb") as source:
        status = os.fstat(source.fileno())
        if not stat.S_ISREG(status.st_mode):
            return
        temporary = f".{os.urandom(8).hex()}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=parent), "wb") as copy:
                shutil.copyfileobj(source, copy)
                os.fchmod(copy.fileno(), status.st_mode & 0o777 | _SHARED_FILE)
            os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=parent)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)
            raise
