"""Serve a WSGI app with cheroot: TLS, limits, and a stop that finishes the requests in flight."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import signal
import socket
import threading
import time
from functools import partial
from queue import SimpleQueue
from typing import Any, Callable, cast

from cheroot import wsgi
from cheroot.server import HTTPConnection, HTTPRequest

from pibot.contracts import Clock
from pibot.errors import SettingsError
from pibot.web.server.channel import CHUNK, Channel, ConnectionLimits
from pibot.web.server.hang_ups import HANG_UP
from pibot.web.server.headers import SingleHeaderReader
from pibot.web.server.intake import MAX_HEADERS, Handshake, Intake
from pibot.web.server.networks import network_of

log = logging.getLogger("pibot.web")

REQUEST_TIMEOUT = 10
"""Seconds for the head of a request, and for an idle connection."""

MAX_REST = 16 * 1024 * 1024
"""Bytes of an unread body that the server still reads before it answers."""

SEND_BUFFER = 192 * 1024
"""Bytes of an answer that the kernel buffers, so that no thread waits for a slow client. It holds every answer that
needs no key (the hub's ``/openapi.json`` is the largest). Linux allows 208 KiB (``wmem_max``)."""

LIMITS = ConnectionLimits(head=REQUEST_TIMEOUT, idle=REQUEST_TIMEOUT)


class Server:
    """A cheroot server for one app.

    Args:
        app: a WSGI application.
        host: the address to listen on.
        port: 0 for any free one.
        threads: requests that are answered at once.
        handshake: makes the TLS handshake of a connection, for HTTPS; see :class:`pibot.tls.ServerTls`.
        limits: what one client may use.
        clock: seconds.

    Raises:
        SettingsError: the server can't listen on this address.
    """

    def __init__(
        self,
        app: Any,
        *,
        host: str,
        port: int,
        threads: int = 10,
        handshake: Callable[[], Handshake] | None = None,
        limits: ConnectionLimits = LIMITS,
        clock: Clock = time.monotonic,
    ) -> None:
        self._server = _CherootServer(
            (host, port), app, numthreads=threads, request_queue_size=128, timeout=REQUEST_TIMEOUT
        )
        self._server.gateway = _Gateway
        self._server.max_request_header_size = MAX_HEADERS
        self._server.secure = handshake is not None
        try:
            self._server.prepare()
        except OSError as exc:
            raise SettingsError(
                f"can't listen on {host} port {port}: {_reason(exc)}; choose another with --port or --host"
            ) from exc
        self._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # connections inherit it
        self.port: int = self._server.bind_addr[1]

        def connect(sock: socket.socket, address: Any) -> _Connection:
            channel = Channel(sock, limits, clock)
            return _Connection(self._server, channel, address, None if handshake is None else handshake())

        self._server._connections.close()  # cheroot's own, which has accepted nothing yet
        self._server._connections = Intake(
            self._server.socket,
            connect,
            self._server.process_conn,
            limits,
            readers=max(2, threads // 2),
            clock=clock,
        )
        self._thread: threading.Thread | None = None

    def serve(self) -> None:
        """Answer requests until :meth:`stop` is called from another thread."""
        self._server.serve()

    def start(self) -> None:
        """Answer requests in a thread."""
        self._thread = threading.Thread(target=self.serve, name="pibot-http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Accept no new connections, finish the requests in flight, and end."""
        self._server.stop()
        if self._thread is not None:
            self._thread.join()


def serve(
    app: Any,
    *,
    host: str,
    port: int,
    stop: Callable[[], None],
    ready: Callable[[int], None] | None = None,
    threads: int = 10,
    handshake: Callable[[], Handshake] | None = None,
) -> None:
    """Serve ``app`` from the main thread until SIGTERM or SIGINT.

    Args:
        app, host, port, threads, handshake: as for :class:`Server`.
        stop: called on the signal, while requests are still answered; ends the work that they wait for.
        ready: called with the port once the server accepts connections.

    Raises:
        SettingsError: the server can't listen on this address.
    """
    server = Server(app, host=host, port=port, threads=threads, handshake=handshake)

    # A signal may interrupt this thread while it holds a lock of threading or logging, so its handler takes none:
    # SimpleQueue.put() is made for that.
    signals: SimpleQueue[int | None] = SimpleQueue()

    def graceful() -> None:
        number = signals.get()
        if number is None:
            return
        log.info("stopping signal=%s", signal.Signals(number).name)
        try:
            stop()
        finally:
            server.stop()

    stopping = threading.Thread(target=graceful, name="pibot-stop")
    stopping.start()
    handled = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, lambda number, _frame: signals.put(number)) for number in handled}
    try:
        if ready is not None:
            ready(server.port)
        server.serve()
    finally:
        signals.put(None)
        stopping.join()
        for number, handler in previous.items():
            signal.signal(number, handler)


class _CherootServer(wsgi.Server):
    secure = False
    _connections: Any

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        log.log(level, "%s", msg, exc_info=traceback)


class _Request(HTTPRequest):
    """Sends a response's head and the first part of its body in one packet. See docs/decisions.md, D12."""

    header_reader = SingleHeaderReader()
    _head = b""

    def __init__(self, server: Any, conn: Any) -> None:
        super().__init__(server, conn)
        self.scheme = b"https" if server.secure else b"http"

    def read_request_line(self) -> bool:
        """Read the request line; False if it was malformed and has been refused."""
        try:
            return bool(super().read_request_line())  # type: ignore[no-untyped-call]
        except ValueError:  # urllib raises it for a host in brackets that is no address
            self.simple_response("400 Bad Request", "Malformed Request-URI")
            return False

    def send_headers(self) -> None:
        # Read what the app left of the body, else the client gets a reset instead of the answer. cheroot would hold the
        # rest in memory, and would not answer at all if it does not arrive.
        if not self.chunked_read and not self._read_rest():
            self.close_connection = True
            self.rfile.remaining = 0
        # docs/decisions.md, D12
        wfile = self.conn.wfile
        self.conn.wfile = head = io.BytesIO()
        try:
            super().send_headers()
        finally:
            self.conn.wfile = wfile
        self._head = head.getvalue()

    def write(self, chunk: bytes) -> None:
        if self.chunked_write:
            self.flush_head()
        else:
            chunk, self._head = self._head + chunk, b""
        super().write(chunk)

    def _read_rest(self) -> bool:
        """Read the rest of the body; False if some stays unread, because it is too long or does not arrive."""
        self.conn.channel.hasten()
        try:
            while getattr(self.rfile, "remaining", 0) > 0:
                if self.rfile.remaining > MAX_REST or not self.rfile.read(CHUNK):
                    return False
        except OSError:
            return False
        return True

    def flush_head(self) -> None:
        """Send the head if no body was sent with it."""
        head, self._head = self._head, b""
        if head:
            self.conn.wfile.write(head)


class _Connection(HTTPConnection):
    """cheroot's connection, with the fields of :class:`~pibot.web.server.intake.Connection`."""

    RequestHandlerClass = _Request

    def __init__(self, server: Any, channel: Channel, address: Any, handshake: Handshake | None) -> None:
        super().__init__(server, channel.socket, lambda *_: channel)
        self.channel = channel
        self.number = channel.socket.fileno()
        self.handshake = handshake
        self.ssl_env: dict[str, Any] = {}
        self.remote_addr, self.remote_port = address[:2]
        self.network = network_of(self.remote_addr)
        self.since = 0.0
        self.answered = False
        self.searched = 0
        self.body: int | None = None
        self._closed = False

    def communicate(self) -> bool:
        self.channel.begin(self.body)
        try:
            return bool(super().communicate())  # type: ignore[no-untyped-call]
        finally:
            self.server._connections.done(self)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.server._connections.done(self)
        self.server._connections.closed(self)
        self.socket = self.channel.socket
        if self.ssl_env:
            with contextlib.suppress(OSError, ValueError):
                self.socket.unwrap()  # announces the end of the data, and never waits
        super().close()


class _Gateway(wsgi.Gateway_10):
    def get_environ(self) -> dict[str, Any]:  # type: ignore[override]  # cheroot's is not typed
        environ: dict[str, Any] = super().get_environ()  # type: ignore[no-untyped-call]
        environ[HANG_UP] = partial(self.req.server._connections.hang_ups.watch, self.req.conn.number)
        return environ

    def respond(self) -> None:
        # A body refused for its length stays unread, so what follows on this connection is not a request.
        if self.req.chunked_read or not self.req.inheaders.get(b"Content-Length", b"0").isdigit():
            self.req.close_connection = True
        super().respond()
        self.req.flush_head()


def _reason(exc: OSError) -> str:
    """The operating system's message, without what cheroot wraps around it."""
    match = re.search(r"\[Errno \d+\] ([^)\]]+)", str(exc))
    return cast(str, match.group(1) if match else exc.strerror or str(exc))
