"""The HTTP server of :mod:`tests.support.scripted_llm`, which can break the protocol on purpose."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, cast

from tests.support.replies import Delivery, Reply


@dataclass(frozen=True)
class RecordedRequest:
    """One request, as received.

    Args:
        method: such as ``POST``.
        path: with the query.
        headers: with their names in lower case.
        body: the bytes.
        connection: the number of its connection, from 1. Requests on a kept-alive connection have the same number.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @functools.cached_property
    def json(self) -> dict[str, Any]:
        """The decoded body."""
        return cast("dict[str, Any]", json.loads(self.body))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages that the model got."""
        return cast("list[dict[str, Any]]", self.json["messages"])

    @property
    def tool_names(self) -> list[str]:
        """The names of the tools that the model was offered."""
        return [tool["function"]["name"] for tool in self.json.get("tools", [])]

    @property
    def authorization(self) -> str:
        """The ``Authorization`` header; empty if there is none."""
        return self.headers.get("authorization", "")


class ScriptedHTTPServer(socketserver.ThreadingTCPServer):
    """Serves each connection in a thread, and can shut all connections down."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self,
        answer: Callable[[RecordedRequest], Reply],
        client_gone: Callable[[], None],
        context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._context = context
        self.answer = answer
        self.client_gone = client_gone
        self._lock = threading.Lock()
        self._stopping = False
        self._accepts_no_more = threading.Event()
        self._accepted = 0
        self._open: set[socket.socket] = set()
        self._to_reset: set[socket.socket] = set()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._context is None:
            super().finish_request(request, client_address)
            return
        with self._context.wrap_socket(request, server_side=True) as wrapped:  # in the connection's own thread
            super().finish_request(wrapped, client_address)

    def accept_until_stopped(self) -> None:
        while not self._stopping:
            self.handle_request()
        self._accepts_no_more.set()

    def stop(self) -> None:
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
        socket.create_connection(cast("tuple[str, int]", self.server_address)).close()  # wakes accept()
        self._accepts_no_more.wait()  # otherwise server_close() could join a thread that has not started yet
        with self._lock:
            for connection in self._open:
                _shutdown(connection)
        self.server_close()  # joins the threads

    def opened(self, connection: socket.socket) -> int:
        with self._lock:
            self._open.add(connection)
            if self._stopping:
                _shutdown(connection)
            self._accepted += 1
            return self._accepted

    def ended(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def reset(self, connection: socket.socket) -> None:
        """Close the connection with an RST when its handler ends."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._to_reset.add(connection)

    def shutdown_request(self, request: Any) -> None:
        if request in self._to_reset:  # shutdown() would send a FIN first
            self._to_reset.discard(request)
            request.close()
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients that disconnect early are part of the tests."""


def _shutdown(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the client has closed it already


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes, and with the algorithm an answer may take 40 ms
    server: ScriptedHTTPServer

    def setup(self) -> None:
        self._number = self.server.opened(self.request)
        super().setup()

    def finish(self) -> None:
        self.server.ended(self.request)
        super().finish()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = RecordedRequest(self.command, self.path, headers, self._read_body(), self._number)
        self._send(self.server.answer(request))

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline() not in (b"\r\n", b""):
            pass
        return b"".join(parts)

    def _send(self, reply: Reply) -> None:
        if reply.delivery is Delivery.RESET:
            self.server.reset(self.request)
            self.close_connection = True
            return
        if reply.delivery is Delivery.HANG:
            self._wait_until_gone()
            return
        self.send_response_only(reply.status, http.client.responses.get(reply.status, "Scripted"))
        default = {"Server": "scripted", "Date": self.date_time_string(), "Content-Type": "application/json"}
        for name, value in {**default, **reply.headers}.items():
            self.send_header(name, value)
        if reply.delivery is Delivery.CHUNKED:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in reply.body.split(b"\n\n"):  # the last part is empty, and makes the chunk that ends the body
                data = part + b"\n\n" if part else b""
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            return
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if reply.delivery is Delivery.WHOLE:
            self.wfile.write(reply.body)
            self.close_connection = self.close_connection or reply.hang_up
            return
        self.wfile.write(reply.body[: len(reply.body) // 2])
        self.close_connection = True
        if reply.delivery is Delivery.STALLED:
            self._wait_until_gone()

    def _wait_until_gone(self) -> None:
        self.close_connection = True
        with contextlib.suppress(ConnectionError):  # an RST is a disconnect too
            self.request.recv(1)  # returns when the client closes, or when the server is stopped
        self.server.client_gone()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: requests are recorded."""
