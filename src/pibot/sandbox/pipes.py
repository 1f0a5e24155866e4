"""The input, the output and the control pipes of a command."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
from collections.abc import Iterator

from pibot.sandbox.redraws import Screen

CHUNK = 64 * 1024
_UTF8_MAX = 4


class Output:
    """Keeps the beginning and the end of what a command writes, and drops the middle.

    Lines that are drawn again, such as a progress bar, are shortened to their last state before that.

    Args:
        limit: characters to keep.

    Attributes:
        written: bytes that were written.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._half = limit // 2 * _UTF8_MAX
        self._head = bytearray()
        self._tail = bytearray()
        self._screen = Screen()
        self._shown = 0
        self.written = 0

    def add(self, data: bytes) -> None:
        self.written += len(data)
        self._keep(self._screen.add(data))

    def _keep(self, data: bytes) -> None:
        self._shown += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room < len(data) else b""
        if len(self._tail) > self._half + CHUNK:  # cutting each time would copy the tail each time
            del self._tail[: -self._half]

    def text(self) -> tuple[str, bool]:
        """Return the output as text, and whether a part of it was dropped."""
        self._keep(self._screen.end())
        if self._shown == len(self._head) + len(self._tail):
            whole = (self._head + self._tail).decode("utf-8", "replace")
            if len(whole) <= self._limit:
                return whole, False
        half = self._limit // 2
        # "ignore": the cut may have split a character.
        head = self._head.decode("utf-8", "ignore")[:half]
        tail = (self._head + self._tail if len(self._tail) < half else self._tail).decode("utf-8", "ignore")[-half:]
        dropped = max(self._shown - len(head.encode()) - len(tail.encode()), 1)
        return f"{head}\n[… about {dropped} bytes of output were dropped here …]\n{tail}", True


class Pipe:
    """A pipe that ``stack`` closes at its end, unless its ends were closed before."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.read_end, self.write_end = os.pipe()
        self._open = {self.read_end, self.write_end}
        stack.callback(self.close)

    def write(self, data: bytes) -> None:
        """Write a few bytes; ignore that the reader is gone."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.write_end, data)

    def read_line(self, writer: int) -> str:
        """Wait for a line. Return an empty string if the writer closed the pipe without one, or has ended.

        Args:
            writer: a pidfd of the writer. Other processes may hold the pipe open, so its end alone does not tell.
        """
        line = b""
        either = select.poll()
        either.register(self.read_end, select.POLLIN)
        either.register(writer, select.POLLIN)
        while not line.endswith(b"\n"):
            if self.read_end not in dict(either.poll()):
                break
            data = os.read(self.read_end, 1)
            if not data:
                break
            line += data
        return line.decode()

    def read_rest(self) -> str:
        """Read until the writer closes the pipe."""
        rest = b""
        while data := os.read(self.read_end, CHUNK):
            rest += data
        return rest.decode()

    def close_write_end(self) -> None:
        self._close(self.write_end)

    def close(self) -> None:
        self._close(self.read_end)
        self._close(self.write_end)

    def _close(self, fd: int) -> None:
        if fd in self._open:
            self._open.remove(fd)
            os.close(fd)


@contextlib.contextmanager
def memory_file(data: bytes) -> Iterator[int]:
    """Yield a descriptor to read ``data`` from. Unlike a pipe it needs no feeding and never blocks, at any size."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        # The reader must not be able to change our memory through it.
        fcntl.fcntl(
            fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        )
        yield fd
    finally:
        os.close(fd)
