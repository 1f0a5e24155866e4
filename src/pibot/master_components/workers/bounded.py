"""Connections on which a worker can send no more than one answer of a bounded length.

aiohttp itself bounds a body that is read piece by piece, but not a head that never ends, interim answers that never
end, or what is sent on an idle connection.

``pyproject.toml`` bounds aiohttp because of this module. Before that bound is raised, compare ``aiohttp/connector.py``
(``_factory`` makes each connection's protocol) and ``aiohttp/client_proto.py`` (what ``ResponseHandler`` calls, and
when) of both versions, and run ``tests/security/test_lying_worker.py`` with the new one.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

MAX_HEAD = 16 * 1024
"""Bytes before an answer's body, interim answers (1xx) included."""

_END = b"\r\n\r\n"


def bounded_connector(most_bytes: int, *, keepalive_timeout: float, ssl: ssl.SSLContext | bool) -> aiohttp.TCPConnector:
    """Make the connector of a session to the workers.

    Args:
        most_bytes: of an answer's body.
        keepalive_timeout: seconds that an idle connection is kept.
        ssl: the context for HTTPS; True for the system's authorities.
    """
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=keepalive_timeout, ssl=ssl)
    # aiohttp has no other way to give a connection's protocol; a test shows that it is taken.
    connector._factory = partial(BoundedHandler, connector._loop, most_bytes)  # type: ignore[assignment]
    return connector


class TooMuchSent(aiohttp.ClientError):
    """More was sent than one answer may have."""


class BoundedHandler(ResponseHandler):
    """Closes the connection on which more is sent than one answer may have.

    Args:
        loop: the connection's.
        most_bytes: of an answer's body.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, most_bytes: int) -> None:
        super().__init__(loop)
        self._most = MAX_HEAD + most_bytes
        self._received = 0  # since the last request
        self._head_read = False

    def set_response_params(self, **params: Any) -> None:
        """Begin another answer."""
        self._received, self._head_read = 0, False
        super().set_response_params(**params)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take an answer's head from the parser."""
        self._head_read = self._head_read or data[0].code >= 200
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived, unless it is too much."""
        head = 0
        if not self._head_read:
            end = data.find(_END)
            head = self._received + (len(data) if end < 0 else end)
        self._received += len(data)
        if self._received > self._most or head > MAX_HEAD:
            self._refuse()
            return
        super().data_received(data)
        if not self._head_read and self._received > MAX_HEAD:
            self._refuse()

    def _refuse(self) -> None:
        if self.transport is not None:
            self.transport.abort()
        self.set_exception(TooMuchSent("it sent more than an answer may have"))
