"""Open files below one folder and never outside it, even while a command changes the folder.

A path is opened name by name, each relative to the one before it and without following a symbolic link. That is what
``openat2`` does with ``RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS``, which Python can't call. So a command gains nothing by
replacing a folder with a link between check and use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Optional

from pibot.errors import ToolError

WORKSPACE = "/workspace"
"""The path of the task's folder inside the sandbox; models copy it from a command's output."""

MAX_DEPTH = 60
MAX_NAMES = 5_000
"""Names of one folder to hold at once; a command can make a million."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
Names = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """A path inside an allowed folder.

    Args:
        root: that folder.
        names: the names from there to the path.
        shown: the path as the model may write it.
    """

    root: Path
    names: Names
    shown: str

    def child(self, name: str) -> Place:
        return Place(self.root, (*self.names, name), name if self.shown == "." else f"{self.shown.rstrip('/')}/{name}")


def locate(path: str, workspace: Path, read_paths: tuple[Path, ...] = ()) -> Place:
    """Find the allowed folder of ``path`` by its text alone.

    Args:
        path: the path as the model writes it; a relative one starts in the workspace.
        workspace: the task's folder.
        read_paths: further allowed folders or files.

    Raises:
        ToolError: it is in none of them.
    """
    if "\0" in path:
        raise ToolError("the path holds a NUL character, which no path can")
    for home in ("~", WORKSPACE, str(workspace)):
        if path == home or path.startswith(f"{home}/"):
            path = path[len(home) :].lstrip("/")
            break
    names = _flattened(path)
    if not path.startswith("/"):
        if names is None:
            raise ToolError(f"{path} is outside of the task's folder; give a path inside it, such as notes.txt")
        return Place(workspace, names, "/".join(names) or ".")
    absolute = PurePosixPath("/", *(names or ()))
    for allowed in read_paths:
        with contextlib.suppress(ValueError):
            beneath = absolute.relative_to(allowed).parts
            if not beneath and not allowed.is_dir():
                return Place(allowed.parent, (allowed.name,), str(absolute))
            return Place(allowed, beneath, str(absolute))
    if not read_paths:
        raise ToolError(f"{path} is outside of the task's folder; only files in it can be used, by relative paths")
    raise ToolError(
        f"{path} is outside of the task's folder and can't be used here; "
        f"reading is allowed in {', '.join(map(str, read_paths))}, everything else in the task's folder only"
    )


def _flattened(path: str) -> Optional[Names]:
    """Return the path's names without ``.`` and ``..``; None if it leaves its start.

    Links are never followed, so ``..`` just removes the name before it.
    """
    names: list[str] = []
    for name in path.split("/"):
        if name == "..":
            if names:
                names.pop()
            elif not path.startswith("/"):  # above / is / again
                return None
        elif name not in ("", "."):
            names.append(name)
    return tuple(names)


@contextlib.contextmanager
def folder(place: Place, *, create: bool = False) -> Iterator[int]:
    """Yield an open descriptor of the folder at ``place``.

    Args:
        create: make missing folders on the way.

    Raises:
        ToolError: a name on the way is missing, not a folder, or a symbolic link.
    """
    if len(place.names) > MAX_DEPTH:
        raise ToolError(f"{place.shown}: more than {MAX_DEPTH} folders deep; use shorter paths")
    with errors(place):
        fd = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in place.names:
                if create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, dir_fd=fd)
                inner = _enter(name, fd, place)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)


def _enter(name: str, fd: int, place: Place) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=fd)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENOTDIR):
            mode = os.lstat(name, dir_fd=fd).st_mode
            what = "is a symbolic link, and these are not followed" if stat.S_ISLNK(mode) else "is a file, not a folder"
            if stat.S_ISDIR(mode):
                what = "changed meanwhile; try again"
            raise ToolError(f"{place.shown}: {name} {what}") from exc
        raise


