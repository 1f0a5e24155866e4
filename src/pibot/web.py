"""What both Flask apps share: the key, JSON in and out, limits, and the cheroot server with its graceful stop."""

from __future__ import annotations

import hmac
import io
import json
import logging
import re
import signal
import threading
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Callable, cast
from urllib.parse import urlsplit

from cheroot import wsgi
from cheroot.server import HTTPConnection, HTTPRequest
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from pibot import errors
from pibot.errors import InvalidRequest, PibotError, SettingsError
from pibot.settings import Secret

if TYPE_CHECKING:
    import ssl

log = logging.getLogger("pibot.web")

MAX_BODY = 1024 * 1024
"""Bytes of a request's body. A task's description is at most a tenth of it."""

MAX_DRAINED = 16 * MAX_BODY
"""Bytes of a refused body that are still read, piece by piece, so that its sender gets the answer and no reset."""

MAX_HEADERS = 64 * 1024
"""Bytes of a request's head."""

REQUEST_TIMEOUT = 10
"""Seconds in which a client has to send the next part of its request, and an idle connection is kept."""

RETRY_AFTER = 1
"""Seconds that a caller is asked to wait where a worker is busy or a process is stopping."""

_STATUS: tuple[tuple[type[PibotError], int], ...] = (
    (InvalidRequest, 400),
    (errors.UnknownSkill, 400),
    (errors.TaskNotFound, 404),
    (errors.JobNotFound, 404),
    (errors.TaskConflict, 409),
    (errors.WorkerBusy, 409),
    (errors.ShuttingDown, 503),
    (errors.StoreError, 503),
    (errors.LLMConfigurationError, 503),
    (errors.LLMError, 502),
)


# --- the app ----------------------------------------------------------------


