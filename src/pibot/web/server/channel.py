"""One client's connection: a non-blocking socket, the bytes read from it, and the time that it may take."""

from __future__ import annotations

import select
import socket
from dataclasses import dataclass
from typing import Any, Callable, Optional

from pibot.contracts import Clock

CHUNK = 64 * 1024
"""Bytes read or sent in one call."""


@dataclass(frozen=True)
class ConnectionLimits:
    """How much of a server one client may use.

    Args:
        head: seconds from the first byte of a request, or of the TLS handshake before it, to the end of its head.
        idle: seconds that a connection is kept open between two requests.
        body: seconds for a body, plus the time that its bytes take at the lowest rate.
        send: seconds that the server waits for a client to take an answer, plus the time for its bytes likewise.
        rate: the lowest rate, in bytes a second.
        queue: seconds that a large body may wait for a thread to read it.
        connections: open connections in all.
        per_address: open connections from one IPv4 address or IPv6 network.
    """

    head: float = 10.0
    idle: float = 10.0
    body: float = 10.0
    send: float = 10.0
    rate: float = 32 * 1024
    queue: float = 30.0
    connections: int = 256
    per_address: int = 128


class TooSlow(socket.timeout):
    """The client did not send the body it announced, or did not take its answer, in time."""

    def __init__(self) -> None:
        super().__init__("timed out")  # cheroot compares these words


class Channel:
    """The socket of one connection and the bytes that have arrived. cheroot uses it as the connection's file.

    Args:
        sock: a connected socket.
        limits: how long to wait for the client.
        clock: seconds.
    """

    def __init__(self, sock: socket.socket, limits: ConnectionLimits, clock: Clock) -> None:
        self.inbox = bytearray()
        self.ended = False
        self._limits = limits
        self._clock = clock
        self._read_until: Optional[float] = None
        self._earned = 0.0
        self._send_left = limits.send
        self._not_yet: tuple[type[OSError], ...] = (BlockingIOError,)
        self._pending: Callable[[], int] = lambda: 0
        sock.setblocking(False)
        self.socket = sock

    def secure(self, sock: Any, not_yet: tuple[type[OSError], ...]) -> None:
        """Continue over TLS.

        Args:
            sock: the same connection as an ``SSLSocket``.
            not_yet: the errors that mean the socket would block.
        """
        self.socket, self._pending, self._not_yet = sock, sock.pending, (BlockingIOError, *not_yet)

    @property
    def not_yet(self) -> tuple[type[OSError], ...]:
        """The errors that mean the socket would block."""
        return self._not_yet

    def fill(self, most: int) -> None:
        """Read what has arrived into the inbox, up to ``most`` bytes in it. Never waits.

        Raises:
            OSError: the connection broke.
        """
        while (room := most - len(self.inbox)) > 0:
            try:
                data = self.socket.recv(min(room, CHUNK))
            except self._not_yet:
                return
            self.inbox += data
            self.ended = not data
            if self.ended or (len(data) < min(room, CHUNK) and not self._pending()):
                return

    def begin(self, body: Optional[int]) -> None:
        """Start the time of a request.

        Args:
            body: bytes of its body that reads may wait for; None if reads must not wait.
        """
        self._read_until = None if body is None else self._clock() + self._limits.body
        self._earned = 1 / self._limits.rate
        self._send_left = self._limits.send

    def hasten(self) -> None:
        """Grant the rest of the body no more time for its bytes, because nobody needs it."""
        if self._read_until is not None:
            self._read_until = min(self._read_until, self._clock() + self._limits.body)
            self._earned = 0.0

    # --- as a file ---

    @property
    def closed(self) -> bool:
        """Whether the socket is closed. cheroot asks this of a request that has not ended 5 s after the stop began."""
        return bool(self.socket.fileno() < 0)

    def read(self, size: int) -> bytes:
        """Read ``size`` bytes, or fewer if the client closes the connection before.

        Raises:
            TooSlow: they did not arrive in time.
        """
        while len(self.inbox) < size and not self.ended:
            self._await_more(size)
        return self._take(size)

    def readline(self, size: int = CHUNK) -> bytes:
        """Read a line, or its first ``size`` bytes.

        Raises:
            TooSlow: it did not arrive in time.
        """
        while (end := self.inbox.find(b"\n", 0, size)) < 0 and len(self.inbox) < size and not self.ended:
            self._await_more(size)
        return self._take(end + 1 if end >= 0 else size)

    def write(self, data: bytes) -> int:
        """Send all of ``data``.

        Raises:
            TooSlow: the client takes it too slowly.
        """
        self._send_left += len(data) / self._limits.rate
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.socket.send(rest[:CHUNK]) :]
            except self._not_yet:
                before = self._clock()
                self._wait(select.POLLOUT, self._send_left)
                self._send_left -= self._clock() - before
        return len(data)

    def flush(self) -> None:
        """Do nothing: :meth:`write` keeps nothing back."""

    def close(self) -> None:
        """Do nothing: the connection closes the socket."""

    def _take(self, size: int) -> bytes:
        data = bytes(self.inbox[:size])
        del self.inbox[:size]
        return data

    def _await_more(self, size: int) -> None:
        if self._read_until is None:
            raise TooSlow
        before = len(self.inbox)
        self.fill(size)
        # Bytes earn time as they arrive: a client that sends none can't hold a thread for the time of the whole body.
        self._read_until += (len(self.inbox) - before) * self._earned
        if len(self.inbox) == before and not self.ended:
            self._wait(select.POLLIN, self._read_until - self._clock())

    def _wait(self, what: int, seconds: float) -> None:
        poll = select.poll()
        poll.register(self.socket, what)
        if seconds <= 0 or not poll.poll(seconds * 1000):
            raise TooSlow
