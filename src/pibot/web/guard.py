"""What is looked at before a request gets to its view: its form, where it comes from, whose it is, what they may."""

from __future__ import annotations

import hmac
import logging
import re
from dataclasses import dataclass
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
"""From one address. A worker with an old key shows it once a minute, so it never blocks its address for others."""

FORM_TOKEN = "X-Form-Token"  # nosec B105 # a header's name
"""Where a page's script shows the token of its session; a form has it as its field ``token``."""

_SAFE = ("GET", "HEAD", "OPTIONS")


class KeyGuesses:
    """Counts wrong keys by address, and logs them.

    Args:
        buckets: one token a wrong key.
    """

    def __init__(self, buckets: Buckets | None = None) -> None:
        self._buckets = Buckets(WRONG_KEYS_PER_MINUTE) if buckets is None else buckets

    def blocked(self) -> int:
        """Seconds for which no key from the caller's address is looked at; 0 where it is."""
        return self._buckets.wait(network_of(request.remote_addr))

    def failed(self) -> None:
        """The caller showed a wrong key."""
        name = network_of(request.remote_addr)
        self._buckets.take(name)
        event(log, "auth_failed", level=logging.WARNING, address=request.remote_addr, path=request.path)
        seconds = self._buckets.wait(name)
        if seconds:
            event(log, "auth_blocked", level=logging.WARNING, address=name, seconds=seconds)


@dataclass(frozen=True)
class LogIn:
    """What browsers may show instead of a key.

    Args:
        sessions: those that are logged in.
        stranger: what who shows nothing at all gets instead of a 401, if anything.
    """

    sessions: Sessions
    stranger: Callable[[], Response | None]


def cookie_name() -> str:
    """The session's cookie. Over TLS its name has browsers refuse one that was set by plain HTTP or another host."""
    return "__Host-pibot" if request.is_secure else "pibot_session"


def current_session() -> Session | None:
    """The session of the request that is being answered; None where it showed a key, or none is asked for."""
    session: Session | None = g.get("session")
    return session


class Guard:
    """Looks at each request before its view does."""

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

    def look_at(self) -> Response | None:
        """What the caller gets instead of the view's answer; None lets it through."""
        refused = self._refused_form()
        if refused is not None:
            return refused
        if request.path in self._open_paths or request.endpoint in self._open_endpoints:
            return None
        if self._keys is None:
            g.caller = OWNER
            return None if _is_local_name(request.host) else error(403, _FOREIGN_NAME.format(request.host))
        shown = request.headers.get("Authorization")
        caller = self._by_cookie() if shown is None else self._by_key(self._keys, shown)
        if isinstance(caller, Response):
            return caller
        if self._certified_workers and caller.worker_id not in (None, request.environ.get(PEER)):
            return error(403, f"the token of {caller.worker_id} counts only with the certificate of {caller.worker_id}")
        g.caller = caller
        scope = needed(current_app.view_functions.get(request.endpoint or ""), request.method)
        if not caller.may(scope):
            have = f"the one of {caller.name} has {caller.scope.value}"
            return error(403, f"this takes a key with the scope {scope.value}; {have}")
        return None

    def _refused_form(self) -> Response | None:
        if not request.environ.get("CONTENT_LENGTH", "0").isdigit():
            return error(400, "the Content-Length is not a number of bytes")
        length = request.content_length or 0
        if length > self._max_body:
            return error(413, f"the body has {length} bytes, {self._max_body} are allowed")
        if request.environ.get("HTTP_TRANSFER_ENCODING"):
            # Flask cuts a chunked body at its limit without an error, so a length is demanded instead.
            return error(411, "send the body with a Content-Length; a chunked body is not read")
        return None if _is_same_origin() else error(403, "this request came from another site's page")

    def _by_key(self, keys: KeyRing, shown: str) -> Caller | Response:
        scheme, _, value = shown.partition(" ")
        if scheme.lower() != "bearer" or not value.strip(" \t"):
            return no_key()
        seconds = self._guesses.blocked()
        if seconds:
            return blocked(seconds)
        caller = keys.find(value.strip(" \t").encode("latin-1"))  # WSGI's form of the header's bytes
        if caller is None:
            self._guesses.failed()
            return no_key()
        return caller

    def _by_cookie(self) -> Caller | Response:
        """Whose session it is. A changing request shows more than the cookie, which browsers send by themselves."""
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
    """The answer to who shows no key, or a wrong one."""
    response = error(401, "the key is missing or wrong; send it as 'Authorization: Bearer <PIBOT_API_KEY>'")
    response.headers["WWW-Authenticate"] = 'Bearer realm="pibot"'
    return response


def blocked(seconds: int) -> Response:
    """The answer to an address from which too many wrong keys came."""
    response = error(429, f"too many wrong keys came from your address; the next is looked at in {seconds} s")
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
    """Whether a changing request is no other site's page's doing.

    Bodies are JSON whatever their Content-Type, so no preflight would stop such a page; browsers name the origin.
    """
    if request.method in _SAFE:
        return True
    if request.environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
        return False
    origin = request.environ.get("HTTP_ORIGIN")
    return origin is None or origin.partition("://")[2] == request.host


_LOCAL_NAME = re.compile(
    r"(?i)[a-z0-9_-]+|[a-z0-9_.-]+\.(?:local|localhost|lan|home|internal|home\.arpa)|\[[0-9a-f:.%]+\]"
)

_FOREIGN_NAME = (
    "asked for as {!r}: without PIBOT_API_KEY only an address or a local name is answered; use one, or set it"
)


def _is_local_name(host: str) -> bool:
    """Whether ``host`` is an address, or a name that nobody on the internet can own.

    Where no key is asked for, a page on the internet could have its own name point here (DNS rebinding) and so pass
    for this origin.
    """
    name = re.sub(r":\d+\Z", "", host)
    return bool(re.fullmatch(r"[\d.]+", name) or _LOCAL_NAME.fullmatch(name))
