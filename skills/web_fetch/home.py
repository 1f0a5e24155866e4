"""Find the owner's own network: the machine's addresses, and the prefixes that it reaches without its provider.

With IPv6 a NAS or a router at home has a public address, so the address alone does not tell.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Union

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

TABLES = Path("/proc/self/net")
"""Where the kernel shows its addresses and routes. The worker's unit may open no netlink socket."""

HOME_PREFIX = 56
"""The IPv6 prefix that a provider gives to a home (RIPE-690). The machine sees only its own /64 of it."""

WIDEST_LINK_V4 = 8
WIDEST_ROUTE_V4 = 17
WIDEST_ROUTE_V6 = 40
"""The shortest prefix of a route that counts. A VPN divides the whole internet into routes with shorter ones."""

_PLACE = re.compile(r"\s*\|-- ([\d.]+)\s*")
_ROUTE = re.compile(r"\s*/(\d+) \w+ (LOCAL|UNICAST|BROADCAST|ANYCAST)\b")
_REJECT, _CACHE = 0x0200, 0x01000000  # RTF_…, from linux/route.h and linux/ipv6_route.h


# docs/decisions.md, D104
def home_networks(tables: Path = TABLES) -> list[Network]:
    """Return the networks that are the owner's at this moment, over all interfaces and routing tables.

    Args:
        tables: the folder with the kernel's tables.

    Raises:
        OSError: the kernel does not show them.
    """
    return [*_ipv4((tables / "fib_trie").read_text("ascii")), *_ipv6(tables)]


def _ipv4(text: str) -> Iterator[Network]:
    own: set[ipaddress.IPv4Network] = set()
    others: set[ipaddress.IPv4Network] = set()
    address = ""
    for line in text.splitlines():
        place, route = _PLACE.match(line), _ROUTE.match(line)
        if place:
            address = place.group(1)
        elif route:
            network = ipaddress.IPv4Network((address, int(route.group(1))))
            (own if route.group(2) == "LOCAL" else others).add(network)
    yield from own
    for network in others:
        widest = WIDEST_LINK_V4 if any(network.supernet_of(one) for one in own) else WIDEST_ROUTE_V4
        if network.prefixlen >= widest:
            yield network


def _ipv6(tables: Path) -> Iterator[Network]:
    # Each file is missing where the kernel has no IPv6.
    for address, _, length, *_ in _rows(tables / "if_inet6"):
        prefix = min(int(length, 16), HOME_PREFIX)
        yield ipaddress.IPv6Network((int(address, 16), prefix), strict=False)
    for address, length, _, _, _, _, _, _, flags, *_ in _rows(tables / "ipv6_route"):
        if int(length, 16) >= WIDEST_ROUTE_V6 and not int(flags, 16) & (_REJECT | _CACHE):
            yield ipaddress.IPv6Network((int(address, 16), int(length, 16)))


def _rows(table: Path) -> list[list[str]]:
    try:
        return [line.split() for line in table.read_text("ascii").splitlines()]
    except FileNotFoundError:
        return []
