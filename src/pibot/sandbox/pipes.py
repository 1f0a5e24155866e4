"""What goes into a command and comes out of it, within bounds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
from collections.abc import Iterator

CHUNK = 64 * 1024
_UTF8_MAX = 4


class Output:
    """The beginning and the end of what a command writes; the middle is dropped.

    Args:
        limit: characters that are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._half = limit // 2 * _UTF8_MAX
        self._head = bytearray()
        self._tail = bytearray()
        self.written = 0

    def add(self, data: bytes) -> None:
        self.written += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room < len(data) else b""
        if len(self._tail) > self._half + CHUNK:  # cut now and then, not each time
            del self._tail[: -self._half]

    def text(self) -> tuple[str, bool]:
        """What was written as text, and whether something was dropped of it."""
        if self.written == len(self._head) + len(self._tail):
            whole = (self._head + self._tail).decode("utf-8", "replace")
            if len(whole) <= self._limit:
                return whole, False
        half = self._limit // 2
        # "ignore": the cut may have gone through a character.
        head = self._head.decode("utf-8", "ignore")[:half]
        tail = (self._head + self._tail if len(self._tail) < half else self._tail).decode("utf-8", "ignore")[-half:]
        dropped = max(self.written - len(head.encode()) - len(tail.encode()), 1)
        return f"{head}\n[… about {dropped} bytes of output were dropped here …]\n{tail}", True


class Pipe:
    """A pipe whose ends are closed when ``stack`` is, or before."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.read_end, self.write_end = os.pipe()
        self._open = {self.read_end, self.write_end}
        stack.callback(self.close)

    def write(self, data: bytes) -> None:
        """Write a few bytes; a reader who is gone does not matter."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.write_end, data)

    def read_line(self, writer: int) -> str:
        """Wait for a line; empty where the writer closed without one, or is gone.

        Args:
            writer: a pidfd of the writer. Others may hold the pipe open, so its end alone does not tell.
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
        """All that was written before the writer closed."""
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
    """A descriptor to read ``data`` from, however large: a pipe would have to be fed, and could block."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        # The reader must not be able to write into our memory through it.
        fcntl.fcntl(
            fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        )
        yield fd
    finally:
        os.close(fd)
