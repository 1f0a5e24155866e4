"""TLS between the machines of a fleet: which certificate each presents, and which it accepts.

A certificate's common name identifies its machine: ``pibot-master``, or a worker's id. The other names in it are only
addresses, some of them claimed by the host itself. OpenSSL checks the extended key usage (server or client).
"""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Optional
from urllib.parse import SplitResult

from pibot.contracts import Clock
from pibot.errors import SettingsError
from pibot.logs import event
from pibot.settings import Settings

log = logging.getLogger("pibot.tls")

MASTER = "pibot-master"
"""The common name of the master's certificate."""

PEER = "pibot.peer"
"""The key of a request's WSGI environment for the common name of the client's certificate."""

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: with forward secrecy and authenticated, as in Mozilla's *intermediate* (Server Side TLS 5.7)."""

_HELLO = b"\x16"
"""The first byte of a TLS connection (RFC 8446, section 5.1)."""

_PLAIN = b"this port speaks HTTPS only; use https://\n"


def server_tls(settings: Settings, *, peers: Optional[Collection[str]]) -> Optional[ServerTls]:
    """Return the server's side of TLS; None if ``PIBOT_TLS_CERT`` is not set.

    Args:
        peers: with ``PIBOT_TLS_CA``, the common names that a client's certificate may have; None to admit every client,
            even without a certificate.

    Raises:
        SettingsError: a file can't be used.
    """
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    _load_own(context, settings)
    if settings.tls_ca is not None:
        _load_ca(context, settings.tls_ca)
        context.verify_mode = ssl.CERT_OPTIONAL if peers is None else ssl.CERT_REQUIRED
    return ServerTls(context, None if settings.tls_ca is None else peers)


def client_tls(settings: Settings) -> Optional[ssl.SSLContext]:
    """Return the client's side of TLS to the fleet's machines; None if ``PIBOT_TLS_CA`` is not set.

    Raises:
        SettingsError: a file can't be used.
    """
    if settings.tls_ca is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    _load_ca(context, settings.tls_ca)
    if settings.tls_cert is not None:
        _load_own(context, settings)
    return context


def connect(parts: SplitResult, context: Optional[ssl.SSLContext], timeout: float) -> http.client.HTTPConnection:
    """Return a connection to an http or https address. It is not opened yet.

    Args:
        context: for https; None to accept the system's authorities.
        timeout: seconds.
    """
    assert parts.hostname is not None
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=context)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)


def problem_of(exc: BaseException) -> Optional[str]:
    """Say what is wrong with the other side's certificate and what to do; None if ``exc`` is about something else."""
    seen: set[int] = set()
    cause: Optional[BaseException] = exc
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if why := getattr(cause, "verify_message", None):
            return f"its certificate is not accepted: {why}; {_advice(why)}"
        cause = cause.__cause__ or cause.__context__
    return None


def _advice(why: str) -> str:
    if "expired" in why:
        return "run the playbook again, which renews it, and check this machine's clock"
    if "not yet valid" in why:
        return "check this machine's clock"
    if "mismatch" in why or "doesn't match" in why or "not valid for" in why:
        return "ask for a name or an address that is in it"
    return "set PIBOT_TLS_CA to the file of the fleet's CA"


class ServerTls:
    """Starts the handshake of each connection.

    Args:
        context: the server's TLS context.
        peers: the common names that may connect; None for everyone.
        clock: returns seconds.
    """

    def __init__(
        self, context: ssl.SSLContext, peers: Optional[Collection[str]], *, clock: Clock = time.monotonic
    ) -> None:
        self.context = context
        self.peers = peers
        self._clock = clock
        self._logged_at = float("-inf")
        self._suppressed = 0

    def __call__(self) -> _Handshake:
        return _Handshake(self)

    def log_refusal(self, address: Any, problem: object) -> None:
        """Log a refused connection, at most once a second, so that nobody can fill the disk with them."""
        if self._clock() - self._logged_at < 1:
            self._suppressed += 1
            return
        more = {"suppressed": self._suppressed} if self._suppressed else {}
        self._logged_at, self._suppressed = self._clock(), 0
        event(log, "tls_refused", level=logging.WARNING, address=address, error=problem, **more)


class _Handshake:
    """The handshake of one connection. It continues as data arrives, and never waits."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._begun = False

    def go_on(self, conn: Any) -> bool:
        """Continue the handshake, and return whether it is done.

        Args:
            conn: the connection; its ``ssl_env`` gets the client's common name.

        Raises:
            OSError: the handshake failed, or the client is not admitted.
        """
        channel = conn.channel
        if not self._begun:
            try:
                self._begun = self._begin(channel, conn.remote_addr)
            except channel.not_yet:
                return False
        try:
            channel.socket.do_handshake()
        except channel.not_yet:
            return False
        except OSError as exc:
            self._tls.log_refusal(conn.remote_addr, getattr(exc, "verify_message", None) or exc)
            raise
        peer = _common_name(channel.socket.getpeercert())
        if self._tls.peers is not None and peer not in self._tls.peers:
            self._tls.log_refusal(conn.remote_addr, f"the certificate's name {peer!r} is not allowed to connect here")
            raise ConnectionAbortedError
        conn.ssl_env = {"wsgi.url_scheme": "https", "HTTPS": "on", PEER: peer}
        return True

    def _begin(self, channel: Any, address: Any) -> bool:
        first = channel.socket.recv(1, socket.MSG_PEEK)
        if first != _HELLO:
            if first:
                self._refuse_plain(channel.socket, address)
            raise ConnectionAbortedError
        secure = self._tls.context.wrap_socket(channel.socket, server_side=True, do_handshake_on_connect=False)
        channel.secure(secure, (ssl.SSLWantReadError, ssl.SSLWantWriteError))
        return True

    def _refuse_plain(self, sock: socket.socket, address: Any) -> None:
        sock.recv(65536)  # unread data would reset the connection, and lose the answer
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {len(_PLAIN)}\r\n"
        sock.send(head.encode() + b"Connection: close\r\n\r\n" + _PLAIN)
        self._tls.log_refusal(address, "a plain HTTP request, or something else that is not TLS")


# docs/decisions.md, D20
def _common_name(certificate: Any) -> Optional[str]:
    """Return the common name of a verified certificate from ``getpeercert``; None unless there is exactly one."""
    subject = (certificate or {}).get("subject", ())
    names = [value for part in subject for name, value in part if name == "commonName"]
    return names[0] if len(names) == 1 else None


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION
    context.set_ciphers(_CIPHERS)


def _load_own(context: ssl.SSLContext, settings: Settings) -> None:
    assert settings.tls_cert is not None
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as exc:
        raise SettingsError(
            f"PIBOT_TLS_CERT and PIBOT_TLS_KEY ({settings.tls_cert}, {settings.tls_key}) must be a certificate and its "
            f"key in PEM form, and can't be used: {exc.strerror or exc}"
        ) from exc


def _load_ca(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as exc:
        raise SettingsError(
            f"PIBOT_TLS_CA ({path}) must be a CA's certificate in PEM form, and can't be used: {exc.strerror or exc}"
        ) from exc