def create_app(
    name: str,
    *,
    api_key: Secret | None,
    open_paths: Collection[str] = (),
    form_paths: Collection[str] = (),
    max_body: int = MAX_BODY,
) -> Flask:
    """Make a Flask app whose errors are JSON and whose every route asks for the key.

    Args:
        name: the import name of the module whose templates and static files it uses.
        api_key: what callers must show; None lets everyone in.
        open_paths: paths that need no key.
        form_paths: paths of forms, on which a browser's Basic credentials count for every method, because their views
            ask for a token that only the app's own pages hold.
        max_body: bytes.
    """
    app = Flask(name, static_folder=None)
    guard = _Guard(api_key, frozenset(open_paths), frozenset(form_paths), max_body)
    app.before_request(guard)
    app.register_error_handler(PibotError, _pibot_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    return app


class _Guard:
    """Looks at each request before its view does."""

    def __init__(
        self, api_key: Secret | None, open_paths: frozenset[str], form_paths: frozenset[str], max_body: int
    ) -> None:
        self._key = None if api_key is None else api_key.reveal().encode()
        self._open_paths = open_paths
        self._form_paths = form_paths
        self._max_body = max_body

    def __call__(self) -> Response | None:
        if not request.headers.get("Content-Length", "0").isdigit():
            return error(400, "the Content-Length is not a number of bytes")
        # Before the key is looked at: cheroot closes the connection after a 413 instead of reading on.
        length = request.content_length or 0
        if length > self._max_body:
            if length <= MAX_DRAINED:
                while request.stream.read(65536):
                    pass
            return error(413, f"the body has {length} bytes, {self._max_body} are allowed")
        if request.headers.get("Transfer-Encoding"):
            # Flask cuts a chunked body at its limit without an error, so a length is demanded instead.
            return error(411, "send the body with a Content-Length; a chunked body is not read")
        if not _is_same_origin():
            return error(403, "this request came from another site's page")
        if request.path in self._open_paths:
            return None
        if self._key is None:
            return None if _is_local_name(request.host) else error(403, _FOREIGN_NAME.format(request.host))
        if self._shows_key(self._key):
            return None
        response = error(401, "the key is missing or wrong; send it as 'Authorization: Bearer <PIBOT_API_KEY>'")
        response.headers["WWW-Authenticate"] = 'Bearer realm="pibot"'
        if request.method in ("GET", "HEAD"):
            response.headers.add("WWW-Authenticate", 'Basic realm="PiBot: any name, the key as password"')
        return response

    def _shows_key(self, key: bytes) -> bool:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            # A browser sends these by itself, also for a request that another site's page made it send: they count for
            # reading, and for forms whose token such a page can't know.
            password = request.authorization.password if request.authorization else None
            if password is None or (request.method not in ("GET", "HEAD") and request.path not in self._form_paths):
                return False
            shown = password.encode("utf-8", "surrogateescape")
        elif scheme.lower() == "bearer":
            shown = value.strip(" \t").encode("latin-1")  # WSGI's form of the header's bytes
        else:
            return False
        return hmac.compare_digest(shown, key)


def _is_same_origin() -> bool:
    """Whether a changing request is no other site's page's doing.

    Bodies are JSON whatever their Content-Type, so no preflight would stop such a page; browsers name the origin.
    """
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return True
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return False
    origin = request.headers.get("Origin")
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


def answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    text = json.dumps(body, ensure_ascii=False, separators=(", ", ": ")) + "\n"
    return Response(
        text.encode("utf-8", "replace"),  # a lone surrogate, as a model's broken escape makes it, is no text
        status,
        headers,
        mimetype="application/json",
    )


def error(status: int, message: str, /, **extra: object) -> Response:
    """The JSON form of an error: ``success`` false, one sentence, and what else is named."""
    return answer({"success": False, "error": message, **extra}, status)


def json_body() -> Any:
    """The request's body, decoded as JSON whatever its Content-Type says.

    Raises:
        InvalidRequest: it is empty, not UTF-8 or not JSON.
    """
    data = request.get_data(cache=False)
    if not data.strip():
        raise InvalidRequest("the body is empty; send a JSON object")
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"the body is not UTF-8: {exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"the body is not JSON: {exc}") from exc


def wait_preference(maximum: float) -> float:
    """Seconds that the caller is willing to wait, by ``Prefer: wait=N`` (RFC 7240), at most ``maximum``; else 0."""
    for value in request.headers.getlist("Prefer"):
        match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?\s*(?:$|[,;])", value)
        if match:
            return min(float(match.group(1)), maximum)
    return 0.0


class WaitingRoom:
    """How many requests may wait at once, so that some threads are always free to answer the others.

    Args:
        places: how many.
    """

    def __init__(self, places: int) -> None:
        self._places = threading.BoundedSemaphore(places)

    def wait(self, seconds: float, wait: Callable[[float], Any]) -> Any:
        """Call ``wait(seconds)``, or ``wait(0)`` at once where all places are taken, as RFC 7240 allows."""
        if seconds <= 0 or not self._places.acquire(blocking=False):
            return wait(0.0)
        try:
            return wait(seconds)
        finally:
            self._places.release()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


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
        response.headers["Retry-After"] = str(RETRY_AFTER)
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


def _unexpected(exc: Exception) -> Response:
    log.error("%s %s failed unexpectedly", request.method, request.path, exc_info=exc)
    return error(500, "an unexpected error; the log of this process says more")


# --- the server -------------------------------------------------------------


class Server:
    """A cheroot server for one app.

    Args:
        app: a WSGI application.
        host: the address to listen on.
        port: 0 for any free one.
        threads: how many requests are answered at once.
        ssl_context: for HTTPS.

    Raises:
        SettingsError: the address can't be had.
    """

    def __init__(
        self, app: Any, *, host: str, port: int, threads: int = 10, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._server = _CherootServer(
            (host, port), app, numthreads=threads, request_queue_size=128, timeout=REQUEST_TIMEOUT
        )
        self._server.gateway = _Gateway
        self._server.ConnectionClass = _Connection
        self._server.max_request_header_size = MAX_HEADERS
        self._server.keep_alive_conn_limit = 128
        if ssl_context is not None:
            self._server.ssl_adapter = _tls_adapter(ssl_context)
        try:
            self._server.prepare()
        except OSError as exc:
            raise SettingsError(
                f"can't listen on {host} port {port}: {_reason(exc)}; choose another with --port or --host"
            ) from exc
        self.port: int = self._server.bind_addr[1]
        self._thread: threading.Thread | None = None

    def serve(self) -> None:
        """Answer requests until :meth:`stop` is called from another thread."""
        self._server.serve()

    def start(self) -> None:
        """Answer requests in a thread of its own."""
        self._thread = threading.Thread(target=self.serve, name="pibot-http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no new connections, finish the requests in flight, and end."""
        self._server.stop()
        if self._thread is not None:
            self._thread.join()


def serve(
    app: Any,
    *,
    host: str,
    port: int,
    stop: Callable[[], None],
    ready: Callable[[int], None] | None = None,
    threads: int = 10,
    ssl_context: ssl.SSLContext | None = None,
) -> None:
    """Serve ``app`` from the main thread until SIGTERM or SIGINT.

    Args:
        stop: called on the signal, while requests are still answered: end the work, so that who waits gets an answer.
        ready: called with the port once connections are taken.

    Raises:
        SettingsError: the address can't be had.
    """
    server = Server(app, host=host, port=port, threads=threads, ssl_context=ssl_context)

    def graceful() -> None:
        try:
            stop()
        finally:
            server.stop()

    stopping = threading.Thread(target=graceful, name="pibot-stop")

    def on_signal(number: int, _frame: object) -> None:
        if stopping.ident is None:
            log.info("stopping signal=%s", signal.Signals(number).name)
            stopping.start()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        if ready is not None:
            ready(server.port)
        server.serve()
        if stopping.ident is not None:
            stopping.join()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _CherootServer(wsgi.Server):
    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        log.log(level, "%s", msg, exc_info=traceback)


class _Request(HTTPRequest):
    """Sends a response's head with the first part of its body: one packet, which wakes the client once."""

    _head = b""

    def send_headers(self) -> None:
        wfile = self.conn.wfile
        self.conn.wfile = head = io.BytesIO()
        try:
            super().send_headers()
        finally:
            self.conn.wfile = wfile
        self._head = head.getvalue()

    def write(self, chunk: bytes) -> None:
        if self.chunked_write:
            self.flush_head()
        else:
            chunk, self._head = self._head + chunk, b""
        super().write(chunk)

    def flush_head(self) -> None:
        """Send the head where no body took it along."""
        head, self._head = self._head, b""
        if head:
            self.conn.wfile.write(head)


class _Connection(HTTPConnection):
    RequestHandlerClass = _Request


class _Gateway(wsgi.Gateway_10):
    def respond(self) -> None:
        # A refused chunked body stays unread, so what follows on this connection is no request.
        if self.req.chunked_read:
            self.req.close_connection = True
        super().respond()
        self.req.flush_head()


def _tls_adapter(context: ssl.SSLContext) -> Any:
    from cheroot.ssl.builtin import BuiltinSSLAdapter

    # The adapter has no argument for a ready context, and reads the files that it is given.
    adapter = BuiltinSSLAdapter.__new__(BuiltinSSLAdapter)
    adapter.context = context
    return adapter


def _reason(exc: OSError) -> str:
    """The operating system's own words, out of cheroot's wrapping."""
    match = re.search(r"\[Errno \d+\] ([^)\]]+)", str(exc))
    return cast(str, match.group(1) if match else exc.strerror or str(exc))
