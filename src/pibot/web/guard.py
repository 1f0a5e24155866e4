"""Check each request before its view runs: its form, its origin, its key or session, and the scope of that."""

from __future__ import annotations

import hmac
import logging
import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Callable

from flask import Response, current_app, g, request

from pibot.contracts import Caller
from pibot.errors import WrongFormToken
from pibot.logs import event
from pibot.tls import PEER
from pibot.web.keys import OWNER, KeyRing, needed
from pibot.web.limits import Buckets
from pibot.web.messages import error
from pibot.web.server.networks import network_of
from pibot.web.sessions import Session, Sessions

log = logging.getLogger("pibot.web")

WRONG_KEYS_PER_MINUTE = 10
"""From one network. A worker with an old key sends it once a minute, so it never locks its network out."""

FORM_TOKEN = "X-Form-Token"  # nosec B105 # a header's name
"""The header in which a page's script sends the session's token; a form sends it as its field ``token``."""

_SAFE = ("GET", "HEAD", "OPTIONS")


class KeyGuesses:
    """Counts wrong keys by network, and logs them. See docs/decisions.md, D15.

    Args:
        buckets: lose a token for each wrong key.
    """

    def __init__(self, buckets: Buckets | None = None) -> None:
        self._buckets = Buckets(WRONG_KEYS_PER_MINUTE) if buckets is None else buckets

    def blocked(self) -> int:
        """Seconds for which no key from the caller's network is checked; 0 if keys are checked."""
        return self._buckets.wait(network_of(request.remote_addr))

    def failed(self) -> None:
        """Count a wrong key of the current request."""
        name = network_of(request.remote_addr)
        self._buckets.take(name)
        event(log, "auth_failed", level=logging.WARNING, address=request.remote_addr, path=request.path)
        seconds = self._buckets.wait(name)
        if seconds:
            event(log, "auth_blocked", level=logging.WARNING, address=name, seconds=seconds)


@dataclass(frozen=True)
class LogIn:
    """Browser sessions, which count in place of a key.

    Args:
        sessions: the sessions of this hub.
        stranger: called for a caller with neither key nor session; may return a redirect to the login page.
    """

    sessions: Sessions
    stranger: Callable[[], Response | None]


def cookie_name() -> str:
    """Return the name of the session's cookie. Over TLS, browsers refuse that name from plain HTTP or another host."""
    return "__Host-pibot" if request.is_secure else "pibot_session"


def current_session() -> Session | None:
    """Return the session of the current request; None if it came with a key, or none is required."""
    session: Session | None = g.get("session")
    return session


class Guard:
    """Refuses a request before its view runs, or records its caller. :func:`create_app` documents the arguments."""

    def __init__(
        self,
        keys: KeyRing | None,
        *,
        open_paths: frozenset[str],
        open_endpoints: frozenset[str],
        log_in: LogIn | None,
        guesses: KeyGuesses,
        max_body: int,
        certified_workers: bool,
    ) -> None:
        self._keys = keys
        self._open_paths = open_paths
        self._open_endpoints = open_endpoints
        self._log_in = log_in
        self._guesses = guesses
        self._max_body = max_body
        self._certified_workers = certified_workers
        self._own_names = own_names(socket.gethostname())

    def check(self) -> Response | None:
        """Return the response that refuses the current request; None lets it through to its view."""
        refused = self._refuse_malformed()
        if refused is not None:
            return refused
        if request.path in self._open_paths or request.endpoint in self._open_endpoints:
            return None
        if self._keys is None:
            g.caller = OWNER
            return (
                None
                if _is_answered_without_key(request.host, self._own_names)
                else error(403, _FOREIGN_NAME.format(request.host))
            )
        shown = request.headers.get("Authorization")
        caller = self._by_cookie() if shown is None else self._by_key(self._keys, shown)
        if isinstance(caller, Response):
            return caller
        if self._certified_workers and caller.worker_id not in (None, request.environ.get(PEER)):
            worker = caller.worker_id
            return error(403, f"the token of {worker} is valid only together with the certificate of {worker}")
        g.caller = caller
        scope = needed(current_app.view_functions.get(request.endpoint or ""), request.method)
        if not caller.may(scope):
            have = f"key {caller.name!r} has {caller.scope.value!r}"
            return error(403, f"this needs a key with scope {scope.value!r}; {have}")
        return None

    def _refuse_malformed(self) -> Response | None:
        if not request.environ.get("CONTENT_LENGTH", "0").isdigit():
            return error(400, "the Content-Length is not a number of bytes")
        length = request.content_length or 0
        if length > self._max_body:
            return error(413, f"the body has {length} bytes; the limit is {self._max_body}")
        # docs/decisions.md, D10
        if request.environ.get("HTTP_TRANSFER_ENCODING"):
            # Flask cuts a chunked body at its limit without an error, so require a length (docs/decisions.md, D10).
            return error(411, "send the body with a Content-Length; a chunked body is not accepted")
        # docs/decisions.md, D11
        return None if _is_same_origin() else error(403, "this request came from a page of another site")

    def _by_key(self, keys: KeyRing, shown: str) -> Caller | Response:
        scheme, _, value = shown.partition(" ")
        if scheme.lower() != "bearer" or not value.strip(" \t"):
            return no_key()
        seconds = self._guesses.blocked()
        if seconds:
            return blocked(seconds)
        caller = keys.find(value.strip(" \t").encode("latin-1"))  # WSGI decodes headers as latin-1
        if caller is None:
            self._guesses.failed()
            return no_key()
        return caller

    def _by_cookie(self) -> Caller | Response:
        """Return the session's caller. A change needs the form's token too: browsers send cookies by themselves."""
        if self._log_in is None:
            return no_key()
        session = self._log_in.sessions.find(request.cookies.get(cookie_name(), ""))
        if session is None:
            return self._log_in.stranger() or no_key()
        g.session = session
        if request.method not in _SAFE:
            check_form_token(session.form_token, "your session has changed")
        return session.caller


