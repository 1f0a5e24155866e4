"""Work with the files of the task's folder, and read files elsewhere where the owner allows it.

Every tool is bounded in size, and none follows symbolic links.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from pibot.contracts import ToolContext
from pibot.errors import ToolError

from .search import Query, grep, search
from .tree import Place, describe, entries, errors, kind_of, locate, open_file, opened, parent, remove, walk

MAX_ENTRIES = 500
MAX_CHARS = 18_000
"""The longest answer in characters, below the 20,000 that a tool's result may have."""

MAX_LINES = 2_000
MAX_WRITE = 4 * 1024 * 1024
"""The most bytes of one write; a command can make larger files."""

MAX_FILE = 64 * 1024 * 1024
"""The largest file in bytes after an append, and how far into a file a read may go."""

_SNIFF = 8192


def list_files(context: ToolContext, path: str = ".", recursive: bool = False) -> str:
    """List a folder, one entry a line: folders end in "/", files have their size.

    Args:
        path: the folder; the task's own by default.
        recursive: also list what is in its folders.
    """
    place = _readable(context, path)
    found = ((inside.shown, status) for inside, status in walk(place, limit=MAX_ENTRIES + 1))
    lines = [describe(*entry) for entry in islice(found if recursive else entries(place), MAX_ENTRIES + 1)]
    if len(lines) > MAX_ENTRIES:
        del lines[MAX_ENTRIES:]
        lines.append(f"[only the first {MAX_ENTRIES} entries; list one of the folders]")
    return "\n".join(lines) or "(nothing in it)"


def read_file(context: ToolContext, path: str, offset: int = 1, limit: int = MAX_LINES) -> str:
    """Read a text file, or a part of it.

    Args:
        path: the file.
        offset: the number of the first line to read; 1 is the file's first.
        limit: how many lines to read at most.
    """
    if offset < 1 or limit < 1:
        raise ToolError("offset and limit must be 1 or more")
    place = _readable(context, path)
    with opened(place) as file:
        start = file.read(_SNIFF)
        if b"\0" in start:
            size = os.fstat(file.fileno()).st_size
            raise ToolError(f"{place.shown} is a binary file of {size} bytes, no text; use a command to look into it")
        file.seek(0)
        lines, more = _window(file, place, offset, min(limit, MAX_LINES))
    if not lines and offset > 1:
        raise ToolError(f"{place.shown} has fewer than {offset} lines; read it with a smaller offset")
    text = "".join(lines)
    if more:
        text += f"\n[lines {offset} to {offset + len(lines) - 1}; go on with offset={offset + len(lines)}]"
    return text or "(the file is empty)"


def write_file(context: ToolContext, path: str, content: str) -> str:
    """Write a text file: create it, with the folders it needs, or replace its whole content.

    Args:
        path: the file.
        content: the whole text.
    """
    place = locate(path, context.workspace)
    data = _encoded(content)
    with parent(place, create=True) as (fd, name), errors(place):
        known = kind_of(fd, name)
        if known is not None:
            os.close(open_file(fd, name, place))  # refuses a folder, a link or a device
        # Readers see the old file or the new one. It is not synced to disk, since the folder is deleted with the task.
        temporary = f".{secrets.token_hex(8)}.tmp"
        new = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o664, dir_fd=fd)
        try:
            with os.fdopen(new, "wb") as file:
                if known is not None:
                    os.fchmod(new, stat.S_IMODE(known.st_mode) & 0o777)
                file.write(data)
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            os.unlink(temporary, dir_fd=fd)
            raise
    return f"{'replaced' if known is not None else 'created'} {place.shown} ({len(data)} bytes)"


