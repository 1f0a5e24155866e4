"""The protocol between the worker and its sandbox service: one request and one answer for each connection.

A message is its length in four bytes, then JSON. A request names a number of bytes of ``stdin``, which follow it. The
worker closes its side to withdraw the request; the service closes the connection when no process of it is left.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

MAX_MESSAGE = 4 * 1024 * 1024
"""The longest message in bytes. A command line has at most 2 MiB, and JSON may double that."""

MAX_STDIN = 16 * 1024 * 1024
"""The most bytes of ``stdin``; the service holds them in memory."""

_LENGTH = struct.Struct("!I")


class BadMessage(Exception):
    """The other side sent a message that does not follow the protocol."""


def encoded(message: dict[str, Any]) -> bytes:
    """Return the bytes of a message.

    Raises:
        BadMessage: it is too long.
    """
    data = json.dumps(message).encode()
    if len(data) > MAX_MESSAGE:
        raise BadMessage(f"a message of {len(data)} bytes; {MAX_MESSAGE} are allowed")
    return _LENGTH.pack(len(data)) + data


async def read_message(reader: asyncio.StreamReader) -> dict[str, Any]:
    """Read one message.

    Raises:
        asyncio.IncompleteReadError: the other side closed before the message was whole.
        BadMessage: it is too long, or no JSON object.
    """
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > MAX_MESSAGE:
        raise BadMessage(f"a message of {length} bytes; {MAX_MESSAGE} are allowed")
    try:
        message = json.loads(await reader.readexactly(length))
    except ValueError as exc:
        raise BadMessage(f"a message that is not JSON: {exc}") from exc
    if not isinstance(message, dict):
        raise BadMessage("a message that is not a JSON object")
    return message
