"""A client's connection: a socket that never blocks by itself, what was read of it, and how long it is waited for."""

from __future__ import annotations

import select
import socket
from dataclasses import dataclass
from typing import Any, Callable, Optional

from pibot.contracts import Clock

CHUNK = 64 * 1024
"""Bytes that are read or sent at once."""


@dataclass(frozen=True)
class ConnectionLimits:
    """What one client may take of a server.

    Args:
        head: seconds from the first byte of a request to the last of its head, a TLS handshake before it included.
        idle: seconds that a connection is kept between two requests.
        body: seconds for a body, beside those for its bytes at the least rate.
        send: seconds that the client may let the server wait while it takes an answer, beside those for its bytes.
        rate: the least rate in bytes a second.
        queue: seconds that a large body waits until it may be sent.
        connections: how many are open at once.
        per_address: how many of these from one address, or one IPv6 network.
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
    """The client did not send what it announced, or did not take what it asked for, in time."""

    def __init__(self) -> None:
        super().__init__("timed out")  # cheroot knows these words


class Channel:
    """The socket of one connection, and what has come over it. The file that cheroot reads from and writes to.

    Args:
        sock: connected.
        limits: of waiting.
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
        """Go on over TLS.

        Args:
            sock: the same connection as an ``SSLSocket``.
            not_yet: the errors by which it says that it would have to wait.
        """
        self.socket, self._pending, self._not_yet = sock, sock.pending, (BlockingIOError, *not_yet)

    @property
    def not_yet(self) -> tuple[type[OSError], ...]:
        """The errors by which the socket says that it would have to wait."""
        return self._not_yet

    def fill(self, most: int) -> None:
        """Take what has come into the inbox, until that holds ``most`` bytes. Never waits.

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
        """A request begins.

        Args:
            body: how many bytes of its body may be waited for; None for none.
        """
        self._read_until = None if body is None else self._clock() + self._limits.body
        self._earned = 1 / self._limits.rate
        self._send_left = self._limits.send

    def hasten(self) -> None:
        """What is still to come of the body is of no use: it gets no more time for its bytes."""
        if self._read_until is not None:
            self._read_until = min(self._read_until, self._clock() + self._limits.body)
            self._earned = 0.0

    # --- as a file ---

    def has_data(self) -> bool:
        return bool(self.inbox)

    def read(self, size: int) -> bytes:
        """``size`` bytes, or fewer where the client ended before.

        Raises:
            TooSlow: they didn't come in time.
        """
        while len(self.inbox) < size and not self.ended:
            self._await_more(size)
        return self._take(size)

    def readline(self, size: int = CHUNK) -> bytes:
        """A line, at most ``size`` bytes of it.

        Raises:
            TooSlow: it didn't come in time.
        """
        while (end := self.inbox.find(b"\n", 0, size)) < 0 and len(self.inbox) < size and not self.ended:
            self._await_more(size)
        return self._take(end + 1 if end >= 0 else size)

    def write(self, data: bytes) -> int:
        """Send it all.

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
        """Nothing is kept back."""

    def close(self) -> None:
        """Nothing: the connection closes the socket."""

    def _take(self, size: int) -> bytes:
        data = bytes(self.inbox[:size])
        del self.inbox[:size]
        return data

    def _await_more(self, size: int) -> None:
        if self._read_until is None:
            raise TooSlow
        before = len(self.inbox)
        self.fill(size)
        # The time for the bytes comes with them: who sends none holds no thread for as long as all of them would take.
        self._read_until += (len(self.inbox) - before) * self._earned
        if len(self.inbox) == before and not self.ended:
            self._wait(select.POLLIN, self._read_until - self._clock())

    def _wait(self, what: int, seconds: float) -> None:
        poll = select.poll()
        poll.register(self.socket, what)
        if seconds <= 0 or not poll.poll(seconds * 1000):
            raise TooSlow
