"""What the worker and its sandbox service say to each other over their socket: one request, and one answer.

Each is four bytes with the length, then JSON. A request is followed by as many bytes of ``stdin`` as it says. The
worker closes its side to take the request back; the service closes the connection when no process of it is left.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes of one request or answer. A command line has at most 2 MiB, and JSON may double that."""

MAX_STDIN = 16 * 1024 * 1024
"""Bytes that a command can be given to read; the service holds them in its memory."""

_LENGTH = struct.Struct("!I")


class BadMessage(Exception):
    """The other side sent something that does not fit."""


def encoded(message: dict[str, Any]) -> bytes:
    """A message as it is sent.

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
        asyncio.IncompleteReadError: the other side closed before it was whole.
        BadMessage: it is none.
    """
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > MAX_MESSAGE:
        raise BadMessage(f"a message of {length} bytes; {MAX_MESSAGE} are allowed")
    try:
        message = json.loads(await reader.readexactly(length))
    except ValueError as exc:
        raise BadMessage(f"a message that is no JSON: {exc}") from exc
    if not isinstance(message, dict):
        raise BadMessage("a message that is no JSON object")
    return message