def append_file(context: ToolContext, path: str, content: str) -> str:
    """Add text to the end of a file. A missing file is created, with the folders it needs.

    Args:
        path: the file.
        content: the text to add; start or end it with a newline where you want one.
    """
    place = locate(path, context.workspace)
    data = _encoded(content)
    with parent(place, create=True) as (fd, name), errors(place):
        end = open_file(fd, name, place, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with os.fdopen(end, "ab") as file:
            size = os.fstat(end).st_size + len(data)
            if size > MAX_FILE:
                raise ToolError(f"{place.shown} would have {size} bytes, {MAX_FILE} are allowed; begin a new file")
            file.write(data)
    return f"appended {len(data)} bytes to {place.shown}, which has {size} now"


def move_file(context: ToolContext, source: str, target: str, overwrite: bool = False) -> str:
    """Move or rename a file or folder.

    Args:
        source: the file or folder to move.
        target: its new path; if that is an existing folder, it is moved into it under its own name.
        overwrite: replace an existing file.
    """
    origin, goal = locate(source, context.workspace), locate(target, context.workspace)
    if len(goal.names) > len(origin.names) and goal.names[: len(origin.names)] == origin.names:
        raise ToolError(f"{origin.shown} can't be moved into itself")
    with parent(origin) as (from_fd, from_name), errors(origin):
        os.lstat(from_name, dir_fd=from_fd)
        if not goal.names or _is_folder(goal):
            goal = goal.child(from_name)
        with parent(goal, create=True) as (to_fd, to_name):
            if kind_of(to_fd, to_name) is not None and not overwrite:
                raise ToolError(f"{goal.shown} exists already; choose another target, or set overwrite to true")
            os.rename(from_name, to_name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
    return f"moved {origin.shown} to {goal.shown}"


def delete_file(context: ToolContext, path: str, recursive: bool = False) -> str:
    """Delete a file, or a folder.

    Args:
        path: the file or folder to delete.
        recursive: delete a folder with everything in it; without this, only an empty one.
    """
    place = locate(path, context.workspace)
    with parent(place) as (fd, name), errors(place):
        is_folder = stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode)
        if is_folder and not recursive and any(True for _ in entries(place)):
            raise ToolError(f"{place.shown} is a folder with files in it; set recursive to true to delete them too")
        count = remove(fd, name)
    return f"deleted {place.shown}" + (f" with {count - 1} entries in it" if count > 1 else "")


async def search_files(
    context: ToolContext,
    text: str = "",
    path: str = ".",
    name: str = "*",
    regex: bool = False,
    ignore_case: bool = False,
) -> str:
    """Find files by name, or lines in them by text. Without a text, list the files; with one, give each line that
    contains it as "path:number: line".

    Args:
        text: the literal text that a line must contain; leave it out to find files by name.
        path: the folder or file to search.
        name: a pattern for the files' names, such as *.txt.
        regex: treat the text as an extended regular expression (as grep -E does); in the task's folder only.
        ignore_case: ignore the difference between capitals and small letters.
    """
    place = _readable(context, path)
    query = Query(text, name, ignore_case)
    if regex and text:
        return await grep(query, place, context)
    return await search(query, place)


def _readable(context: ToolContext, path: str) -> Place:
    return locate(path, context.workspace, tuple(context.options.get("read_paths", ())))


def _is_folder(place: Place) -> bool:
    with parent(place, create=True) as (fd, name):
        known = kind_of(fd, name)
        return known is not None and stat.S_ISDIR(known.st_mode)


def _encoded(content: str) -> bytes:
    data = content.encode("utf-8", "replace")
    if len(data) > MAX_WRITE:
        raise ToolError(f"content has {len(data)} bytes, {MAX_WRITE} are allowed; write it in parts with append_file")
    return data


def _window(file: BinaryIO, place: Place, offset: int, limit: int) -> tuple[list[str], bool]:
    """Return lines ``offset`` to ``offset + limit - 1``, as many as fit, and whether more follow."""
    lines: list[str] = []
    room = MAX_CHARS
    for number, raw in enumerate(_lines(file, place), 1):
        if number < offset:
            continue
        line = raw.decode("utf-8", "replace")
        if len(line) > room:
            if lines:
                return lines, True
            line = f"{line[:room]}[… the line is longer than can be shown]\n"
        room -= len(line)
        lines.append(line)
        if len(lines) == limit or room <= 0:
            return lines, file.read(1) != b""
    return lines, False


def _lines(file: BinaryIO, place: Place) -> Iterator[bytes]:
    """Yield the file's lines, each cut to the longest answer, so that an endless line does not fill the memory."""
    size = 0
    while line := file.readline(4 * MAX_CHARS + 4):
        size += len(line)
        rest = line
        while rest and not rest.endswith(b"\n") and size <= MAX_FILE:
            rest = file.readline(4 * MAX_CHARS)
            size += len(rest)
        if size > MAX_FILE:
            raise ToolError(f"{place.shown} is too large to be read that far; use a command such as tail")
        yield line