@contextlib.contextmanager
def parent(place: Place, *, create: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the open folder that holds ``place``, and its name there.

    Raises:
        ToolError: ``place`` is the allowed folder itself, or as :func:`folder`.
    """
    if not place.names:
        raise ToolError(f"{place.shown} is the folder itself; name something in it")
    with folder(Place(place.root, place.names[:-1], place.shown), create=create) as fd:
        yield fd, place.names[-1]


def kind_of(fd: int, name: str) -> Optional[os.stat_result]:
    """Return the status of ``name`` in an open folder, of a link itself; None if it does not exist."""
    try:
        return os.lstat(name, dir_fd=fd)
    except FileNotFoundError:
        return None


def open_file(fd: int, name: str, place: Place, flags: int = os.O_RDONLY) -> int:
    """Open a regular file in an open folder.

    Raises:
        ToolError: it is a folder, a link, or something without an end, such as a pipe.
    """
    # O_NONBLOCK: if it became a pipe since the check, open doesn't wait for the other end.
    flags |= os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    known = kind_of(fd, name)
    if known is not None:
        _must_be_file(known.st_mode, place)
    opened = os.open(name, flags, 0o664, dir_fd=fd)
    try:
        _must_be_file(os.fstat(opened).st_mode, place)
    except ToolError:
        os.close(opened)
        raise
    return opened


def opened(place: Place) -> BinaryIO:
    """Open the file at ``place`` for reading.

    Raises:
        ToolError: as :func:`folder` and :func:`open_file`.
    """
    with parent(place) as (fd, name), errors(place):
        return os.fdopen(open_file(fd, name, place), "rb")


def _must_be_file(mode: int, place: Place) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise ToolError(f"{place.shown} is a folder; list_files shows what is in it")
    if stat.S_ISLNK(mode):
        raise ToolError(f"{place.shown} is a symbolic link, and these are not followed; use the path of its target")
    raise ToolError(f"{place.shown} is a pipe, socket or device, not a file that can be read or written")


def remove(fd: int, name: str, depth: int = 0) -> int:
    """Delete ``name`` in an open folder with everything in it, and return the number of entries.

    Raises:
        ToolError: folders are nested too deep.
    """
    entry = os.lstat(name, dir_fd=fd)
    if not stat.S_ISDIR(entry.st_mode):
        os.unlink(name, dir_fd=fd)
        return 1
    if depth > MAX_DEPTH:
        raise ToolError(f"{name} lies more than {MAX_DEPTH} folders deep; delete it with a shell command")
    count = 1
    inner = os.open(name, _FOLDER, dir_fd=fd)
    try:
        while names := _names(inner):
            count += sum(remove(inner, inside, depth + 1) for inside in names)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=fd)
    return count


def _names(fd: int) -> list[str]:
    """Return names in an open folder in order, at most :data:`MAX_NAMES`."""
    with os.scandir(fd) as found:
        return sorted(entry.name for entry in islice(found, MAX_NAMES))


def describe(name: str, status: os.stat_result) -> str:
    """Describe an entry of a folder in one line."""
    shown = name if name.isprintable() else repr(name)
    if stat.S_ISDIR(status.st_mode):
        return f"{shown}/"
    if stat.S_ISREG(status.st_mode):
        return f"{shown} ({status.st_size} bytes)"
    return f"{shown} ({'symbolic link' if stat.S_ISLNK(status.st_mode) else 'special file'})"


def entries(place: Place) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the sorted names in the folder at ``place``, each with its status; at most :data:`MAX_NAMES` of them.

    All statuses at once would take 6 MB.
    """
    with folder(place) as fd:
        for name in _names(fd):
            status = kind_of(fd, name)
            if status is not None:
                yield name, status


def walk(place: Place, *, limit: int) -> Iterator[tuple[Place, os.stat_result]]:
    """Yield everything under ``place``, each folder before its content, up to ``limit`` entries."""
    waiting = [place]
    while waiting:
        here = waiting.pop()
        folders = []
        try:
            for name, status in entries(here):
                if limit <= 0:
                    return
                limit -= 1
                inside = here.child(name)
                yield inside, status
                if stat.S_ISDIR(status.st_mode) and len(inside.names) <= MAX_DEPTH:
                    folders.append(inside)
        except ToolError:
            if here is place:
                raise
            # otherwise it was removed meanwhile, or is not readable
        waiting += reversed(folders)


@contextlib.contextmanager
def errors(place: Place) -> Iterator[None]:
    """Turn an OSError into a message that the model can act on.

    Raises:
        ToolError: in place of an OSError.
    """
    try:
        yield
    except FileNotFoundError as exc:
        raise ToolError(f"file not found: {place.shown}; list_files shows what is there") from exc
    except PermissionError as exc:
        raise ToolError(f"{place.shown}: permission denied") from exc
    except OSError as exc:
        raise ToolError(f"{place.shown}: {exc.strerror}") from exc
