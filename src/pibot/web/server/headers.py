"""Read the headers of a request, and refuse repeated ones that may come only once."""

from __future__ import annotations

from typing import Any

from cheroot.server import HeaderReader

SINGLE = (b"Content-Length", b"Host", b"Authorization", b"Origin", b"Content-Type")
"""Of two lengths cheroot takes the last. A proxy that takes the first sees the requests begin elsewhere, and so one can
be smuggled past it (RFC 9112, section 6.3)."""


class SingleHeaderReader(HeaderReader):
    """cheroot's reader. Refuses with 400 a header of :data:`SINGLE` that is repeated or folded into a second line."""

    def __call__(self, rfile: Any, hdict: dict[bytes, bytes] | None = None) -> dict[bytes, bytes]:
        """Read the headers into ``hdict``.

        Raises:
            ValueError: a header is malformed or repeated; cheroot answers 400.
        """
        hdict = {} if hdict is None else hdict
        hdict.update(super().__call__(rfile, _Once()))
        return hdict


class _Once(dict[bytes, bytes]):
    def __setitem__(self, name: bytes, value: bytes) -> None:
        if name in SINGLE and name in self:
            raise ValueError(f"{name.decode()} is repeated.")
        super().__setitem__(name, value)
