"""Make a Flask app that requires a key, refuses malformed requests, and answers errors as JSON."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from pibot import errors
from pibot.contracts import Refusal
from pibot.errors import InvalidRequest, PibotError
from pibot.web.guard import Guard, KeyGuesses, LogIn
from pibot.web.keys import KeyRing
from pibot.web.messages import answer, error
from pibot.web.server.channel import TooSlow

log = logging.getLogger("pibot.web")

MAX_BODY = 1024 * 1024
"""Bytes of a request's body. A task's description is at most a tenth of them."""

RETRY_AFTER = 1
"""Seconds in ``Retry-After`` from a busy worker or a stopping process."""

STATUSES: tuple[tuple[type[PibotError], int], ...] = (
    (InvalidRequest, 400),
    (errors.UnknownSkill, 400),
    (errors.OutOfScope, 403),
    (errors.WrongFormToken, 403),
    (errors.AddressNotProven, 403),
    (errors.TaskNotFound, 404),
    (errors.JobNotFound, 404),
    (errors.UnknownWorker, 404),
    (errors.TaskConflict, 409),
    (errors.ApprovalNotFound, 404),
    (errors.ApprovalConflict, 409),
    (errors.ApprovalOver, 410),
    (errors.WorkerConflict, 409),
    (errors.WorkerBusy, 409),
    (errors.TooManyRequests, 429),
    (errors.ShuttingDown, 503),
    (errors.StoreError, 503),
    (errors.LLMConfigurationError, 503),
    (errors.LLMError, 502),
)
"""The HTTP status of each exception, for the APIs and the pages. The first row that fits counts."""


def create_app(
    name: str,
    *,
    keys: KeyRing | None,
    open_paths: Collection[str] = (),
    open_endpoints: Collection[str] = (),
    log_in: LogIn | None = None,
    guesses: KeyGuesses | None = None,
    max_body: int = MAX_BODY,
    certified_workers: bool = False,
) -> Flask:
    """Make a Flask app whose errors are JSON and whose every route requires a key with the right scope.

    Args:
        name: the import name of the package whose templates the app uses.
        keys: the accepted keys; None lets every caller in.
        open_paths: paths that require no key.
        open_endpoints: Flask endpoints that require none either.
        log_in: the browser sessions that are accepted in place of a key.
        guesses: counts wrong keys.
        max_body: bytes.
        certified_workers: accept a worker's token only together with that worker's certificate.
    """
    app = Flask(name, static_folder=None)
    guard = Guard(
        keys,
        open_paths=frozenset(open_paths),
        open_endpoints=frozenset(open_endpoints),
        log_in=log_in,
        guesses=guesses or KeyGuesses(),
        max_body=max_body,
        certified_workers=certified_workers,
    )
    # A bound method: Flask inspects the signature of a callable object at each request.
    app.before_request(guard.check)
    app.register_error_handler(PibotError, pibot_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(TooSlow, _too_slow)
    app.register_error_handler(Exception, _unexpected)
    return app


def pibot_error(exc: PibotError) -> Response:
    """Make the JSON response to ``exc`` with its status of :data:`STATUSES`. Any other error is logged, and a 500."""
    status = next((status for kind, status in STATUSES if isinstance(exc, kind)), 500)
    refusal = Refusal(str(exc))
    if isinstance(exc, InvalidRequest) and exc.field:
        refusal = replace(refusal, field=exc.field)
    elif isinstance(exc, errors.UnknownSkill):
        refusal = replace(refusal, field="skills", skills=tuple(exc.available))
    elif isinstance(exc, errors.WorkerBusy):
        refusal = replace(refusal, busy=True, current_task=exc.current_task)
    if status == 500:
        log.error("%s %s failed: %s", request.method, request.path, exc, exc_info=exc)
    response = answer(refusal.to_json(), status)
    if status in (429, 503) or isinstance(exc, errors.WorkerBusy):
        seconds = exc.retry_after if isinstance(exc, (errors.QueueFull, errors.TooManyRequests)) else RETRY_AFTER
        response.headers["Retry-After"] = str(seconds)
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
    return error(408, "the body did not arrive in time")


def _unexpected(exc: Exception) -> Response:
    log.error("%s %s failed unexpectedly", request.method, request.path, exc_info=exc)
    return error(500, "an unexpected error; see this process's log")
