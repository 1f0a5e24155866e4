"""The cheroot server: TLS, limits, and a stop that finishes the requests in flight."""

from __future__ import annotations

import io
import logging
import re
import signal
import threading
from typing import TYPE_CHECKING, Any, Callable, cast

from cheroot import wsgi
from cheroot.server import HTTPConnection, HTTPRequest

from pibot.errors import SettingsError
from pibot.web.headers import SingleHeaderReader

if TYPE_CHECKING:
    import ssl

log = logging.getLogger("pibot.web")

MAX_HEADERS = 64 * 1024
"""Bytes of a request's head."""

REQUEST_TIMEOUT = 10
"""Seconds in which a client has to send the next part of its request, and an idle connection is kept."""


class Server:
    """A cheroot server for one app.

    Args:
        app: a WSGI application.
        host: the address to listen on.
        port: 0 for any free one.
        threads: how many requests are answered at once.
        ssl_context: for HTTPS.

    Raises:
        SettingsError: the address can't be had.
    """

    def __init__(
        self, app: Any, *, host: str, port: int, threads: int = 10, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._server = _CherootServer(
            (host, port), app, numthreads=threads, request_queue_size=128, timeout=REQUEST_TIMEOUT
        )
        self._server.gateway = _Gateway
        self._server.ConnectionClass = _Connection
        self._server.max_request_header_size = MAX_HEADERS
        self._server.keep_alive_conn_limit = 128
        if ssl_context is not None:
            self._server.ssl_adapter = _tls_adapter(ssl_context)
        try:
            self._server.prepare()
        except OSError as exc:
            raise SettingsError(
                f"can't listen on {host} port {port}: {_reason(exc)}; choose another with --port or --host"
            ) from exc
        self.port: int = self._server.bind_addr[1]
        self._thread: threading.Thread | None = None

    def serve(self) -> None:
        """Answer requests until :meth:`stop` is called from another thread."""
        self._server.serve()

    def start(self) -> None:
        """Answer requests in a thread of its own."""
        self._thread = threading.Thread(target=self.serve, name="pibot-http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no new connections, finish the requests in flight, and end."""
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
    ssl_context: ssl.SSLContext | None = None,
) -> None:
    """Serve ``app`` from the main thread until SIGTERM or SIGINT.

    Args:
        stop: called on the signal, while requests are still answered: end the work, so that who waits gets an answer.
        ready: called with the port once connections are taken.

    Raises:
        SettingsError: the address can't be had.
    """
    server = Server(app, host=host, port=port, threads=threads, ssl_context=ssl_context)

    def graceful() -> None:
        try:
            stop()
        finally:
            server.stop()

    stopping = threading.Thread(target=graceful, name="pibot-stop")

    def on_signal(number: int, _frame: object) -> None:
        if stopping.ident is None:
            log.info("stopping signal=%s", signal.Signals(number).name)
            stopping.start()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        if ready is not None:
            ready(server.port)
        server.serve()
        if stopping.ident is not None:
            stopping.join()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _CherootServer(wsgi.Server):
    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        log.log(level, "%s", msg, exc_info=traceback)


class _Request(HTTPRequest):
    """Sends a response's head with the first part of its body: one packet, which wakes the client once."""

    header_reader = SingleHeaderReader()
    _head = b""

    def send_headers(self) -> None:
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

    def flush_head(self) -> None:
        """Send the head where no body took it along."""
        head, self._head = self._head, b""
        if head:
            self.conn.wfile.write(head)


class _Connection(HTTPConnection):
    RequestHandlerClass = _Request


class _Gateway(wsgi.Gateway_10):
    def respond(self) -> None:
        # A body that is refused for its length stays unread, so what follows on this connection is no request.
        if self.req.chunked_read or not self.req.inheaders.get(b"Content-Length", b"0").isdigit():
            self.req.close_connection = True
        super().respond()
        self.req.flush_head()


def _tls_adapter(context: ssl.SSLContext) -> Any:
    from cheroot.ssl.builtin import BuiltinSSLAdapter

    # The adapter has no argument for a ready context, and reads the files that it is given.
    adapter = BuiltinSSLAdapter.__new__(BuiltinSSLAdapter)
    adapter.context = context
    return adapter


def _reason(exc: OSError) -> str:
    """The operating system's own words, out of cheroot's wrapping."""
    match = re.search(r"\[Errno \d+\] ([^)\]]+)", str(exc))
    return cast(str, match.group(1) if match else exc.strerror or str(exc))
