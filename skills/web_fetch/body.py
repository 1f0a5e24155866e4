"""Read the body of an answer as far as it comes, and unpack it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Optional

from pibot.errors import ToolError

from .characters import is_plain

if TYPE_CHECKING:
    import aiohttp

CHUNK = 64 * 1024
_GZIP = b"\x1f\x8b"
_PACKED = frozenset(("gzip", "x-gzip", "deflate"))
_OTHER_PACKINGS = frozenset(
    ("br", "zstd", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip", "bzip2", "xz")
)
_MAX_LAYERS = 3
_PIECE = 16 * 1024
"""Bytes to unpack at a time."""

_ENOUGH = 64
"""So many bytes that are plain text are not packed, however they are called."""


class Body:
    """What came of an answer's body.

    Args:
        limit: bytes to read.

    Attributes:
        response: the answer whose body it is; None until that has come.
        wanted: whether it is worth reading.
        data: what came, as it was sent.
        ended: why it is not whole; empty if it is.
    """

    def __init__(self, limit: int) -> None:
        self.response: Optional[aiohttp.ClientResponse] = None
        self.wanted = False
        self.data = bytearray()
        self.ended = ""
        self._limit = limit

    async def read(self, response: aiohttp.ClientResponse) -> None:
        """Read to the end, to the limit, or until the connection breaks.

        Raises:
            aiohttp.ClientError, OSError: the connection broke before anything came.
        """
        import aiohttp

        content = response.content
        try:
            async for chunk in content.iter_chunked(CHUNK):
                self._add(chunk)
                if self.ended:
                    return
        except (aiohttp.ClientError, OSError):
            # Once the connection broke, the public methods no longer give what has come before.
            self._add(content._read_nowait(-1))
            if not self.data:
                raise
            self.stop("the connection broke")

    def stop(self, why: str) -> None:
        """Note why the rest is missing."""
        size = None if self.response is None else self.response.content_length
        of = "" if size is None else f" of {size}"
        self.ended = self.ended or f"{why} after {len(self.data)}{of} bytes"

    def _add(self, chunk: bytes) -> None:
        self.data += chunk
        if len(self.data) > self._limit:
            del self.data[self._limit :]
            self.ended = f"it was read up to {self._limit} bytes"


def packings(headers: list[str]) -> list[str]:
    """Return the packings that a body has, from the ``Content-Encoding`` headers: the last is the outermost.

    Others than those of HTTP are left out: ``utf-8``, ``none`` or ``aws-chunked`` say nothing about the body.
    """
    names = [name.strip().strip("\"'").lower() for name in ",".join(headers).split(",")]
    return [name for name in names if name in _PACKED or name in _OTHER_PACKINGS]


def unpack(data: bytes, names: list[str], limit: int) -> tuple[bytes, str]:
    """Unpack a body.

    Args:
        data: the body, perhaps without its end.
        names: its packings, from :func:`packings`.
        limit: bytes to unpack.

    Returns:
        The body, and why it is not whole; empty if it is.

    Raises:
        ToolError: it is packed in a way that was not asked for, or not as it says and no text either.
    """
    ended = ""
    for name in names[: -_MAX_LAYERS - 1 : -1]:
        if name in _OTHER_PACKINGS:
            if len(data) >= _ENOUGH and is_plain(data):
                continue
            raise ToolError(f"the answer is packed as {name!r}, which was not asked for and can't be unpacked")
        data, problem = _unpacked(data, name, limit)
        ended = problem or ended
    for _ in range(_MAX_LAYERS):
        if not data.startswith(_GZIP):
            break
        data, problem = _unpacked(data, "gzip", limit)
        ended = problem or ended
    return data, ended


def _unpacked(data: bytes, name: str, limit: int) -> tuple[bytes, str]:
    if not _has_header(data) and is_plain(data):
        return data, ""  # it is not packed, whatever its header says
    unpacker = Unpacker(name)
    try:
        # One byte more than allowed shows that the body is longer.
        found = unpacker(data, limit + 1)
    except zlib.error as exc:
        if is_plain(data):
            return data, ""
        raise ToolError(f"the answer is packed as {name}, but broken: {exc}") from exc
    if len(found) > limit:
        return found[:limit], f"it was read up to {limit} bytes"
    if unpacker.problem:
        return found, f"its packed data is broken after {len(found)} unpacked bytes: {unpacker.problem}"
    return found, "" if unpacker.whole else "its packed data ends too early"


def _has_header(data: bytes) -> bool:
    """Return whether a body begins as gzip or zlib (RFC 1950, 2.2)."""
    return data.startswith(_GZIP) or (data[:1] == b"x" and int.from_bytes(data[:2], "big") % 31 == 0)


class Unpacker:
    """Unpacks no more bytes than requested, since 2 MB can unpack to 2 GB.

    Attributes:
        problem: what is wrong behind the bytes that were unpacked; empty if nothing is.
    """

    def __init__(self, name: str) -> None:
        self.problem = ""
        self._name = name
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by their headers
        self._begun = False

    @property
    def whole(self) -> bool:
        return self._stream.eof or not self._begun

    def __call__(self, data: bytes, room: int) -> bytes:
        """Unpack.

        Raises:
            zlib.error: there is nothing to unpack.
        """
        found = bytearray()
        at = 0
        while at < len(data) and len(found) < room:
            piece = data[at : at + _PIECE]
            before = self._stream.copy()
            try:
                found += self._stream.decompress(piece, room - len(found))
            except zlib.error as exc:
                found += _before_the_damage(before, piece, room - len(found))
                if found:
                    self.problem = str(exc)
                    break
                if self._name != "deflate" or self._begun:
                    raise
                self._stream = zlib.decompressobj(-zlib.MAX_WBITS)  # some servers omit deflate's header
                self._begun = True
                continue
            self._begun = True
            at += len(piece) - len(self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail)
            if self._stream.eof:
                if not data.startswith(_GZIP, at):
                    break  # what follows the end does not belong to it
                self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip may have several members
        return bytes(found)


def _before_the_damage(stream: zlib._Decompress, piece: bytes, room: int) -> bytes:
    """Unpack what the failed call for the whole piece has lost."""
    found = bytearray()
    for at in range(len(piece)):
        try:
            found += stream.decompress(piece[at : at + 1], room - len(found))
        except zlib.error:
            break
        if len(found) >= room:
            break
    return bytes(found)
