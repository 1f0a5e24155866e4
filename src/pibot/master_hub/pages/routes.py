"""The dashboard's pages, their data, and the forms that submit and cancel jobs and decide tool calls."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flask import Blueprint, Response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from pibot import __version__
from pibot.contracts import MAX_DESCRIPTION_CHARS, Decision, JsonObject, Scope, valid_id
from pibot.errors import PibotError
from pibot.master_components.store.records import Submission
from pibot.master_hub.access import RateLimit, wants_json
from pibot.master_hub.jobs import JobControl
from pibot.master_hub.pages import presentation
from pibot.master_hub.pages.data import PageData
from pibot.web import answer, check_form_token, current_caller, current_session, needs, pibot_error

if TYPE_CHECKING:
    from pibot.tool_registry import SkillInfo

_HEADINGS = {
    400: "This can't be submitted",
    403: "Reload the page",
    404: "Not found",
    409: "Something has changed",
    410: "Too late",
    429: "Too many requests",
    503: "Not available now",
}


def create_dashboard_blueprint(
    data: PageData, jobs: JobControl, skills: Sequence[SkillInfo], submitting: RateLimit
) -> Blueprint:
    """Make the dashboard's routes.

    Args:
        data: what the pages show.
        jobs: what the forms change.
        skills: offered in the form for a new job.
        submitting: how many jobs a caller may submit, shared with the API.
    """
    board = Blueprint(
        "dashboard",
        __name__,
        template_folder="templates",
        static_folder="static",
        static_url_path="/dashboard/static",
    )
    board.add_app_template_filter(presentation.iso, "iso")
    board.add_app_template_filter(presentation.utc, "utc")
    board.register_error_handler(PibotError, _problem)
    tokens = _FormTokens()
    _add_pages(board, data, tokens, skills)
    _add_forms(board, jobs, tokens, submitting)
    return board


def _add_pages(board: Blueprint, data: PageData, tokens: _FormTokens, skills: Sequence[SkillInfo]) -> None:
    @board.get("/")
    def root() -> AnyResponse:
        return redirect(url_for("dashboard.home"))

    @board.get("/dashboard")
    def home() -> Response:
        view = {"token": tokens.current(), **data.fleet()}
        return _page("dashboard.html", view, url_for("dashboard.home_data"), skills=skills)

    @board.get("/dashboard/data")
    def home_data() -> Response:
        return _data({"token": tokens.current(), **data.fleet()})

    @board.get("/dashboard/jobs/<job_id>")
    def job(job_id: str) -> Response:
        view = {"token": tokens.current(), **data.job(job_id)}
        return _page("job.html", view, url_for("dashboard.job_data", job_id=job_id))

    @board.get("/dashboard/jobs/<job_id>/data")
    def job_data(job_id: str) -> Response:
        return _data({"token": tokens.current(), **data.job(job_id)})


def _add_forms(board: Blueprint, jobs: JobControl, tokens: _FormTokens, submitting: RateLimit) -> None:
    @board.post("/dashboard/submit")
    @needs(Scope.SUBMIT)
    def submit() -> AnyResponse:
        tokens.check()
        submitting.check()
        body: JsonObject = {"description": request.form.get("description")}
        chosen = request.form.getlist("skills")
        if chosen:
            body["skills"] = chosen
        job = jobs.submit(Submission.from_json(body))
        return _go_to(presentation.job_href(job.job_id))

    @board.post("/dashboard/cancel")
    @needs(Scope.SUBMIT)
    def cancel() -> AnyResponse:
        tokens.check()
        job_id = valid_id(request.form.get("job_id"), "job_id")
        jobs.cancel(job_id)
        return _go_to(presentation.job_href(job_id))

    @board.post("/dashboard/approve")
    @needs(Scope.ADMIN)
    def approve() -> AnyResponse:
        tokens.check()
        approval_id = valid_id(request.form.get("approval_id"), "approval_id")
        approved = {"yes": True, "no": False}.get(request.form.get("approved", ""))
        decision = Decision.from_json(
            {
                "digest": request.form.get("digest"),
                "approved": approved,
                "reason": "" if approved else request.form.get("reason", ""),
            }
        )
        approval = jobs.decide(approval_id, decision, current_caller().name)
        return _go_to(presentation.job_href(approval.job_id))


class _FormTokens:
    """The token in the pages' forms: the session's, or one of this process where nobody has to log in."""

    def __init__(self) -> None:
        self._without_session = secrets.token_hex(32)

    def current(self) -> str:
        """The token for the page that is being rendered."""
        session = current_session()
        return self._without_session if session is None else session.form_token

    def check(self) -> None:
        """Refuse a form that was not on one of this hub's pages.

        Raises:
            WrongFormToken: it carries another token, or none.
        """
        if current_session() is None:  # else the guard has checked it
            check_form_token(self._without_session, "the hub was restarted")


def _problem(exc: PibotError) -> Response:
    """The API's answer to dashboard.js; for a browser the same as a page."""
    told = pibot_error(exc)
    if wants_json() or request.path.endswith("/data"):
        return told
    heading = _HEADINGS.get(told.status_code, "Something went wrong")
    html = render_template("problem.html", message=str(exc), heading=heading, version=__version__)
    headers = {name: value for name, value in told.headers.items() if name == "Retry-After"}
    return Response(html, told.status_code, headers, mimetype="text/html")


def _page(template: str, view: JsonObject, data_url: str, **more: object) -> Response:
    html = render_template(
        template,
        view=view,
        etag=_etag(view),
        data_url=data_url,
        version=__version__,
        limit=MAX_DESCRIPTION_CHARS,
        **more,
    )
    return Response(html, mimetype="text/html")


def _data(view: JsonObject) -> Response:
    """The page's data, or a 304 where the browser has it already."""
    etag = _etag(view)
    if etag in request.headers.get("If-None-Match", ""):
        return Response(status=304, headers={"ETag": etag})
    return answer(view, headers={"ETag": etag})


def _etag(view: JsonObject) -> str:
    """An ETag that changes with anything the page shows; the workers' readings count once a minute."""
    steady = {**view, "workers": [{**row, "reading": ""} for row in view.get("workers", ())]}
    digest = hashlib.blake2b(json.dumps(steady, sort_keys=True).encode(), digest_size=12).hexdigest()
    return f'"{digest}"'


def _go_to(href: str) -> AnyResponse:
    """Lead the browser to a page after a form: in JSON for dashboard.js, else by a redirect."""
    return answer({"success": True, "href": href}) if wants_json() else redirect(href, 303)
