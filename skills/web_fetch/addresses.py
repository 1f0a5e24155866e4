"""Which addresses are public and not the owner's own, decided on the address that a socket is about to connect to.

Nothing before that can be trusted: a name may resolve differently a moment later, and an address has dozens of
spellings (``2130706433``, ``0x7f.1``, ``[::ffff:127.0.0.1]``).
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Sequence
from typing import Any, Callable, NoReturn, Optional, Union

from pibot.errors import ToolError

from .home import Network, home_networks

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

# IANA's special-purpose registries, and the IPv6 ranges that embed an IPv4 address. Written out, because ``is_global``
# differs between versions of Python and is wrong for some of them (6to4, NAT64, Teredo, multicast).
_NOT_PUBLIC: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",
            "2001::/23",
            "2001:db8::/32",
            "2002::/16",
            "3fff::/20",
        ),
    )
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.version == 6 and address not in _PUBLIC_V6:
        return False
    return address.is_global and not any(address in n for n in _NOT_PUBLIC if n.version == address.version)


class AddressGuard:
    """Makes the sockets of one fetch, only to addresses that are public and not at home, or that the owner allows.

    Args:
        allow: host names, addresses or networks (CIDR) that are allowed in any case, each with or without ``:port``.
        home: returns the networks that are the owner's own at this moment.

    Raises:
        ToolError: an entry of ``allow`` is malformed.
    """

    def __init__(self, allow: Sequence[str] = (), home: Callable[[], Sequence[Network]] = home_networks) -> None:
        self._allow = [_allowed(entry) for entry in allow]
        self._home = home
        self._host = ""
        self._bytes = sys.maxsize
        self.refused: list[str] = []

    def expect(self, host: str) -> None:
        """Tell the guard the host name of the next connections."""
        self._host = host.lower().rstrip(".")
        self.refused.clear()

    def limit_bytes(self, count: int) -> None:
        """Break each connection that brings more bytes: an answer's head could else be endless."""
        self._bytes = count

    def __call__(self, addr_info: tuple[Any, ...]) -> socket.socket:
        """Make a socket for an address as :func:`socket.getaddrinfo` gives it.

        Raises:
            OSError: the address is refused.
        """
        family, kind, protocol, _, place = addr_info
        text = str(place[0])
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            # aiohttp before 3.14 passes on 2130706433 as it is, and the system interprets it only after this check.
            self._refuse(text)
        if not self._is_allowed(address, int(place[1])) and (not is_public(address) or self._is_at_home(address)):
            self._refuse(str(address))
        made = _CountedSocket(family, kind, protocol)
        made.left = self._bytes
        return made

    def _is_at_home(self, address: Address) -> bool:
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._home() if network.version == address.version)

    def _refuse(self, address: str) -> NoReturn:
        self.refused.append(address)
        raise PermissionError(f"{address} is not public, or is in the owner's network")

    def _is_allowed(self, address: Address, port: int) -> bool:
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        for what, only_port in self._allow:
            if only_port is not None and only_port != port:
                continue
            if self._host == what if isinstance(what, str) else (mapped or address) in what:
                return True
        return False


class _CountedSocket(socket.socket):
    """Receives no more than :attr:`left` bytes. asyncio reads plain and TLS connections by these two methods."""

    left = sys.maxsize

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        self._count(len(data))
        return data

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0) -> int:
        received = super().recv_into(buffer, size, flags)
        self._count(received)
        return received

    def _count(self, received: int) -> None:
        self.left -= received
        if self.left < 0:
            raise ConnectionAbortedError("the server sends more than was asked for")


def _allowed(entry: str) -> tuple[Union[str, Network], Optional[int]]:
    """Parse an entry of the owner's list: a host name or a network, and its port if it has one."""
    host, port = entry.strip().lower(), None
    head, colon, tail = host.rpartition(":")
    if colon and tail.isdigit() and (":" not in head or head.endswith("]")):
        host, port = head, int(tail)
    host = host.strip("[]").rstrip(".")
    try:
        return ipaddress.ip_network(host, strict=False), port
    except ValueError:
        if not host or set(host) & set("/:[]@ "):
            raise ToolError(
                f"PIBOT_WEB_ALLOW holds {entry!r}, which is not a host, an address or a network; tell the owner"
            ) from None
        return host, port
