"""Checks the address with which a worker registers, before anything is sent there."""

from __future__ import annotations

import ipaddress
import socket
import threading
from typing import Union

from pibot.background import BackgroundLoop
from pibot.contracts import WorkerAddress
from pibot.contracts.proofs import is_random_id
from pibot.errors import AddressNotProven, InvalidRequest, TooManyRequests
from pibot.master_components.workers.pool import WorkerPool
from pibot.web import Buckets

CHECKS_PER_MINUTE = 12
"""Addresses that the hub asks for one worker's token. A worker registers once a minute, and after each start."""

_Ip = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


class AddressChecks:
    """Checks addresses. Its methods block, and may be called from any thread.

    Args:
        pool: asks a worker for its proof.
        loop: the pool's.
    """

    def __init__(self, pool: WorkerPool, loop: BackgroundLoop) -> None:
        self._pool = pool
        self._loop = loop
        self._buckets = Buckets(CHECKS_PER_MINUTE)
        self._lock = threading.Lock()
        self._asking: set[str] = set()

    def refuse_impossible(self, address: WorkerAddress, caller: str, own_port: int) -> None:
        """Refuse the address of the hub itself; and from another machine, every address that is only this one's.

        Args:
            caller: the address that the request came from.
            own_port: where the hub listens.

        Raises:
            InvalidRequest: no worker that sent this can be reached there.
        """
        elsewhere = not _is_own(_ip(caller))
        if not elsewhere and address.port != own_port:
            return
        for ip in _ips_of(address.host):
            if address.port == own_port and _is_own(ip):
                raise InvalidRequest(f"{address.url} is the hub itself; register where the worker listens", field="url")
            if elsewhere and (ip.is_loopback or ip.is_link_local or ip.is_unspecified or _is_own(ip)):
                raise InvalidRequest(
                    f"{address.url} is on the hub's own machine or link-local, and this request came from {caller}; "
                    "register the address at which the hub reaches the worker",
                    field="url",
                )

    def demand_proof(self, address: WorkerAddress, join: str | None) -> None:
        """Ask the address to show that it knows the worker's token, without sending it the token.

        Args:
            join: the id that the worker sent with its registration.

        Raises:
            AddressNotProven: it did not, or the worker is of an earlier release.
            InvalidRequest: the address is a name, which may lead elsewhere later.
            TooManyRequests: the worker's addresses are checked too often.
        """
        if _ip(address.host) is None:
            raise InvalidRequest("url must have an IP address, since a name may lead elsewhere later", field="url")
        if not is_random_id(join):
            raise AddressNotProven(
                f"{address.worker_id} has no fixed address here, and its release is too old to show "  # nosec B608 # a sentence
                f"that it is at {address.url}; update it, or set its WORKER_n_IP on the hub"
            )
        assert join is not None
        seconds = self._buckets.take(address.worker_id)
        with self._lock:
            if seconds or address.worker_id in self._asking:
                raise TooManyRequests(
                    f"{address.worker_id} registers other addresses too often; {CHECKS_PER_MINUTE} a minute are asked",
                    retry_after=seconds or 5,
                )
            self._asking.add(address.worker_id)
        try:
            proven = self._loop.run(self._pool.prove(address, join)).result()
        finally:
            with self._lock:
                self._asking.discard(address.worker_id)
        if not proven:
            raise AddressNotProven(
                f"{address.url} did not show that it knows the token of {address.worker_id}: is it the worker's own "
                "address and port, which the hub can reach?"
            )


def _ip(host: str) -> _Ip | None:
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def _ips_of(host: str) -> list[_Ip]:
    """Return the addresses of a host, as a connection to it would find them."""
    own = _ip(host)
    if own is not None:
        return [own]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    ips = (_ip(str(row[4][0])) for row in found)
    return [ip for ip in ips if ip is not None]


def _is_own(ip: _Ip | None) -> bool:
    """Return whether this machine has the address: only then can a socket be bound to it."""
    if ip is None:
        return False
    if ip.is_loopback or ip.is_unspecified:
        return True
    try:
        with socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind((str(ip), 0))
    except OSError:
        return False
    return True
