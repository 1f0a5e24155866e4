"""Find files by name, and lines by their text."""

from __future__ import annotations

import asyncio
import codecs
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import BinaryIO, Callable

from pibot.contracts import ToolContext
from pibot.errors import ToolError

from .tree import Place, describe, errors, folder, opened, parent, walk

MAX_SEARCHED_FILE = 4 * 1024 * 1024
"""The largest file to search, in bytes; larger ones are skipped."""

MAX_VISITED = 5_000
MAX_MATCHES = 100
MAX_MATCH_CHARS = 200
REGEX_SECONDS = 20.0
MAX_TEXT = 1_000
"""The longest text to search for. Before Python 3.10 a search takes the product of both lengths, and nothing else runs
meanwhile."""

MAX_NAME = 255
"""The longest pattern for names; no name is longer."""

BLOCK = 16 * 1024
"""Bytes to search at once: few, so that the worker answers meanwhile and a cancelled search ends soon."""

_SNIFF = 8192


@dataclass(frozen=True)
class Query:
    """What to search for.

    Args:
        text: the text that a line must contain; empty to find the files themselves.
        name: a pattern for the files' names.
        ignore_case: whether capitals and small letters count as the same.

    Raises:
        ToolError: the text or the pattern is too long.
    """

    text: str
    name: str = "*"
    ignore_case: bool = False

    def __post_init__(self) -> None:
        if len(self.text) > MAX_TEXT:
            raise ToolError(
                f"the text has {len(self.text)} characters, {MAX_TEXT} are allowed; search for a part of it"
            )
        if len(self.name) > MAX_NAME:
            raise ToolError(f"the name has {len(self.name)} characters, {MAX_NAME} are allowed; use * for a part of it")

    def fold(self, text: str) -> str:
        """Return the text as it is compared."""
        return text.casefold() if self.ignore_case else text

    def not_found(self, place: Place) -> str:
        named = "" if self.name == "*" else f" in files named {self.name}"
        what = f"no line holds {self.text!r}{named}" if self.text else f"no file is named {self.name}"
        return f"nothing found: {what} under {place.shown}"


async def search(query: Query, place: Place) -> str:
    """Search in a thread, which stops soon after the caller is cancelled."""
    stop = threading.Event()
    searching = asyncio.get_running_loop().run_in_executor(None, _search, query, place, stop.is_set)
    try:
        return await asyncio.shield(searching)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({searching})
        raise


_GREP = """exec 3>&1
code=$({ { grep "$@"; echo $? >&4; } | sed 's/\\r$//; s/[\\r\\x08\\x1b]/ /g' >&3; } 4>&1)
exit $code"""
"""Runs grep, and replaces the controls in its output: a command's output is shown as on a terminal, where the rest of
a line could be drawn over the file's name."""


async def grep(query: Query, place: Place, context: ToolContext) -> str:
    """Search for a regular expression with a confined grep, which is ended if the pattern takes too long.

    Raises:
        ToolError: the pattern is malformed or takes too long, or commands can't see the place.
    """
    if place.root != context.workspace:
        raise ToolError("regex works in the task's folder only; search elsewhere for a plain text")
    next(_candidates(place), None)  # refuses links on the way
    where = "." if place.shown == "." else f"./{place.shown}"
    flags = ["-rnHIE", "-D", "skip", f"--include={query.name}", "-m", str(MAX_MATCHES)]
    argv = ["sh", "-c", _GREP, "grep", *flags, *(["-i"] if query.ignore_case else []), "-e", query.text, "--", where]
    result = await context.commands.run(argv, workspace=context.workspace, timeout=REGEX_SECONDS)
    if result.timed_out:
        raise ToolError(f"the search took longer than {REGEX_SECONDS:g} seconds; use a simpler pattern")
    if result.exit_code == 1:
        return query.not_found(place)
    if result.exit_code != 0:
        raise ToolError(f"the pattern could not be searched for: {result.output.strip()}")
    lines = [line.removeprefix("./")[:MAX_MATCH_CHARS] for line in result.output.splitlines()]
    return _limited(lines)


def _search(query: Query, place: Place, stopped: Callable[[], bool]) -> str:
    found: list[str] = []
    visited = 0
    for file, status in _candidates(place):
        visited += 1
        if stopped() or len(found) > MAX_MATCHES:
            break
        if not stat.S_ISREG(status.st_mode) or not fnmatchcase(file.names[-1], query.name):
            continue
        if not query.text:
            found.append(describe(file.shown, status))
        elif status.st_size <= MAX_SEARCHED_FILE:
            found += _matches(query, file, MAX_MATCHES + 1 - len(found), stopped)
    if visited > MAX_VISITED:
        found.append(f"[stopped after {MAX_VISITED} entries; search one of the folders]")
    return _limited(found) or query.not_found(place)


def _candidates(place: Place) -> Iterator[tuple[Place, os.stat_result]]:
    """Yield ``place`` itself if it is a file, else everything under it."""
    if place.names:
        with parent(place) as (fd, name), errors(place):
            status = os.lstat(name, dir_fd=fd)
        if not stat.S_ISDIR(status.st_mode):
            yield place, status
            return
    with folder(place):
        pass  # a missing folder is an error, not an empty result
    yield from walk(place, limit=MAX_VISITED + 1)


def _matches(query: Query, place: Place, limit: int, stopped: Callable[[], bool]) -> list[str]:
    found: list[str] = []
    try:
        with opened(place) as file:
            if b"\0" in file.read(_SNIFF):
                return []
            file.seek(0)
            for number, line in _lines(query, file, stopped):
                found.append(f"{place.shown}:{number}: {line.strip()[:MAX_MATCH_CHARS]}")
                if len(found) == limit:
                    break
    except ToolError:
        return []  # removed meanwhile, or not readable
    return found


def _lines(query: Query, file: BinaryIO, stopped: Callable[[], bool]) -> Iterator[tuple[int, str]]:
    """Yield the number and the beginning of each line that holds the query's text.

    It reads block by block, so that neither a large file nor a long line fills the memory.
    """
    wanted = query.fold(query.text)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    number, line, end, hit = 1, "", "", False  # of the line that the last block ended in
    for _ in range(MAX_SEARCHED_FILE // BLOCK + 1):
        data = file.read(BLOCK)
        text = decoder.decode(data, final=not data)
        if "\n" in text and wanted not in end + query.fold(text):
            if hit:
                yield number, line + text.partition("\n")[0][: 2 * MAX_MATCH_CHARS]
            number += text.count("\n")
            text = text[text.rfind("\n") + 1 :]
            line, end, hit = "", "", False
        for place, part in enumerate(text.split("\n")):
            if place:
                if hit:
                    yield number, line
                number += 1
                line, end, hit = "", "", False
            line = (line + part[: 2 * MAX_MATCH_CHARS]).lstrip()[: 2 * MAX_MATCH_CHARS]
            window = end + query.fold(part)
            hit = hit or wanted in window
            end = window[max(0, len(window) - len(wanted) + 1) :]
        if not data or stopped():
            break
    if hit:
        yield number, line


def _limited(lines: list[str]) -> str:
    if len(lines) > MAX_MATCHES:
        lines[MAX_MATCHES:] = [f"[only the first {MAX_MATCHES}; search for something rarer]"]
    return "\n".join(lines)
