"""Decide which client addresses count as one client."""

from __future__ import annotations

import ipaddress


def network_of(address: str | None) -> str:
    """Return an IPv4 address as it is, and an IPv6 address as its /64, within which one machine may use any address."""
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
