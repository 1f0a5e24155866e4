"""What the API, the dashboard and the login share: the limit on jobs, security headers, redirects to the login."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from flask import Response, g, request

from pibot.contracts import Caller, Scope
from pibot.errors import TooManyRequests
from pibot.web import Buckets, current_caller, current_session, network_of
from pibot.web.keys import OWNER

LOG_IN = "/login"
LOG_OUT = "/logout"

HOME = "/dashboard"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_LOCAL_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]{0,499}\Z")  # printable ASCII without a backslash


class RateLimit:
    """Limits how often one key may do something; without keys, and for the fleet's key, how often one network may.

    See docs/decisions.md, D16.

    Args:
        per_minute: how often at once, and again in each further minute; 0 for no limit.
        what: the thing that is limited, in the plural.
        setting: the setting that raises the limit; empty for none.
    """

    def __init__(self, per_minute: int, what: str = "jobs", setting: str = "PIBOT_SUBMIT_PER_MINUTE") -> None:
        self._per_minute = per_minute
        self._what = what
        self._setting = f" ({setting})" if setting else ""
        self._buckets = Buckets(per_minute) if per_minute else None

    def check(self) -> None:
        """Count the current request.

        Raises:
            TooManyRequests: the caller has used up its jobs for now.
        """
        if self._buckets is None:
            return
        caller = current_caller()
        seconds = self._buckets.take(network_of(request.remote_addr) if caller is OWNER else f"key {caller.name}")
        if seconds:
            raise TooManyRequests(
                f"more than {self._per_minute} {self._what} a minute; send the next in {seconds} s{self._setting}",
                retry_after=seconds,
            )


def shut(response: Response) -> Response:
    """Add the headers that limit what a browser may run, embed and cache."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-cache" if request.endpoint == "dashboard.static" else "no-store")
    return response


def for_templates() -> dict[str, Any]:
    """Return what every template gets: the session, and the scopes that the caller has."""
    caller: Caller | None = g.get("caller")
    return {
        "log_in": current_session(),
        "may": {scope.value: caller is not None and caller.may(scope) for scope in Scope},
    }


def to_log_in() -> Response | None:
    """Redirect a browser that is not logged in from a page to the login; None for a request that is not for a page."""
    if request.path == LOG_OUT:  # from a page that stayed open after its session ended
        return _see(LOG_IN)
    if request.method not in ("GET", "HEAD") or request.path.endswith("/data"):
        return None
    if (
        not request.path.startswith(HOME)
        and request.path != "/"
        and "text/html" not in request.headers.get("Accept", "")
    ):
        return None
    return _see(f"{LOG_IN}?next={quote(request.full_path.rstrip('?'), safe='/')}")


def _see(where: str) -> Response:
    return Response(status=303, headers={"Location": where})


def local(path: str | None) -> str:
    """Return ``path`` if it is a page of this hub, else the dashboard: a login link must not lead to another site."""
    if path is None or not _LOCAL_PATH.match(path) or re.split("[?#]", path)[0] == LOG_IN:
        return HOME
    return path


def wants_json() -> bool:
    """Whether dashboard.js sent the request, rather than the form itself."""
    return request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json"
