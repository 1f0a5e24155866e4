"""Hold the connections that need no thread yet: new ones, idle ones, and those whose request is not complete.

One thread waits for all of them, so a slow client costs a little memory and no thread. cheroot alone would give each
request a thread from its first byte on, and do TLS handshakes in the thread that accepts. See docs/http-server.md.
"""

from __future__ import annotations

import contextlib
import logging
import re
import selectors
import socket
import threading
import time
from collections import Counter, deque
from enum import Enum
from typing import Any, Callable, Protocol

from pibot.contracts import Clock
from pibot.logs import event
from pibot.web.server.channel import Channel, ConnectionLimits
from pibot.web.server.hang_ups import HangUps
from pibot.web.server.networks import network_of

log = logging.getLogger("pibot.web")

MAX_HEADERS = 64 * 1024
"""Bytes of a request's head."""

# docs/decisions.md, D13
SMALL_BODY = 16 * 1024
"""Bytes of a body that the intake waits for, together with the head. A thread reads a larger one: it needs memory."""


class Handshake(Protocol):
    """A TLS handshake that makes progress as the client's messages arrive."""

    def go_on(self, conn: Connection) -> bool:
        """Process what has arrived on ``conn``; True once the handshake is complete.

        Raises:
            OSError: the handshake failed, or the client may not connect.
        """
        ...


class Connection(Protocol):
    """What the intake needs of a connection. cheroot's connection plus these fields is one.

    Attributes:
        channel: the socket and the bytes that have arrived.
        network: the client's address as :func:`network_of` counts it.
        number: the file descriptor, known after the socket is closed too.
        remote_addr: the client's address.
        ssl_env: what the handshake found out, for the WSGI environ; empty over plain HTTP.
        handshake: the TLS handshake while it lasts, else None.
        since: when the connection began to wait for what it waits for now, in the clock's seconds.
        answered: whether it has had a request answered.
        searched: bytes of the inbox already searched for the end of a head.
        body: bytes of the request's body that its thread still has to wait for; None for none.
    """

    channel: Channel
    network: str
    number: int
    remote_addr: str
    ssl_env: dict[str, Any]
    handshake: Handshake | None
    since: float
    answered: bool
    searched: int
    body: int | None

    def close(self) -> None: ...


