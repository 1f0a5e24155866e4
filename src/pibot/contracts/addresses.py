"""Where a worker listens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from pibot.contracts.basics import JsonObject
from pibot.contracts.validation import valid_id
from pibot.errors import InvalidRequest

MAX_WORKER_ID_CHARS = 64

MAX_URL_CHARS = 300

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\Z")


@dataclass(frozen=True)
class WorkerAddress:
    """Where a worker listens. Its JSON form is the body of ``POST /workers``, with which a worker registers.

    Args:
        worker_id: how people and results name the worker.
        host: an IP address or a host name.
        port: the TCP port.
        scheme: ``http`` or ``https``.
    """

    worker_id: str
    host: str
    port: int = 5000
    scheme: str = "http"

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def to_json(self) -> JsonObject:
        return {"worker_id": self.worker_id, "url": self.url}

    @classmethod
    def from_json(cls, data: object) -> WorkerAddress:
        """Read the body of ``POST /workers``.

        Raises:
            InvalidRequest: a field is invalid; it is named.
        """
        if not isinstance(data, dict):
            raise InvalidRequest("the body must be a JSON object with worker_id and url")
        unknown = sorted(set(data) - {"worker_id", "url"})
        if unknown:
            raise InvalidRequest(f"unknown field {unknown[0]!r}; the fields are worker_id and url", field=unknown[0])
        worker_id = valid_id(data.get("worker_id"), "worker_id")
        if len(worker_id) > MAX_WORKER_ID_CHARS:
            raise InvalidRequest(f"worker_id must have up to {MAX_WORKER_ID_CHARS} characters", field="worker_id")
        return cls(worker_id, *_host_port_scheme(data.get("url")))


def _host_port_scheme(url: object) -> tuple[str, int, str]:
    wrong = InvalidRequest("url must be where the worker listens, like http://192.168.10.66:5000", field="url")
    if not isinstance(url, str) or len(url) > MAX_URL_CHARS or not url.isascii():
        raise wrong
    if re.search(r"[\s\x00-\x1f\x7f\\@]", url):
        raise wrong
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/") or parts.query or "#" in url:
        raise wrong
    if port == 0 or not _is_reachable(host):
        raise wrong
    return host, port or (443 if parts.scheme == "https" else 80), parts.scheme


def _is_reachable(host: str) -> bool:
    """Return whether a request can be sent to this host, by its form."""
    try:
        address = ip_address(host)
    except ValueError:
        return _HOST.match(host) is not None
    return not (address.is_unspecified or address.is_multicast or "%" in host)
