"""Real servers on 127.0.0.1 for tests, and real requests to them."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pibot.web import ConnectionLimits, Server

LIMITS = ConnectionLimits()


@contextlib.contextmanager
def serving(
    app: Any, *, threads: int = 10, port: int = 0, limits: ConnectionLimits = LIMITS, handshake: Any = None
) -> Iterator[int]:
    """Serve a WSGI app on a free port (or ``port``), with the product's own server; the port is what you get."""
    server = Server(app, host="127.0.0.1", port=port, threads=threads, limits=limits, handshake=handshake)
    server.start()
    try:
        yield server.port
    finally:
        server.stop()


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    port: int,
    method: str,
    path: str,
    body: object = None,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> Answer:
    """One request on a connection of its own.

    Args:
        body: bytes are sent as they are, anything else as JSON; no Content-Type is sent, as by the guide's ``curl``.
        key: shown as a bearer token.
    """
    sent = dict(headers or {})
    if key is not None:
        sent["Authorization"] = f"Bearer {key}"
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, data, sent)
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()
