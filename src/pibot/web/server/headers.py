"""Reads the head of a request, and refuses one that says twice what can only be said once."""

from __future__ import annotations

from typing import Any

from cheroot.server import HeaderReader

SINGLE = (b"Content-Length", b"Host", b"Authorization", b"Origin", b"Content-Type")
"""Of two lengths cheroot takes the last one. A server on the way that takes the first sees the requests of a connection
begin elsewhere, so that one can be smuggled past it (RFC 9112, section 6.3)."""


class SingleHeaderReader(HeaderReader):
    """cheroot's reader. A header of :data:`SINGLE` that comes twice, or goes on in a second line, is a 400."""

    def __call__(self, rfile: Any, hdict: dict[bytes, bytes] | None = None) -> dict[bytes, bytes]:
        """Read the headers into ``hdict``.

        Raises:
            ValueError: they are none, or one of them is there twice.
        """
        hdict = {} if hdict is None else hdict
        hdict.update(super().__call__(rfile, _Once()))
        return hdict


class _Once(dict[bytes, bytes]):
    def __setitem__(self, name: bytes, value: bytes) -> None:
        if name in SINGLE and name in self:
            raise ValueError(f"{name.decode()} is there twice.")
        super().__setitem__(name, value)
