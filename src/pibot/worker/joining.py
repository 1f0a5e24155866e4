"""Register this worker at its hub, and take it off when it stops. Used only where PIBOT_HUB_URL is set."""

from __future__ import annotations

import http.client
import json
import logging
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from pibot.contracts import Refusal, WorkerAddress
from pibot.contracts.proofs import JOIN_HEADER
from pibot.logs import event
from pibot.settings import Settings, is_loopback
from pibot.tls import client_tls, connect, problem_of
from pibot.worker.proofs import AddressProofs

log = logging.getLogger("pibot.worker")

EVERY = 60.0
"""Seconds between two registrations. A hub that lost its data knows the worker again after that time."""

TIMEOUT = 5.0
"""Seconds for a registration."""

LEAVE_TIMEOUT = 2.0
"""Seconds that a stopping worker spends on it: its stop must not wait for a hub that is away."""


class Joining:
    """Registers a worker at its hub in a thread of its own.

    Args:
        settings: the hub's address, the worker's name and its key.
        host: the address that the worker listens on. If it listens on all, the hub gets the address that this machine
            reaches it from.
        port: the port that it listens on.
        proofs: shows the hub, which asks while it answers the registration, that the worker is there.

    Raises:
        SettingsError: a file of PIBOT_TLS_… can't be used.
    """

    def __init__(self, settings: Settings, host: str, port: int, proofs: AddressProofs | None = None) -> None:
        self._settings = settings
        self._proofs = proofs or AddressProofs(settings)
        self._tls = client_tls(settings)
        self._host = host
        self._port = port
        self._leaving = threading.Event()
        self._problem: str | None = "not tried yet"  # None once the hub knows the worker
        self._thread = threading.Thread(target=self._keep_joining, name="pibot-join", daemon=True)

    def start(self) -> None:
        """Register now, and again every :data:`EVERY` seconds."""
        self._thread.start()

    def leave(self) -> None:
        """Tell the hub that the worker stops. Best effort: the hub's health polls find out too."""
        self._leaving.set()
        self._thread.join(LEAVE_TIMEOUT)
        if self._problem is not None:
            return  # the hub does not know this worker, or knows another by its name
        try:
            self._request("DELETE", f"/workers/{quote(self._settings.worker_id, safe='')}", LEAVE_TIMEOUT)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            log.info("leave_failed hub=%s: %s", self._settings.hub_url, exc)

    def _keep_joining(self) -> None:
        while not self._leaving.is_set():
            self._join()
            self._leaving.wait(EVERY)

    def _join(self) -> None:
        try:
            with self._proofs.registering() as join:
                status, answer = self._request("POST", "/workers", TIMEOUT, {JOIN_HEADER: join})
            problem = None if status == 200 else Refusal.from_json(answer).error or f"it answered {status}"
        except (OSError, http.client.HTTPException, ValueError) as exc:
            problem = problem_of(exc) or str(exc) or type(exc).__name__
        if problem != self._problem:
            level = logging.INFO if problem is None else logging.WARNING
            kind = "joined" if problem is None else "not_joined"
            event(log, kind, level=level, hub=self._settings.hub_url, error=problem)
        self._problem = problem

    def _request(
        self, method: str, path: str, timeout: float, more_headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(self._settings.hub_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"PIBOT_HUB_URL must be like http://192.168.10.113:5000, not {self._settings.hub_url!r}")
        connection = connect(parts, self._tls, timeout)
        try:
            connection.connect()
            body = None
            if method == "POST":
                body = json.dumps(self._own_address(connection).to_json()).encode()
            headers = {"Content-Type": "application/json", **(more_headers or {})}
            if self._settings.api_key is not None:
                headers["Authorization"] = f"Bearer {self._settings.api_key.reveal()}"
            connection.request(method, parts.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            answer = json.loads(response.read(65536))
            return response.status, answer if isinstance(answer, dict) else {}
        finally:
            connection.close()

    def _own_address(self, connection: http.client.HTTPConnection) -> WorkerAddress:
        """Return the address at which the hub reaches this worker."""
        host = str(connection.sock.getsockname()[0])
        if host.startswith("::ffff:"):  # IPv4 over a socket for both
            host = host[len("::ffff:") :]
        if self._host == "0.0.0.0" and ":" in host:  # nosec B104 # compared, not bound
            raise ValueError(
                f"this worker reaches the hub over IPv6, from {host}, and listens on IPv4 only, so the hub can't reach "
                "it; start it with --host ::, or set PIBOT_HUB_URL to the hub's IPv4 address"
            )
        if self._host not in ("0.0.0.0", "::"):  # nosec B104 # compared, not bound
            if is_loopback(self._host) and not is_loopback(host):
                raise ValueError("this worker listens on loopback only; set PIBOT_API_KEY so that the hub can reach it")
            host = self._host
        return WorkerAddress(self._settings.worker_id, host, self._port, self._settings.scheme)