def no_key() -> Response:
    """Make the response to a missing or wrong key."""
    response = error(401, "the key is missing or wrong; send it as 'Authorization: Bearer <PIBOT_API_KEY>'")
    response.headers["WWW-Authenticate"] = 'Bearer realm="pibot"'
    return response


def blocked(seconds: int) -> Response:
    """Make the response to a network that sent too many wrong keys."""
    response = error(429, f"too many wrong keys came from your address; the next is checked in {seconds} s")
    response.headers["Retry-After"] = str(seconds)
    return response


def check_form_token(expected: str, changed: str) -> None:
    """Refuse a changing request that does not carry the token of the caller's page.

    Args:
        expected: the token.
        changed: what must have happened if the page held another token before.

    Raises:
        WrongFormToken: neither the header :data:`FORM_TOKEN` nor the form's field ``token`` holds it.
    """
    shown = request.headers.get(FORM_TOKEN)
    if shown is None and request.mimetype in ("application/x-www-form-urlencoded", "multipart/form-data"):
        shown = request.form.get("token")
    if not hmac.compare_digest((shown or "").encode("utf-8", "surrogateescape"), expected.encode()):
        raise WrongFormToken(f"{changed}: reload the page and submit again")


def _is_same_origin() -> bool:
    """Whether no page of another site caused this request.

    Bodies are read as JSON whatever their Content-Type, so no CORS preflight stops such a page. Browsers name the
    origin. See docs/decisions.md, D11.
    """
    if request.method in _SAFE:
        return True
    if request.environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
        return False
    origin = request.environ.get("HTTP_ORIGIN")
    return origin is None or origin.partition("://")[2] == request.host


_FOREIGN_NAME = (
    "refused Host {!r}: without PIBOT_API_KEY only IP addresses, localhost and this machine's own name are answered. "
    "Use one, or set PIBOT_API_KEY"
)


def own_names(host_name: str) -> frozenset[str]:
    """Return the names of this machine for which requests are answered without a key; see docs/decisions.md, D110.

    Args:
        host_name: as ``socket.gethostname()`` gives it.
    """
    full = host_name.lower()
    short = full.partition(".")[0]
    return frozenset({"localhost", full, short, f"{short}.local", f"{short}.lan"}) - {"", ".local", ".lan"}


def _is_answered_without_key(host: str, names: frozenset[str]) -> bool:
    """Whether ``host`` is an IP address, or one of ``names``.

    Without a key, a page could let its own name point here (DNS rebinding), and so share this origin.
    """
    name = re.sub(r":\d+\Z", "", host.lower())
    try:
        ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return name in names
    return True
