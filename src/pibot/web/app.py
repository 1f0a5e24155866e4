"""A Flask app that asks for the key, refuses what no honest caller sends, and answers errors as JSON."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import HTTPException

from pibot import errors
from pibot.contracts import Caller
from pibot.errors import InvalidRequest, PibotError
from pibot.web.channel import TooSlow
from pibot.web.keys import OWNER, KeyRing, needed
from pibot.web.messages import error

log = logging.getLogger("pibot.web")

MAX_BODY = 1024 * 1024
"""Bytes of a request's body. A task's description is at most a tenth of it."""

MAX_DRAINED = 16 * MAX_BODY
"""Bytes of a refused body that are still read, piece by piece, so that its sender gets the answer and no reset."""

RETRY_AFTER = 1
"""Seconds that a caller is asked to wait where a worker is busy or a process is stopping."""

_STATUS: tuple[tuple[type[PibotError], int], ...] = (
    (InvalidRequest, 400),
    (errors.UnknownSkill, 400),
    (errors.OutOfScope, 403),
    (errors.TaskNotFound, 404),
    (errors.JobNotFound, 404),
    (errors.UnknownWorker, 404),
    (errors.TaskConflict, 409),
    (errors.ApprovalNotFound, 404),
    (errors.ApprovalConflict, 409),
    (errors.ApprovalOver, 410),
    (errors.WorkerConflict, 409),
    (errors.WorkerBusy, 409),
    (errors.ShuttingDown, 503),
    (errors.StoreError, 503),
    (errors.LLMConfigurationError, 503),
    (errors.LLMError, 502),
)


def create_app(
    name: str,
    *,
    keys: KeyRing | None,
    open_paths: Collection[str] = (),
    form_paths: Collection[str] = (),
    max_body: int = MAX_BODY,
) -> Flask:
    """Make a Flask app whose errors are JSON and whose every route asks for a key that is good for it.

    Args:
        name: the import name of the module whose templates and static files it uses.
        keys: of which callers must show one; None lets everyone in.
        open_paths: paths that need no key.
        form_paths: paths of forms, on which a browser's Basic credentials count for every method, because their views
            ask for a token that only the app's own pages hold.
        max_body: bytes.
    """
    app = Flask(name, static_folder=None)
    guard = _Guard(keys, frozenset(open_paths), frozenset(form_paths), max_body)
    # A method: Flask looks at a callable object's signature anew at each request.
    app.before_request(guard.look_at)
    app.register_error_handler(PibotError, _pibot_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(TooSlow, _too_slow)
    app.register_error_handler(Exception, _unexpected)
    return app


class _Guard:
    """Looks at each request before its view does."""

    def __init__(
        self, keys: KeyRing | None, open_paths: frozenset[str], form_paths: frozenset[str], max_body: int
    ) -> None:
        self._keys = keys
        self._open_paths = open_paths
        self._form_paths = form_paths
        self._max_body = max_body

    def look_at(self) -> Response | None:
        if not request.environ.get("CONTENT_LENGTH", "0").isdigit():
            return error(400, "the Content-Length is not a number of bytes")
        # Before the key is looked at: cheroot closes the connection after a 413 instead of reading on.
        length = request.content_length or 0
        if length > self._max_body:
            if length <= MAX_DRAINED:
                while request.stream.read(65536):
                    pass
            return error(413, f"the body has {length} bytes, {self._max_body} are allowed")
        if request.environ.get("HTTP_TRANSFER_ENCODING"):
            # Flask cuts a chunked body at its limit without an error, so a length is demanded instead.
            return error(411, "send the body with a Content-Length; a chunked body is not read")
        if not _is_same_origin():
            return error(403, "this request came from another site's page")
        if request.path in self._open_paths:
            return None
        if self._keys is None:
            g.caller = OWNER
            return None if _is_local_name(request.host) else error(403, _FOREIGN_NAME.format(request.host))
        caller = self._caller(self._keys)
        if caller is None:
            return _no_key()
        g.caller = caller
        scope = needed(current_app.view_functions.get(request.endpoint or ""), request.method)
        if not caller.may(scope):
            have = f"the one of {caller.name} has {caller.scope.value}"
            return error(403, f"this takes a key with the scope {scope.value}; {have}")
        return None

    def _caller(self, keys: KeyRing) -> Caller | None:
        """Whose key the request shows."""
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            # A browser sends these by itself, also for a request that another site's page made it send: they count for
            # reading, and for forms whose token such a page can't know.
            password = request.authorization.password if request.authorization else None
            if password is None or (request.method not in ("GET", "HEAD") and request.path not in self._form_paths):
                return None
            return keys.find(password.encode("utf-8", "surrogateescape"))
        if scheme.lower() == "bearer":
            return keys.find(value.strip(" \t").encode("latin-1"))  # WSGI's form of the header's bytes
        return None


def _no_key() -> Response:
    response = error(401, "the key is missing or wrong; send it as 'Authorization: Bearer <PIBOT_API_KEY>'")
    response.headers["WWW-Authenticate"] = 'Bearer realm="pibot"'
    if request.method in ("GET", "HEAD"):
        response.headers.add("WWW-Authenticate", 'Basic realm="PiBot: any name, the key as password"')
    return response


def _is_same_origin() -> bool:
    """Whether a changing request is no other site's page's doing.

    Bodies are JSON whatever their Content-Type, so no preflight would stop such a page; browsers name the origin.
    """
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return True
    if request.environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
        return False
    origin = request.environ.get("HTTP_ORIGIN")
    return origin is None or urlsplit(origin).netloc == request.host


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


def retry_after(exc: PibotError) -> int:
    """Seconds that the caller of what is refused for now is asked to wait."""
    return exc.retry_after if isinstance(exc, errors.QueueFull) else RETRY_AFTER


def _pibot_error(exc: PibotError) -> Response:
    status = next((status for kind, status in _STATUS if isinstance(exc, kind)), 500)
    extra: dict[str, object] = {}
    if isinstance(exc, InvalidRequest) and exc.field:
        extra["field"] = exc.field
    elif isinstance(exc, errors.UnknownSkill):
        extra.update(field="skills", skills=list(exc.available))
    elif isinstance(exc, errors.WorkerBusy):
        extra.update(status="busy", current_task=exc.current_task)
    if status == 500:
        log.error("%s %s failed: %s", request.method, request.path, exc, exc_info=exc)
    response = error(status, str(exc), **extra)
    if status == 503 or isinstance(exc, errors.WorkerBusy):
        response.headers["Retry-After"] = str(retry_after(exc))
    return response


def _http_error(exc: HTTPException) -> Response:
    known = {
        404: f"there is nothing at {request.path}",
        405: f"{request.path} does not take {request.method}",
    }
    code = exc.code or 500
    response = error(code, known.get(code) or exc.description or exc.name)
    for name, value in exc.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


def _too_slow(_: TooSlow) -> Response:
    return error(408, "the body did not come in time")


def _unexpected(exc: Exception) -> Response:
    log.error("%s %s failed unexpectedly", request.method, request.path, exc_info=exc)
    return error(500, "an unexpected error; the log of this process says more")
