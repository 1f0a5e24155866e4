"""A server on 127.0.0.1 that records whatever reaches it, and serves a test's pages."""

from __future__ import annotations

import socketserver
import threading
from types import TracebackType
from typing import Optional


class _Connection(socketserver.StreamRequestHandler):
    server: Recorder
    timeout = 10  # seconds, for a client that never finishes its request

    def handle(self) -> None:
        got = line = self.rfile.readline()
        length = 0
        while line not in (b"\r\n", b""):
            line = self.rfile.readline()
            got += line
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        got += self.rfile.read(length)
        self.server.requests.append(got.decode("utf-8", "replace"))
        path = got.split(b" ")[1].decode("latin-1") if got.count(b" ") > 1 else ""
        head, body = self.server.pages.get(path.partition("?")[0], ("404 Not Found", ""))
        data = body.encode()
        fixed = f"Content-Type: text/html; charset=utf-8\r\nContent-Length: {len(data)}\r\nConnection: close"
        self.wfile.write(f"HTTP/1.1 {head}\r\n{fixed}\r\n\r\n".encode() + data)


class Recorder(socketserver.ThreadingTCPServer):
    """The server, which listens from construction on.

    Attributes:
        port: where it listens.
        pages: by path, the status line with further headers, and the body.
        requests: the text that each connection sent.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.port = int(self.server_address[1])
        self.pages: dict[str, tuple[str, str]] = {}
        self.requests: list[str] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __exit__(
        self,
        kind: Optional[type[BaseException]] = None,
        exc: Optional[BaseException] = None,
        traceback: Optional[TracebackType] = None,
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
