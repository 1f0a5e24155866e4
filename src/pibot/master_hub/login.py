"""Log in to the dashboard and out of it. The form is the only place where a browser gets a key."""

from __future__ import annotations

import math

from flask import Blueprint, Response, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from pibot import __version__
from pibot.contracts import Scope
from pibot.master_hub.access import HOME, LOG_IN, LOG_OUT, local
from pibot.web import LIFETIME, KeyGuesses, Session, Sessions, blocked, cookie_name, current_session, needs

MAX_KEY_CHARS = 4096
"""Characters of a key in the form. A longer one is refused unchecked."""


def create_login_blueprint(sessions: Sessions | None, guesses: KeyGuesses) -> Blueprint:
    """Make the routes for logging in and out.

    Args:
        sessions: the hub's sessions; None if it requires no key.
        guesses: counts wrong keys.
    """
    login = Blueprint("login", __name__)

    def known() -> Session | None:
        return None if sessions is None else sessions.find(request.cookies.get(cookie_name(), ""))

    @login.get(LOG_IN)
    def form() -> AnyResponse:
        wanted = local(request.args.get("next"))
        return redirect(wanted, 303) if sessions is None or known() else _page(wanted)

    @login.post(LOG_IN)
    def log_in() -> AnyResponse:
        wanted = local(request.form.get("next"))
        if sessions is None:
            return redirect(wanted, 303)
        seconds = guesses.blocked()
        if seconds:
            problem = f"Too many wrong keys came from your address; the next is checked in {seconds} s."
            return _page(wanted, problem, blocked(seconds))
        key = request.form.get("key", "").strip()
        session = sessions.begin(key.encode("utf-8", "surrogateescape")) if 0 < len(key) <= MAX_KEY_CHARS else None
        if session is None:
            guesses.failed()
            return _page(wanted, "This key is not valid for this dashboard.", Response(status=403))
        before = known()
        if before is not None:
            sessions.end(before)
        response = redirect(wanted, 303)
        _set_cookie(response, session.session_id, LIFETIME)
        return response

    @login.post(LOG_OUT)
    @needs(Scope.READ)
    def log_out() -> AnyResponse:
        session = current_session()
        if sessions is not None and session is not None:
            sessions.end(session)
        response = redirect(HOME if sessions is None else LOG_IN, 303)
        _set_cookie(response, "", 0)
        return response

    return login


def _set_cookie(response: AnyResponse, value: str, seconds: int) -> None:
    # Lax, not Strict: a link to a job in a chat should open the job, and no GET changes anything.
    response.set_cookie(
        cookie_name(), value, max_age=seconds, path="/", secure=request.is_secure, httponly=True, samesite="Lax"
    )


def _page(wanted: str, problem: str = "", refusal: Response | None = None) -> Response:
    """Render the form, with the problem and the refusal's status."""
    html = render_template(
        "login.html", next=wanted, problem=problem, days=math.floor(LIFETIME / 86400), version=__version__
    )
    if refusal is None:
        return Response(html, mimetype="text/html")
    headers = {name: value for name, value in refusal.headers.items() if name == "Retry-After"}
    return Response(html, refusal.status_code, headers, mimetype="text/html")
