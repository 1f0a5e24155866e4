"""The skill web_fetch connects to public addresses, and to what its owner allows."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import pytest
from skills.web_fetch.addresses import AddressGuard, is_public

from pibot.errors import ToolError

PRIVATE = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254 169.254.169.254
169.254.0.1 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.170 192.0.2.1 192.88.99.1 192.168.10.66 198.18.0.1
198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 :: ::1 ::7f00:1
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:100.64.0.1 ::ffff:0:127.0.0.1 64:ff9b::7f00:1
64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:10::1 2001:20::1
2001:db8::1 2002:7f00:1:: 2002:a9fe:a9fe:: 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1
ff05::1:3 4000::1
"""
PUBLIC = """
1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 172.32.0.1 93.184.216.34 ::ffff:8.8.8.8 2606:4700::1111
2a00:1450::1
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_no_socket_is_made_for_an_address_that_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    guard = AddressGuard()
    with pytest.raises(OSError, match="is not public"):
        connect(guard, address)
    assert guard.refused == [str(ipaddress.ip_address(address))]


@pytest.mark.parametrize("address", PUBLIC.split())
def test_a_public_address_gets_its_socket(address: str) -> None:
    connect(AddressGuard(), address)


def test_a_zone_does_not_hide_a_link_local_address() -> None:
    with pytest.raises(OSError, match="is not public"):
        connect(AddressGuard(), "fe80::1%eth0")


@pytest.mark.parametrize("text", ["2130706433", "127.1", "0x7f000001", "localhost", ""])
def test_an_ambiguous_address_gets_no_socket_even_if_everything_is_allowed(text: str) -> None:
    with pytest.raises(OSError, match="is not public"):
        connect(AddressGuard(["0.0.0.0/0", "::/0"]), text)


# --- the owner's list ---


@pytest.mark.parametrize(
    ("allow", "host", "address", "port"),
    [
        (["127.0.0.0/8"], "localhost", "127.0.0.1", 80),
        (["127.0.0.0/8"], "x", "::ffff:127.0.0.1", 80),
        (["192.168.10.113"], "192.168.10.113", "192.168.10.113", 5000),
        (["192.168.10.113:5000"], "192.168.10.113", "192.168.10.113", 5000),
        (["10.0.0.0/8:8080"], "x", "10.1.2.3", 8080),
        (["[fd00::1]:80"], "x", "fd00::1", 80),
        (["fd00::/8"], "x", "fd12::1", 80),
        (["::1"], "x", "::1", 80),
        (["nas.lan"], "NAS.lan.", "192.168.1.5", 80),
        (["nas.lan:8080"], "nas.lan", "192.168.1.5", 8080),
        (["other", "nas.lan"], "nas.lan", "192.168.1.5", 443),
    ],
)
def test_an_address_that_the_owner_allows_gets_a_socket(
    allow: Sequence[str], host: str, address: str, port: int
) -> None:
    connect(AddressGuard(allow), address, host, port)


@pytest.mark.parametrize(
    ("allow", "host", "address", "port"),
    [
        (["127.0.0.0/8"], "localhost", "::1", 80),
        (["192.168.10.113"], "192.168.10.114", "192.168.10.114", 80),
        (["192.168.10.113:5000"], "192.168.10.113", "192.168.10.113", 22),
        (["nas.lan:8080"], "nas.lan", "192.168.1.5", 80),
        (["nas.lan"], "evil.example", "192.168.1.5", 80),
        (["nas.lan"], "nas.lan.evil.example", "192.168.1.5", 80),
        (["nas.lan"], "x-nas.lan", "192.168.1.5", 80),
        ([], "", "127.0.0.1", 80),
    ],
)
def test_an_address_that_the_owner_does_not_allow_gets_none(
    allow: Sequence[str], host: str, address: str, port: int
) -> None:
    with pytest.raises(OSError, match="is not public"):
        connect(AddressGuard(allow), address, host, port)


@pytest.mark.parametrize("entry", ["", "http://nas.lan/", "10.0.0.0/33", "a b", ":80", "user@nas.lan"])
def test_a_wrong_entry_in_the_owners_list_is_named(entry: str) -> None:
    with pytest.raises(ToolError, match="PIBOT_WEB_ALLOW"):
        AddressGuard([entry])


def connect(guard: AddressGuard, address: str, host: str = "", port: int = 80) -> None:
    guard.expect(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    place: tuple[object, ...] = (address, port, 0, 0) if family is socket.AF_INET6 else (address, port)
    guard((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place)).close()
