"""Run real servers on 127.0.0.1, and send real requests to them."""

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
    """Serve a WSGI app with the product's server on a free port, or on ``port``; yields the port."""
    server = Server(app, host="127.0.0.1", port=port, threads=threads, limits=limits, handshake=handshake)
    server.start()
    try:
        yield server.port
    finally:
        server.stop()


@dataclass(frozen=True)
class Answer:
    """A response."""

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
    """Send one request on a new connection.

    Args:
        body: bytes are sent unchanged, anything else as JSON. No Content-Type is sent, like the guide's ``curl``.
        key: sent as a bearer token.
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
