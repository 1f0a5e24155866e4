"""The proxy breaks real connections over real sockets, as the test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from chaos.proxy import Link


class Server:
    """Answers each piece of a request with the same text, and records what it received."""

    def __init__(self) -> None:
        self.got = b""
        self.gone = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(100):
                self.got += data
                writer.write(b"answer to " + data)
                await writer.drain()
        writer.close()
        self.gone.set()


@contextlib.asynccontextmanager
async def link_to(server: Server) -> AsyncIterator[Link]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    link = Link("test")
    link.upstream = listening.sockets[0].getsockname()[1]
    await link.open()
    try:
        yield link
    finally:
        await link.close()
        listening.close()


async def say(link: Link, data: bytes) -> bytes:
    """Send ``data`` and return the answer; empty if the connection ends instead."""
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        writer.write(data)
        return await reader.read(100)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def test_data_passes_in_both_directions() -> None:
    async with link_to(Server()) as link:
        assert await say(link, b"hello") == b"answer to hello"


async def test_a_cut_request_arrives_in_part_and_gets_no_answer() -> None:
    server = Server()
    async with link_to(server) as link:
        link.cut_request(0.5)
        assert await say(link, b"12345678") == b""
        await server.gone.wait()
        assert server.got == b"1234"
        assert link.done == {"request cut": 1}
        assert await say(link, b"again") == b"answer to again"


async def test_a_cut_answer_arrives_in_part_after_a_whole_request() -> None:
    server = Server()
    async with link_to(server) as link:
        link.cut_answer(0.4)
        assert await say(link, b"12345") == b"answer"
        assert server.got == b"12345"
        link.cut_answer(0.0)
        assert await say(link, b"12345") == b""
        assert link.done == {"answer cut": 2}


async def test_a_delayed_answer_arrives_in_the_end() -> None:
    async with link_to(Server()) as link:
        link.delay(0.05)
        assert await say(link, b"hello") == b"answer to hello"
        assert link.done == {"answer held back": 1}


async def test_a_refusing_link_closes_and_refuses_connections_and_keeps_its_port() -> None:
    async with link_to(Server()) as link:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"hello")
        await reader.read(100)
        refusing = asyncio.ensure_future(link.refuse(0.05))
        with contextlib.suppress(ConnectionError):
            assert await reader.read(100) == b""  # the open connection is closed
        writer.transport.abort()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", link.port)
        await refusing
        assert await say(link, b"again") == b"answer to again"


async def test_a_connection_to_a_server_that_is_down_is_closed() -> None:
    async with link_to(Server()) as link:
        link.upstream = None
        assert await say(link, b"hello") == b""


async def test_a_healed_link_forgets_the_cuts_to_come() -> None:
    async with link_to(Server()) as link:
        link.cut_request(0.5)
        link.cut_answer(0.5)
        link.heal()
        assert await say(link, b"hello") == b"answer to hello"
