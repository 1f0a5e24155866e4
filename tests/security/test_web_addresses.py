"""web_fetch is sent to addresses that are not on the public web. Without the control, it reaches each of them."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator
from typing import Optional

import pytest
from skills.web_fetch.addresses import AddressGuard

from pibot.errors import ToolError
from tests.skills.web_server import Names, WebServer, fetch, web_server

ALL = ("0.0.0.0/0", "::/0")
"""What an owner would have to allow for these to succeed: the control, turned off."""


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    async with web_server() as server:
        server.page("/", "secret")
        yield server


# --- this machine, by whatever name ---

LOOPBACK = """
127.0.0.1 127.1 127.0.1 0 0.0.0.0 2130706433 017700000001 0x7f000001 0x7f.0x0.0x0.0x1 0177.0.0.1 0x7f.1 127.0.0.1.
127.000.000.001 localhost LOCALHOST localhost. [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:7f00:1]
①②⑦.⓪.⓪.① １２７.０.０.１ 127。0。0。1
"""


@pytest.mark.parametrize("host", LOOPBACK.split())
async def test_this_machine_is_not_reached_as(host: str, web: WebServer) -> None:
    with pytest.raises(ToolError):
        await fetch(f"http://{host}:{web.port}/", allow=())
    assert web.heads == []
    # A client that resolves the name with the C library reaches this machine; some clients drop the last dot first.
    name = host.strip("[]").rstrip(".")
    found = await asyncio.get_running_loop().getaddrinfo(name, web.port, type=socket.SOCK_STREAM)
    address = next(str(place[0]) for *_, place in found if place[0] != "::1")
    _, writer = await asyncio.open_connection(address, web.port)
    writer.close()


TRICKS = {
    "a users name that looks like the host": "http://example.com@127.0.0.1:{port}/",
    "a password that looks like the host": "http://a:example.com@127.0.0.1:{port}/",
    "a fragment that looks like the host": "http://127.0.0.1:{port}/#@example.com/",
    "a query that looks like the host": "http://127.0.0.1:{port}/?@example.com/",
    "a backslash before the host": "http://example.com\\@127.0.0.1:{port}/",
    "a tab within the scheme": "ht\ttp://127.0.0.1:{port}/",
    "a line end before the path": "http://127.0.0.1:{port}\r\n/",
    "capitals in the scheme": "HTTP://127.0.0.1:{port}/",
    "one slash": "http:/127.0.0.1:{port}/",
    "an escaped host": "http://127.0.0.%31:{port}/",
    "a space before": " http://127.0.0.1:{port}/",
}


@pytest.mark.parametrize("url", TRICKS.values(), ids=list(TRICKS))
async def test_this_machine_is_not_reached_by(url: str, web: WebServer) -> None:
    with pytest.raises(ToolError):
        await fetch(url.format(port=web.port), allow=())
    assert web.heads == []


# --- other machines that are not on the public web ---

PRIVATE = """
[::1] [0:0:0:0:0:0:0:1] [::] [::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b::127.0.0.1] [64:ff9b:1::1] [2002:7f00:1::]
[2002:7f00:0001::1] [2002:c0a8:0a71::] [2001:0:4136:e378:8000:63bf:3fff:fdd2] [fe80::1] [fe80::1%25eth0] [fec0::1]
[fc00::1] [fd00:ec2::254] [ff02::1] [ff05::1:3] [100::1] [2001:db8::1] [3fff::1] [::ffff:169.254.169.254]
[::ffff:10.0.0.1] [::ffff:0:127.0.0.1] 169.254.169.254 0xa9fea9fe 2852039166 100.64.0.1 100.100.100.200 10.0.0.1
172.16.0.1 192.168.10.113 192.168.10.66 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 224.0.0.1 239.255.255.250
240.0.0.1 255.255.255.255
"""


@pytest.mark.parametrize("host", PRIVATE.split())
async def test_nothing_is_connected_to_at(host: str) -> None:
    with pytest.raises(ToolError, match=r"which is not on the public web|not a canonical IPv4 address|is no address"):
        await fetch(f"http://{host}/", allow=())
    # Without the control, a client would connect to it. The test does not: it must contact no other machine.
    with contextlib.suppress(ValueError):  # a number is an address only after it is resolved
        address = str(ipaddress.ip_address(host.strip("[]").replace("%25eth0", "")))
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        AddressGuard(ALL)((family, socket.SOCK_STREAM, 0, "", (address, 80, 0, 0))).close()


# --- names and redirects ---


async def test_a_name_that_leads_to_this_machine_is_refused(web: WebServer) -> None:
    url, names = f"http://evil.example:{web.port}/", Names(evil_example=["127.0.0.1"])
    with pytest.raises(ToolError, match=r"leads to 127.0.0.1, which is not on the public web.*PIBOT_WEB_ALLOW"):
        await fetch(url, allow=(), resolver=names)
    assert web.heads == []
    assert "secret" in await fetch(url, allow=ALL, resolver=names)


async def test_a_name_that_changes_its_address_between_check_and_use_is_refused(web: WebServer) -> None:
    url = f"http://evil.example:{web.port}/"
    names = Names(evil_example=["93.184.216.34", "127.0.0.1"])
    checked = await names.resolve("evil.example", web.port)  # as by a tool that checks before it connects
    assert ipaddress.ip_address(checked[0]["host"]).is_global
    with pytest.raises(ToolError, match=r"leads to 127.0.0.1"):
        await fetch(url, allow=(), resolver=names)
    assert web.heads == []
    assert "secret" in await fetch(url, allow=ALL, resolver=names)


async def test_a_name_that_changes_its_address_between_two_requests_is_checked_each_time(web: WebServer) -> None:
    web.page("/first", "", "302 Found", Location=f"http://evil.example:{web.port}/")

    def names() -> Names:
        return Names(evil_example=["127.0.0.1", "127.0.0.2"])

    url = f"http://evil.example:{web.port}/first"
    with pytest.raises(ToolError, match=r"leads to 127.0.0.2"):
        await fetch(url, allow=("127.0.0.1",), resolver=names())
    assert len(web.heads) == 1
    with pytest.raises(ToolError, match=r"no connection to evil.example"):  # it did try; nothing listens there
        await fetch(url, allow=ALL, resolver=names())


async def test_a_host_that_the_owner_allows_does_not_allow_what_it_redirects_to(web: WebServer) -> None:
    web.page("/first", "", "302 Found", Location=f"http://127.0.0.1:{web.port}/")
    url, names = f"http://nas.lan:{web.port}/first", Names(nas_lan=["127.0.0.1"])
    with pytest.raises(ToolError, match=r"leads to 127.0.0.1"):
        await fetch(url, allow=("nas.lan",), resolver=names)
    assert len(web.heads) == 1
    assert "secret" in await fetch(url, allow=ALL, resolver=names)


NUMBER = r"not a canonical IPv4 address|which is not on the public web"  # depends on the version of aiohttp
REDIRECTS = {
    "this machine": ("http://127.0.0.2:{port}/", None),
    "this machine as a number": ("http://2130706434:{port}/", NUMBER),
    "this machine in hexadecimal": ("http://0x7f000002:{port}/", NUMBER),
    "the metadata of a cloud": ("//169.254.169.254/latest/meta-data/", None),
    "the router": ("http://192.168.10.1/", None),
    "this machine by IPv6": ("http://[::1]:{port}/", None),
    "this machine by a mapped address": ("http://[::ffff:127.0.0.2]:{port}/", None),
    "a file": ("file:///etc/passwd", "must begin with http"),
    "gopher": ("gopher://127.0.0.1:{port}/_x", "must begin with http"),
    "ftp": ("ftp://127.0.0.1:{port}/", "must begin with http"),
    "data": ("data:text/html,secret", "must begin with http"),
}


@pytest.mark.parametrize(("target", "words"), REDIRECTS.values(), ids=list(REDIRECTS))
async def test_a_page_does_not_send_the_worker_on_to(target: str, words: Optional[str], web: WebServer) -> None:
    url = web.page("/first", "", "302 Found", Location=target.format(port=web.port))
    with pytest.raises(ToolError, match=words or r"which is not on the public web"):
        await fetch(url)
    assert len(web.heads) == 1
