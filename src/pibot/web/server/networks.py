"""Which client addresses count as one."""

from __future__ import annotations

import ipaddress


def network_of(address: str | None) -> str:
    """Who counts as one: an IPv4 address, or the /64 of an IPv6 address, in which one machine picks as it likes."""
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or ""
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        if not found.is_loopback:
            return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
