"""A real HTTP proxy on 127.0.0.1: passes CONNECT tunnels and plain requests on, and records them."""

from __future__ import annotations

import base64
import select
import socket
import ssl
import threading
from types import TracebackType
from urllib.parse import urlsplit


class ProxyServer:
    """The proxy, which listens from construction on.

    Args:
        login: the user and the password that it wants, as ``user:password``; None for none.
        context: answers over TLS.
        instead: an address that every tunnel goes to, whatever name it asks for.

    Attributes:
        asked: the first line of each request.
        port: where it listens.
    """

    def __init__(
        self,
        login: str | None = None,
        context: ssl.SSLContext | None = None,
        instead: tuple[str, int] | None = None,
    ) -> None:
        self._wanted = None if login is None else "Basic " + base64.b64encode(login.encode()).decode()
        self._context = context
        self._instead = instead
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> ProxyServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                if self._context is not None:
                    with self._context.wrap_socket(connection, server_side=True) as wrapped:
                        self._pass_on(wrapped)
                else:
                    self._pass_on(connection)
            except OSError:
                return

    def _pass_on(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            part = client.recv(65536)
            if not part:
                return
            head += part
        lines = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        self.asked.append(lines[0])
        shown = next(
            (line.partition(": ")[2] for line in lines if line.lower().startswith("proxy-authorization")), None
        )
        if self._wanted is not None and shown != self._wanted:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        method, target, _ = lines[0].split(" ")
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        address = self._instead or (parts.hostname or "", parts.port or 80)
        with socket.create_connection(address) as server:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = f"{parts.path}?{parts.query}" if parts.query else parts.path
                server.sendall(head.replace(target.encode(), path.encode(), 1))
            _copy(client, server)


def _copy(client: socket.socket, server: socket.socket) -> None:
    """Copy both ways until one side ends."""
    while True:
        pending = isinstance(client, ssl.SSLSocket) and client.pending()
        ready = [client] if pending else select.select([client, server], [], [])[0]
        for source in ready:
            data = source.recv(65536)
            if not data:
                return
            (server if source is client else client).sendall(data)
