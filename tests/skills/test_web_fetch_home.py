"""What web_fetch counts as its owner's own network, read from tables as real kernels show them."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import pytest
from skills.web_fetch.addresses import AddressGuard
from skills.web_fetch.home import home_networks

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
        /1 universe UNICAST
     +-- 9.0.0.0/8 2 0 2
        |-- 9.0.0.0
           /8 link UNICAST
        |-- 9.9.9.9
           /32 universe UNICAST
     |-- 8.8.8.0
        /24 link UNICAST
     |-- 128.0.0.0
        /1 universe UNICAST
     |-- 128.16.0.0
        /16 link UNICAST
     |-- 172.128.0.0
        /9 link UNICAST
     |-- 198.41.0.0
        /24 universe BLACKHOLE
Local:
  +-- 0.0.0.0/0 3 0 5
     +-- 8.8.8.0/24 2 0 2
        |-- 8.8.8.1
           /32 host LOCAL
        |-- 8.8.8.255
           /32 link BROADCAST
     |-- 128.16.3.4
        /32 host LOCAL
     |-- 127.0.0.0
        /8 host LOCAL
"""
IF_INET6 = """\
26064700aaaa12340000000000000005 03 40 00 82       v0
fe800000000000004ce1bafffec75796 03 40 20 c0       v0
00000000000000000000000000000001 01 80 10 80       lo
2a0014508000000100000000000000a7 04 80 00 80      wg0
"""
ZERO = "0" * 32
GATEWAY = "fe80000000000000000000000000000f"
IPV6_ROUTE = f"""\
26064700aaaa12340000000000000000 40 {ZERO} 00 {ZERO} 00000100 00000001 00000000 00000001       v0
26064700bbbb00000000000000000000 30 {ZERO} 00 {GATEWAY} 00000100 00000001 00000000 00000003       v0
26064700cccc00000000000000000001 80 {ZERO} 00 {GATEWAY} 00000100 00000001 00000000 01000003       v0
26064700dddd00000000000000000000 30 {ZERO} 00 {ZERO} 00000100 00000001 00000000 00200200       lo
20000000000000000000000000000000 03 {ZERO} 00 {ZERO} 00000400 00000001 00000000 00000001      wg0
{ZERO} 00 {ZERO} 00 {GATEWAY} 00000400 00000001 00000000 00450003       v0
"""


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    (tmp_path / "fib_trie").write_text(FIB_TRIE)
    (tmp_path / "if_inet6").write_text(IF_INET6)
    (tmp_path / "ipv6_route").write_text(IPV6_ROUTE)
    return tmp_path


OWN = {
    "the machine's IPv4 address": "8.8.8.1",
    "a neighbour on its public IPv4 link": "8.8.8.77",
    "a neighbour on a wide link": "128.16.200.1",
    "a host behind a static route": "9.9.9.9",
    "the machine's IPv6 address": "2606:4700:aaaa:1234::5",
    "a neighbour on its IPv6 link": "2606:4700:aaaa:1234::9",
    "a machine in another network of the home": "2606:4700:aaaa:12ff::9",
    "a machine behind a router that announces its prefix": "2606:4700:bbbb:7::9",
    "the machine's address in a VPN": "2a00:1450:8000:1::a7",
    "a mapped address": "::ffff:8.8.8.77",
}
OTHERS = {
    "the internet": "8.8.4.4",
    "an address that a VPN takes": "172.200.0.1",
    "another address that a VPN takes": "9.9.9.8",
    "the internet by IPv6": "2620:fe::fe",
    "a host that the kernel has an exception for": "2606:4700:cccc::1",
    "what the kernel refuses itself": "2606:4700:dddd::1",
    "another customer's home": "2606:4700:aaaa:1334::9",
}


@pytest.mark.parametrize("address", OWN.values(), ids=list(OWN))
def test_no_socket_is_made_at_home_for(address: str, tables: Path) -> None:
    guard = AddressGuard(home=lambda: home_networks(tables))
    with pytest.raises(PermissionError, match="is in the owner's network"):
        make(guard, address)
    make(AddressGuard(home=lambda: ()), address)
    make(AddressGuard([address.removeprefix("::ffff:")], home=lambda: home_networks(tables)), address)


@pytest.mark.parametrize("address", OTHERS.values(), ids=list(OTHERS))
def test_a_socket_is_made_for(address: str, tables: Path) -> None:
    make(AddressGuard(home=lambda: home_networks(tables)), address)


def test_the_tables_are_read_for_each_connection(tables: Path) -> None:
    guard = AddressGuard(home=lambda: home_networks(tables))
    make(guard, "2620:fe::fe")
    with (tables / "if_inet6").open("a") as file:
        file.write("262000fe0000000000000000000000aa 05 40 00 80     eth1\n")
    with pytest.raises(PermissionError):
        make(guard, "2620:fe::fe")


def test_a_kernel_without_ipv6_has_its_ipv4_networks_alone(tables: Path) -> None:
    (tables / "if_inet6").unlink()
    (tables / "ipv6_route").unlink()
    assert ipaddress.ip_network("8.8.8.0/24") in home_networks(tables)
    assert all(network.version == 4 for network in home_networks(tables))


def test_nothing_is_connected_to_where_the_kernel_shows_no_tables(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="fib_trie"):
        make(AddressGuard(home=lambda: home_networks(tmp_path)), "8.8.8.8")


def test_this_machines_tables_can_be_read() -> None:
    assert ipaddress.ip_network("127.0.0.0/8") in home_networks()


def make(guard: AddressGuard, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    guard((family, socket.SOCK_STREAM, 0, "", (address, 80, 0, 0))).close()
