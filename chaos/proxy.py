"""A TCP proxy that can cut connections halfway, delay answers, refuse connections, and lie in its server's place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import Counter
from dataclasses import dataclass, field

from chaos.lies import Asked, Lie

CHUNK = 1 << 16


@dataclass
class _Direction:
    """One direction of a link. ``cuts`` holds, for each cut still to come, the share of the data to let through."""

    cuts: list[float] = field(default_factory=list)


# docs/decisions.md, D69
class Link:
    """A proxy in front of one server. Use it within one event loop.

    Attributes:
        upstream: the server's port; None while there is no server, and connections are closed at once.
        port: where callers connect; it never changes.
        done: how many cuts, delays and refusals have hit a connection, and how many lies were told.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.upstream: int | None = None
        self.done: Counter[str] = Counter()
        self._request = _Direction()
        self._answer = _Direction()
        self._held_until = 0.0
        self._refusing = 0
        self._lie: Lie | None = None
        self._server: asyncio.AbstractServer | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        # Reserves the port even while nothing listens on it: connections are refused, and no other process can take it.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]

    async def open(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)

    async def close(self) -> None:
        """Accept no more connections, and abort the open ones."""
        await self._stop_listening()
        self.drop()
        for handler in list(self._handlers):
            handler.cancel()
        if self._handlers:
            await asyncio.wait(self._handlers)
        self._reserved.close()

    def cut_request(self, share: float) -> None:
        """Let ``share`` of the next piece of a request pass, then abort the connection on both sides."""
        self._request.cuts.append(share)

    def cut_answer(self, share: float) -> None:
        """Let ``share`` of the next piece of an answer pass, then abort the connection on both sides."""
        self._answer.cuts.append(share)

    def delay(self, seconds: float) -> None:
        """Hold back all answers until ``seconds`` from now."""
        self._held_until = max(self._held_until, asyncio.get_running_loop().time() + seconds)

    async def refuse(self, seconds: float) -> None:
        """Abort all connections, and refuse new ones for ``seconds``."""
        self.done["refused"] += 1
        self._refusing += 1
        try:
            await self._stop_listening()
            self.drop()
            await asyncio.sleep(seconds)
        finally:
            self._refusing -= 1
        if not self._refusing:
            await self.open()

    async def tell(self, lie: Lie, seconds: float) -> None:
        """Abort all connections, and answer with ``lie`` in the server's place for ``seconds``."""
        self._lie = lie
        self.drop()
        try:
            await asyncio.sleep(seconds)
        finally:
            if self._lie is lie:  # else another lie has begun
                self._lie = None
                self.drop()

    def heal(self) -> None:
        """Cancel the cuts that have hit no connection yet, and any delay."""
        self._request.cuts.clear()
        self._answer.cuts.clear()
        self._held_until = 0.0

    def drop(self) -> None:
        """Abort all connections."""
        for writer in self._open:
            writer.transport.abort()

    async def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
            # No wait_closed(): from Python 3.12 on it also waits for the connections, which are aborted elsewhere.
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        self._open.add(writer)
        try:
            if self._lie is not None:
                await self._answer_with(self._lie, reader, writer)
                return
            if self.upstream is None:
                return
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
            self._open.add(server_writer)
            try:
                await self._relay(reader, writer, server_reader, server_writer)
            finally:
                self._open.discard(server_writer)
                server_writer.transport.abort()
        except (OSError, EOFError, asyncio.CancelledError):
            # One side is gone, and the other is aborted below. Or close() has cancelled this task: do not raise, since
            # asyncio's streams on Python 3.9 to 3.11 report a cancelled handler as an error.
            return
        finally:
            self._open.discard(writer)
            self._handlers.discard(handler)
            writer.transport.abort()

    async def _answer_with(self, lie: Lie, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer each request with this lie until the caller closes the connection.

        Raises:
            OSError, EOFError: the caller has closed it.
        """
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split()
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.done["lie told"] += 1
            for part in lie(Asked(method, path, json.loads(body or b"{}"), self.name)):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)  # drain() alone gives others no turn while the caller reads fast enough

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        """Pass data on both ways until one side ends or is cut."""
        ways = [
            asyncio.ensure_future(self._pass_on(reader, server_writer, self._request)),
            asyncio.ensure_future(self._pass_on(server_reader, writer, self._answer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: _Direction) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                data = await source.read(CHUNK)
                if not data:
                    return
                if way is self._answer:
                    await self._hold()
                if way.cuts:
                    self.done["request cut" if way is self._request else "answer cut"] += 1
                    sink.write(data[: int(len(data) * way.cuts.pop(0))])
                    await sink.drain()
                    return
                sink.write(data)
                await sink.drain()

    async def _hold(self) -> None:
        left = self._held_until - asyncio.get_running_loop().time()
        if left > 0:
            self.done["answer held back"] += 1
            await asyncio.sleep(left)