class Intake:
    """Accept connections and pass complete requests on. Takes the place of cheroot's ``ConnectionManager``.

    Args:
        listener: the listening socket.
        connect: makes a connection of an accepted socket and the client's address.
        dispatch: has a thread answer the request of a connection.
        limits: what one client may use.
        readers: threads that may read large bodies at once; one network gets at most half of them.
        clock: seconds.

    Attributes:
        hang_ups: tells of clients that hang up while their request is being answered.
    """

    def __init__(
        self,
        listener: socket.socket,
        connect: Callable[[socket.socket, Any], Connection],
        dispatch: Callable[[Connection], None],
        limits: ConnectionLimits,
        *,
        readers: int,
        clock: Clock,
    ) -> None:
        self._listener = listener
        self._connect = connect
        self._dispatch = dispatch
        self._limits = limits
        self._readers = readers
        self._clock = clock
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self.hang_ups = HangUps()
        self._selector.register(self.hang_ups, selectors.EVENT_READ, self.hang_ups)
        self._watched: dict[int, Connection] = {}
        self._open: Counter[str] = Counter()
        self._reading: Counter[str] = Counter()
        self._queue: deque[Connection] = deque()
        self._serving = False
        self._stopping = False
        self._closed = False

    # --- what cheroot calls ---

    def run(self, interval: float) -> None:
        """Accept connections and receive requests until :meth:`stop`; check for timeouts every ``interval`` seconds."""
        self._serving = True
        try:
            checked = self._clock()
            while not self._stopping:
                for key, _ in self._selector.select(interval):
                    if key.data is None:
                        self._accept()
                    elif key.data is self.hang_ups:
                        self.hang_ups.tell()
                    else:
                        self._receive(key.data)
                if self._clock() - checked >= interval:
                    checked = self._clock()
                    self._expire(checked)
        finally:
            self._serving = False

    def stop(self) -> None:
        """End :meth:`run`."""
        self._stopping = True
        while self._serving:
            time.sleep(0.01)

    def close(self) -> None:
        """Close the connections that wait here."""
        with self._lock:
            self._closed = True
            waiting = [*self._watched.values(), *self._queue]
            self._selector.close()
        self.hang_ups.close()
        for conn in waiting:
            self._drop(conn)

    def put(self, conn: Connection) -> None:
        """Take a connection back once its request is answered."""
        conn.since, conn.answered, conn.searched = self._clock(), True, 0
        try:
            conn.channel.fill(MAX_HEADERS + SMALL_BODY)
        except OSError:
            self._drop(conn)
            return
        self._sort(conn)

    @property
    def can_add_keepalive_connection(self) -> bool:
        """Whether cheroot may keep a connection for a further request."""
        return not self._stopping

    # --- what connections call ---

    def done(self, conn: Connection) -> None:
        """Note that a request is answered, and dispatch the large bodies that may be read now."""
        if conn.body is None:
            return
        conn.body = None
        with self._lock:
            _take_one(self._reading, conn.network)
            ready = [waiting for waiting in self._queue if self._may_read(waiting)]
            for waiting in ready:
                self._queue.remove(waiting)
        for waiting in ready:
            self._dispatch(waiting)

    def closed(self, conn: Connection) -> None:
        """Note that a connection was closed."""
        with self._lock:
            _take_one(self._open, conn.network)

    # --- connections ---

    def _accept(self) -> None:
        try:
            sock, address = self._listener.accept()
        except OSError as exc:  # the client has gone already, or too many files are open
            if not isinstance(exc, (BlockingIOError, socket.timeout, ConnectionError)):
                event(log, "not_accepted", level=logging.WARNING, error=exc)
                self._close_one(lambda _: True)
            return
        if not self._make_room(network_of(address[0])):
            sock.close()
            return
        conn = self._connect(sock, address)
        conn.since = self._clock()
        with self._lock:
            self._open[conn.network] += 1
        self._watch(conn)

    def _make_room(self, network: str) -> bool:
        """Accept another connection from this network? May close the longest-waiting one to make room."""
        if self._open[network] >= self._limits.per_address:
            return self._close_one(lambda conn: conn.network == network)
        if sum(self._open.values()) >= self._limits.connections:
            with self._lock:
                greedy = max(self._open, key=lambda other: self._open[other])
            return self._close_one(lambda conn: conn.network == greedy)
        return True

    def _close_one(self, which: Callable[[Connection], bool]) -> bool:
        """Close the connection that has waited longest; those that never sent a complete request come first."""
        waiting = [conn for conn in list(self._watched.values()) if which(conn)]
        if not waiting:
            return False
        self._unwatch(chosen := min(waiting, key=lambda conn: (_is_idle(conn), conn.since)))
        self._drop(chosen)
        return True

    def _watch(self, conn: Connection) -> None:
        number = conn.number
        with self._lock:
            if number in self._watched:
                return
            if not self._closed:
                self._watched[number] = conn
                self._selector.register(number, selectors.EVENT_READ, conn)
                return
        self._drop(conn)

    def _unwatch(self, conn: Connection) -> None:
        number = conn.number
        with self._lock:
            if self._watched.pop(number, None) is not None:
                self._selector.unregister(number)

    def _drop(self, conn: Connection) -> None:
        with contextlib.suppress(OSError):
            conn.close()

    # --- requests ---

    def _receive(self, conn: Connection) -> None:
        """Read what has arrived on a watched connection."""
        try:
            if conn.handshake is not None:
                if not conn.handshake.go_on(conn):
                    return
                conn.handshake = None
            idle = _is_idle(conn)
            conn.channel.fill(MAX_HEADERS + SMALL_BODY)
            if idle and not _is_idle(conn):  # over TLS, part of a record may arrive, which yields no byte yet
                conn.since = self._clock()  # the time for a further request starts with its first byte
        except OSError:
            self._unwatch(conn)
            self._drop(conn)
            return
        self._sort(conn)

    def _sort(self, conn: Connection) -> None:
        """Go on waiting for the request, have a thread answer it, queue it for its large body, or drop it."""
        arrival, length = _arrival(conn)
        if arrival is _Arrival.PARTIAL:
            self._watch(conn)
            return
        self._unwatch(conn)
        if arrival is _Arrival.ENDED:
            self._drop(conn)
            return
        conn.searched = 0
        if arrival is _Arrival.LARGE:
            conn.body, conn.since = length, self._clock()
            with self._lock:
                if not self._may_read(conn):
                    self._queue.append(conn)
                    return
        self._dispatch(conn)

    def _may_read(self, conn: Connection) -> bool:
        """Whether a thread may read this body now; if so, count it. The caller holds the lock."""
        network = conn.network
        mine, all_ = self._reading[network], sum(self._reading.values())
        if all_ >= self._readers or mine >= max(1, self._readers // 2):
            return False
        self._reading[network] += 1
        return True

    def _expire(self, now: float) -> None:
        """Close the connections that have waited too long."""
        limits = self._limits
        for conn in list(self._watched.values()):
            if now - conn.since >= (limits.idle if _is_idle(conn) else limits.head):
                self._unwatch(conn)
                self._refuse(conn, "408 Request Timeout")
        with self._lock:
            late = [conn for conn in self._queue if now - conn.since >= limits.queue]
            for conn in late:
                self._queue.remove(conn)
                conn.body = None
        for conn in late:
            self._refuse(conn, "503 Service Unavailable")

    def _refuse(self, conn: Connection, status: str) -> None:
        """Close a connection; answer first if a request has begun and the client takes the answer at once."""
        if conn.channel.inbox and conn.handshake is None:
            with contextlib.suppress(OSError):
                conn.channel.socket.send(
                    f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
                )
        self._drop(conn)


def _is_idle(conn: Connection) -> bool:
    """Whether the connection is between two requests."""
    return conn.answered and not conn.channel.inbox


def _take_one(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if counter[name] <= 0:
        del counter[name]  # else the counter would keep the name of every client there ever was


class _Arrival(Enum):
    PARTIAL = "more of the request is still to come"
    READY = "a thread can answer the request without waiting for the client"
    LARGE = "a thread has to read the request's body"
    ENDED = "the client has closed the connection"


_FIRST_LINE = re.compile(rb"(?:\r\n)?[!-~]+ [!-~]+ HTTP/[0-9]+\.[0-9]+\r\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BODY = re.compile(rb"(?i)\n[ \t\r\v\f]*(content-length|transfer-encoding|expect)[ \t\v\f]*:[ \t]*([^\r\n]*)")
"""The headers that announce a body. The blanks before a name exclude ``\\n``: with it, each blank line would be
searched again together with all that follow, which takes quadratic time."""


def _arrival(conn: Connection) -> tuple[_Arrival, int]:
    """How much of the request in the inbox has arrived, and its body's length in bytes.

    A malformed request counts as ready, because cheroot refuses it; its thread gets no further byte to read.
    """
    inbox = conn.channel.inbox
    if not inbox:
        return (_Arrival.ENDED if conn.channel.ended else _Arrival.PARTIAL), 0
    end = inbox.find(b"\r\n\r\n", max(0, conn.searched - 3))
    if end < 0:
        malformed = _BARE_LF.search(inbox, max(0, conn.searched - 1)) or (
            inbox.find(b"\n", 2) >= 0 and not _FIRST_LINE.match(inbox)
        )
        conn.searched = len(inbox)
        ready = malformed or conn.channel.ended or len(inbox) > MAX_HEADERS
        return (_Arrival.READY if ready else _Arrival.PARTIAL), 0
    found = [(name.lower(), value.strip()) for name, value in _BODY.findall(inbox, 0, end + 2)]
    lengths = [value for name, value in found if name == b"content-length"]
    if len(lengths) != 1 or not lengths[0].isdigit() or len(lengths[0]) > 12 or (b"transfer-encoding" in dict(found)):
        return _Arrival.READY, 0
    length = int(lengths[0])
    if len(inbox) >= end + 4 + length:
        return _Arrival.READY, 0
    if length > SMALL_BODY or b"expect" in dict(found):
        return _Arrival.LARGE, length
    conn.searched = end
    return (_Arrival.READY if conn.channel.ended else _Arrival.PARTIAL), 0
