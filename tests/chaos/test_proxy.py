"""The proxy breaks real connections over real sockets, as the test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from chaos.lies import LIES
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


async def say(link: Link, data: bytes, most: int = 100) -> bytes:
    """Send ``data`` and return up to ``most`` bytes of the answer; empty if the connection ends instead."""
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        writer.write(data)
        return await reader.read(most)
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


STATUS = b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n"
TASK = b'POST /task HTTP/1.1\r\nContent-Length: 16\r\n\r\n{"task_id": "t"}'


@contextlib.asynccontextmanager
async def lying(link: Link, name: str) -> AsyncIterator[None]:
    telling = asyncio.ensure_future(link.tell(LIES[name], 60))
    await asyncio.sleep(0)
    yield
    telling.cancel()
    await asyncio.wait([telling])


async def test_a_lie_is_told_in_the_servers_place_and_the_truth_follows_it() -> None:
    server = Server()
    async with link_to(server) as link:
        async with lying(link, "a version of 60 kB"):
            assert b"9" * 100 in (await say(link, STATUS, 1000))
            assert (await say(link, TASK)).startswith(b"HTTP/1.1 409 ")
        async with lying(link, "another task's result"):
            assert b'"worker_id": "test", "uptime_seconds"' in await say(link, STATUS, 1000)
            assert b'"task_id": "another"' in await say(link, TASK, 1000)
        assert (server.got, link.done) == (b"", {"lie told": 4})
        assert await say(link, b"hello") == b"answer to hello"


async def test_a_lie_without_an_end_lasts_until_the_caller_has_enough() -> None:
    async with link_to(Server()) as link, lying(link, "a body without an end"):
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(STATUS)
        assert len(await reader.readexactly(10**7)) == 10**7
        writer.transport.abort()
        assert await say(link, TASK, 15) == b"HTTP/1.1 200 OK"


async def test_the_end_of_a_lie_does_not_end_a_later_one() -> None:
    async with link_to(Server()) as link:
        earlier = asyncio.ensure_future(link.tell(LIES["no UTF-8"], 0.05))
        await asyncio.sleep(0)
        async with lying(link, "another task's result"):
            await earlier
            assert b'"task_id": "another"' in await say(link, TASK, 1000)
        assert await say(link, b"hello") == b"answer to hello"
