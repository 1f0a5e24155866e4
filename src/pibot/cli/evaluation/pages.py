"""Serve the tasks' pages to the workers, and know which of them were asked for."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from pibot.errors import SettingsError

NEEDED = (
    "it needs --page-host: an address of this computer that the workers reach, and that PIBOT_WEB_ALLOW allows there"
)
"""Why the tasks with pages are skipped without one."""

NO_PAGE = b"<!doctype html><html><head><title>No such page</title></head><body><p>Not found.</p></body></html>"

IDLE_SECONDS = 30.0
"""Seconds after which a connection that sends nothing is closed."""


class PageServer:
    """Serves pages while it is entered as a context manager.

    Args:
        host: the address to listen on, as the workers write it too.
        port: the port; 0 for any free one.

    Raises:
        SettingsError: this computer has no such address, or the port is taken.
    """

    def __init__(self, host: str, port: int = 0) -> None:
        self._lock = threading.Lock()
        self._pages: dict[str, Mapping[str, str]] = {}
        self._asked: dict[str, set[str]] = {}
        served = self

        class Handler(BaseHTTPRequestHandler):
            timeout = IDLE_SECONDS

            def do_GET(self) -> None:
                page = served._take(self.path)
                body = NO_PAGE if page is None else page.encode()
                self.send_response(404 if page is None else 200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return None

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as exc:
            raise SettingsError(
                f"the pages can't be served at {host}, port {port} ({exc}); --page-host must be an address of this "
                "computer, with a free port if it names one"
            ) from exc
        self._base = f"http://{host}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> PageServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def address(self) -> str:
        """Return an address for the pages of one run, which nobody has asked for yet. It ends with a slash."""
        return f"{self._base}{secrets.token_hex(4)}/"

    def serve(self, address: str, pages: Mapping[str, str]) -> None:
        """Serve pages below an address of :meth:`address`, by their names."""
        with self._lock:
            self._pages[self._key(address)] = pages
            self._asked[self._key(address)] = set()

    def asked(self, address: str) -> frozenset[str]:
        """Return the names of the pages below an address that were asked for, pages that do not exist among them."""
        with self._lock:
            return frozenset(self._asked.get(self._key(address), ()))

    def _key(self, address: str) -> str:
        return address[len(self._base) : -1]

    def _take(self, path: str) -> str | None:
        key, _, name = path.partition("?")[0].lstrip("/").partition("/")
        with self._lock:
            if key not in self._pages:
                return None
            self._asked[key].add(name)
            return self._pages[key].get(name)


def host_and_port(text: str) -> tuple[str, int]:
    """Parse ``--page-host``: an IPv4 address or a name, with or without ``:port``.

    Raises:
        SettingsError: it is none.
    """
    host, colon, port = text.partition(":")
    if not host or set(host) & set("/[]@ ") or (colon and not (port.isascii() and port.isdigit() and len(port) <= 5)):
        raise SettingsError(f"--page-host must be like 192.168.10.20 or 192.168.10.20:8080, not {text!r}")
    number = int(port or 0)
    if number > 65535:
        raise SettingsError(f"--page-host names port {number}; the largest is 65535")
    return host, number
