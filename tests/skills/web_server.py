"""A web server on 127.0.0.1 that answers with a test's bytes, and a fetch with a test's settings."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Callable, Optional, Union

from aiohttp.abc import AbstractResolver, ResolveResult
from skills.web_fetch.addresses import AddressGuard
from skills.web_fetch.tools import FetchLimits, _fetch

HANG = b"\0hang"
"""At the end of an answer: keep the connection open and send nothing more."""

RESET = b"\0reset"
"""At the end of an answer: break the connection."""


class WebServer:
    """Knows an answer for each path.

    Attributes:
        port: where it listens.
        routes: path to the whole answer, or to a function that makes it from the request's head.
        heads: the heads of all requests that came.
        hanging: set once an answer was left unfinished.
    """

    def __init__(self) -> None:
        self.port = 0
        self.scheme = "http"
        self.routes: dict[str, Union[bytes, Callable[[str], bytes]]] = {}
        self.heads: list[str] = []
        self.hanging = asyncio.Event()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def page(self, path: str, body: Union[str, bytes], status: str = "200 OK", **headers: str) -> str:
        """Set the answer for ``path``, and return its address. Write headers' names with ``_`` for ``-``."""
        data = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.routes[path] = answer(data, status, {"Content-Type": "text/html; charset=utf-8", **named})
        return self.url + path

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.readexactly(1)
            if first == b"\x16":  # the first byte of TLS, on a port for plain HTTP
                writer.write(answer(b"", "400 Bad Request", {}))
                return
            head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heads.append(head)
            route = self.routes.get(head.split(" ")[1], answer(b"nothing here", "404 Not Found", {}))
            data = route if isinstance(route, bytes) else route(head)
            writer.write(data.removesuffix(HANG).removesuffix(RESET))
            await writer.drain()
            if data.endswith(RESET):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if data.endswith(HANG):
                self.hanging.set()
                await reader.read()  # until the client closes
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away, as some tests want it to
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()


def answer(body: bytes, status: str, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a whole HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


@contextlib.asynccontextmanager
async def web_server(tls: Optional[ssl.SSLContext] = None) -> AsyncIterator[WebServer]:
    """Serve until the block ends."""
    web = WebServer()
    server = await asyncio.start_server(web.handle, "127.0.0.1", 0, ssl=tls)
    web.port = server.sockets[0].getsockname()[1]
    web.scheme = "http" if tls is None else "https"
    try:
        yield web
    finally:
        server.close()
        await server.wait_closed()


class Names(AbstractResolver):
    """Resolves names; each lookup returns the next of a name's addresses."""

    def __init__(self, **addresses: list[str]) -> None:
        self._addresses = {name.replace("_", "."): list(found) for name, found in addresses.items()}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host not in self._addresses:
            raise OSError(socket.EAI_NONAME, "Name or service not known")
        found = self._addresses[host]
        address = found.pop(0) if len(found) > 1 else found[0]
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None: ...


async def fetch(
    url: str,
    *,
    include: str = "text",
    max_chars: int = 8_000,
    allow: tuple[str, ...] = ("127.0.0.1",),
    limits: Optional[FetchLimits] = None,
    resolver: Optional[AbstractResolver] = None,
) -> str:
    return await _fetch(url, include, max_chars, AddressGuard(allow), limits or FetchLimits(), resolver)
