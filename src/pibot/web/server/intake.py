"""Connections that no thread works on: new, idle, or with a request that has not come whole.

One thread waits for all of them, so that a slow client costs a little memory and no thread. cheroot gives a thread to
each request from its first byte on, and does TLS handshakes where it accepts connections.
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
from pibot.web.server.channel import ConnectionLimits
from pibot.web.server.networks import network_of

log = logging.getLogger("pibot.web")

MAX_HEADERS = 64 * 1024
"""Bytes of a request's head."""

SMALL_BODY = 16 * 1024
"""Bytes of a body that is waited for together with its head. A larger one is read by a thread, for it needs memory."""


class Handshake(Protocol):
    """A TLS handshake that goes on as its parts come."""

    def go_on(self, conn: Any) -> bool:
        """Whether it is done.

        Raises:
            OSError: it failed, or the client is none that is let in.
        """
        ...


class Intake:
    """Stands in for cheroot's ``ConnectionManager``.

    Args:
        listener: the listening socket.
        connect: makes a connection of a socket and the address it comes from.
        dispatch: has a thread answer a request that has come.
        limits: what one client may take.
        readers: how many threads may read large bodies at once; one address gets half of them.
        clock: seconds.
    """

    def __init__(
        self,
        listener: socket.socket,
        connect: Callable[[socket.socket, Any], Any],
        dispatch: Callable[[Any], None],
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
        self._watched: dict[int, Any] = {}
        self._open: Counter[str] = Counter()
        self._reading: Counter[str] = Counter()
        self._queue: deque[Any] = deque()
        self._serving = False
        self._stopping = False
        self._closed = False

    # --- what cheroot calls ---

    def run(self, interval: float) -> None:
        """Take connections and requests until :meth:`stop`, and look every ``interval`` seconds whose time is up."""
        self._serving = True
        try:
            looked = self._clock()
            while not self._stopping:
                for key, _ in self._selector.select(interval):
                    if key.data is None:
                        self._accept()
                    else:
                        self._go_on(key.data)
                if self._clock() - looked >= interval:
                    looked = self._clock()
                    self._expire(looked)
        finally:
            self._serving = False

    def stop(self) -> None:
        """End :meth:`run`."""
        self._stopping = True
        while self._serving:
            time.sleep(0.01)

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            self._closed = True
            waiting = [*self._watched.values(), *self._queue]
            self._selector.close()
        for conn in waiting:
            self._drop(conn)

    def put(self, conn: Any) -> None:
        """Take a connection back whose request was answered."""
        conn.since, conn.answered, conn.searched = self._clock(), True, 0
        try:
            conn.channel.fill(MAX_HEADERS + SMALL_BODY)
        except OSError:
            self._drop(conn)
            return
        self._look(conn)

    @property
    def can_add_keepalive_connection(self) -> bool:
        return not self._stopping

    # --- what connections call ---

    def done(self, conn: Any) -> None:
        """A thread has answered the request: the next large body may be read."""
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

    def closed(self, conn: Any) -> None:
        """A connection is closed."""
        with self._lock:
            _take_one(self._open, conn.network)

    # --- connections ---

    def _accept(self) -> None:
        try:
            sock, address = self._listener.accept()
        except OSError as exc:  # it went away already, or there are too many files open
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
        """Whether another connection from there has its place, for which one that waits may be closed."""
        if self._open[network] >= self._limits.per_address:
            return self._close_one(lambda conn: conn.network == network)
        if sum(self._open.values()) >= self._limits.connections:
            with self._lock:
                greedy = max(self._open, key=lambda other: self._open[other])
            return self._close_one(lambda conn: conn.network == greedy)
        return True

    def _close_one(self, which: Callable[[Any], bool]) -> bool:
        """Close the connection that has waited longest, before all one that never sent a whole request."""
        waiting = [conn for conn in list(self._watched.values()) if which(conn)]
        if not waiting:
            return False
        self._unwatch(chosen := min(waiting, key=lambda conn: (conn.answered and not conn.channel.inbox, conn.since)))
        self._drop(chosen)
        return True

    def _watch(self, conn: Any) -> None:
        number = conn.number
        with self._lock:
            if number in self._watched:
                return
            if not self._closed:
                self._watched[number] = conn
                self._selector.register(number, selectors.EVENT_READ, conn)
                return
        self._drop(conn)

    def _unwatch(self, conn: Any) -> None:
        number = conn.number
        with self._lock:
            if self._watched.pop(number, None) is not None:
                self._selector.unregister(number)

    def _drop(self, conn: Any) -> None:
        with contextlib.suppress(OSError):
            conn.close()

    # --- requests ---

    def _go_on(self, conn: Any) -> None:
        """More has come over a watched connection."""
        try:
            if conn.handshake is not None:
                if not conn.handshake.go_on(conn):
                    return
                conn.handshake = None
            between = conn.answered and not conn.channel.inbox
            conn.channel.fill(MAX_HEADERS + SMALL_BODY)
            if between and conn.channel.inbox:  # over TLS what comes may be a part of a record, which is nothing yet
                conn.since = self._clock()  # the time of a further request starts with its first byte
        except OSError:
            self._unwatch(conn)
            self._drop(conn)
            return
        self._look(conn)

    def _look(self, conn: Any) -> None:
        """See how far the request has come that is in a connection's inbox."""
        step, length = _look_at(conn)
        if step is _Step.WAIT:
            self._watch(conn)
            return
        self._unwatch(conn)
        if step is _Step.GONE:
            self._drop(conn)
            return
        conn.searched = 0
        if step is _Step.LARGE:
            conn.body, conn.since = length, self._clock()
            with self._lock:
                if not self._may_read(conn):
                    self._queue.append(conn)
                    return
        self._dispatch(conn)

    def _may_read(self, conn: Any) -> bool:
        """Whether a thread may read that body now; if so, it counts. With the lock held."""
        network = conn.network
        mine, all_ = self._reading[network], sum(self._reading.values())
        if all_ >= self._readers or mine >= max(1, self._readers // 2):
            return False
        self._reading[network] += 1
        return True

    def _expire(self, now: float) -> None:
        limits = self._limits
        for conn in list(self._watched.values()):
            between = conn.answered and not conn.channel.inbox
            if now - conn.since >= (limits.idle if between else limits.head):
                self._unwatch(conn)
                self._refuse(conn, "408 Request Timeout")
        with self._lock:
            late = [conn for conn in self._queue if now - conn.since >= limits.queue]
            for conn in late:
                self._queue.remove(conn)
                conn.body = None
        for conn in late:
            self._refuse(conn, "503 Service Unavailable")

    def _refuse(self, conn: Any, status: str) -> None:
        """Close a connection, with an answer where a request has begun and the client takes it at once."""
        if conn.channel.inbox and conn.handshake is None:
            with contextlib.suppress(OSError):
                conn.channel.socket.send(
                    f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
                )
        self._drop(conn)


def _take_one(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if counter[name] <= 0:
        del counter[name]  # else it would hold every name that ever came


class _Step(Enum):
    WAIT = "the rest is still to come"
    READY = "a thread can answer it without waiting for the client"
    LARGE = "a thread has to read its body"
    GONE = "the client has ended"


_FIRST_LINE = re.compile(rb"(?:\r\n)?[!-~]+ [!-~]+ HTTP/[0-9]+\.[0-9]+\r\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BODY = re.compile(rb"(?i)\n[ \t\r\v\f]*(content-length|transfer-encoding|expect)[ \t\v\f]*:[ \t]*([^\r\n]*)")
"""Its blanks are no line ends: else each blank line is looked at together with all that follow it, again and again."""


def _look_at(conn: Any) -> tuple[_Step, int]:
    """How far the request in the inbox has come, and how long its body is.

    What is malformed counts as ready: cheroot says no to it. It gets nothing to read beyond what is there.
    """
    inbox: bytearray = conn.channel.inbox
    if not inbox:
        return (_Step.GONE if conn.channel.ended else _Step.WAIT), 0
    end = inbox.find(b"\r\n\r\n", max(0, conn.searched - 3))
    if end < 0:
        malformed = _BARE_LF.search(inbox, max(0, conn.searched - 1)) or (
            inbox.find(b"\n", 2) >= 0 and not _FIRST_LINE.match(inbox)
        )
        conn.searched = len(inbox)
        return (_Step.READY if malformed or conn.channel.ended or len(inbox) > MAX_HEADERS else _Step.WAIT), 0
    found = [(name.lower(), value.strip()) for name, value in _BODY.findall(inbox, 0, end + 2)]
    lengths = [value for name, value in found if name == b"content-length"]
    if len(lengths) != 1 or not lengths[0].isdigit() or len(lengths[0]) > 12 or (b"transfer-encoding" in dict(found)):
        return _Step.READY, 0
    length = int(lengths[0])
    if len(inbox) >= end + 4 + length:
        return _Step.READY, 0
    if length > SMALL_BODY or b"expect" in dict(found):
        return _Step.LARGE, length
    conn.searched = end
    return (_Step.READY if conn.channel.ended else _Step.WAIT), 0
