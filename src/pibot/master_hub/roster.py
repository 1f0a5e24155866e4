"""Which workers came by themselves and which are drained: kept beside the jobs, so that a restarted hub knows them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from pibot.contracts import WorkerAddress, WorkerStatus, valid_id
from pibot.errors import InvalidRequest, StoreError

MAX_WORKER_ID_CHARS = 64

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\Z")


def address_from_json(data: object) -> WorkerAddress:
    """Read the body of ``POST /workers``.

    Raises:
        InvalidRequest: it names the field that does not fit.
    """
    if not isinstance(data, dict):
        raise InvalidRequest("the body must be a JSON object with worker_id and url")
    unknown = sorted(set(data) - {"worker_id", "url"})
    if unknown:
        raise InvalidRequest(f"unknown field {unknown[0]!r}; the fields are worker_id and url", field=unknown[0])
    worker_id = valid_id(data.get("worker_id"), "worker_id")
    if len(worker_id) > MAX_WORKER_ID_CHARS:
        raise InvalidRequest(f"worker_id may have {MAX_WORKER_ID_CHARS} characters", field="worker_id")
    return WorkerAddress(worker_id, *_host_port_scheme(data.get("url")))


def _host_port_scheme(url: object) -> tuple[str, int, str]:
    wrong = InvalidRequest("url must be where the worker listens, like http://192.168.10.66:5000", field="url")
    if not isinstance(url, str) or len(url) > 300 or not url.isascii() or re.search(r"[\s\x00-\x1f\x7f\\@]", url):
        raise wrong
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/") or parts.query or "#" in url:
        raise wrong
    try:
        address = ip_address(host)
    except ValueError:
        if not _HOST.match(host):
            raise wrong from None
    else:
        if address.is_unspecified or address.is_multicast or "%" in host:
            raise wrong
    if port == 0:
        raise wrong
    return host, port or (443 if parts.scheme == "https" else 80), parts.scheme


@dataclass(frozen=True)
class Roster:
    """What is kept of the fleet.

    Args:
        registered: the workers that came by themselves.
        drained: the ids of those that get no new task.
    """

    registered: tuple[WorkerAddress, ...] = ()
    drained: frozenset[str] = frozenset()

    @classmethod
    def of(cls, workers: Iterable[WorkerStatus], drained: Iterable[str]) -> Roster:
        """What is to be kept of these workers."""
        drained = frozenset(drained)
        staying = (w for w in workers if w.registered and (not w.draining or w.address.worker_id in drained))
        return cls(tuple(worker.address for worker in staying), drained)

    @classmethod
    def load(cls, path: Path) -> Roster:
        """Read what was kept; nothing where there is no file.

        Raises:
            StoreError: it can't be read.
        """
        try:
            data = json.loads(path.read_text("utf-8"))
            registered = tuple(address_from_json(row) for row in data["registered"])
            return cls(registered, frozenset(valid_id(name, "drained") for name in data["drained"]))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError, KeyError, InvalidRequest) as exc:
            raise StoreError(f"{path} can't be read ({exc}); remove it, and the workers will register again") from exc

    def save(self, path: Path) -> None:
        """Keep it: the old file or the new one is there after a power cut, never a half.

        Raises:
            StoreError: it can't be written.
        """
        rows = [{"worker_id": address.worker_id, "url": address.url} for address in self.registered]
        fresh = path.with_suffix(".new")
        try:
            with fresh.open("w", encoding="utf-8") as file:
                json.dump({"registered": rows, "drained": sorted(self.drained)}, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError as exc:
            raise StoreError(f"the fleet's workers can't be kept in {path}: {exc}; is the disk full?") from exc
