"""The dashboard's pages, their data, and the forms for submitting and cancelling."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from typing import TYPE_CHECKING

from flask import Blueprint, Response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from pibot import __version__
from pibot.contracts import MAX_DESCRIPTION_CHARS, Decision, JsonObject, Scope, valid_id
from pibot.errors import (
    ApprovalConflict,
    ApprovalNotFound,
    ApprovalOver,
    InvalidRequest,
    JobNotFound,
    PibotError,
    ShuttingDown,
    StoreError,
    TaskConflict,
    TooManyRequests,
    UnknownSkill,
)
from pibot.master_components.store.records import Submission
from pibot.master_hub.access import SubmitLimit, wants_json
from pibot.master_hub.pages import presentation
from pibot.web import answer, current_caller, current_session, needs, retry_after

if TYPE_CHECKING:
    from pibot.master_hub.service import HubService

JOBS_SHOWN = 20
EVENTS_SHOWN = 15
ACTIVE_JOBS_SHOWN = 20


def create_dashboard_blueprint(service: HubService, submitting: SubmitLimit) -> Blueprint:
    """Make the dashboard's routes."""
    board = Blueprint(
        "dashboard",
        __name__,
        template_folder="templates",
        static_folder="static",
        static_url_path="/dashboard/static",
    )
    board.add_app_template_filter(presentation.iso, "iso")
    board.add_app_template_filter(presentation.utc, "utc")
    pages = _Pages(service)

    @board.get("/")
    def root() -> AnyResponse:
        return redirect(url_for("dashboard.home"))

    @board.get("/dashboard")
    def home() -> Response:
        body, etag = _pack(pages.fleet())
        return _page("dashboard.html", body, etag, url_for("dashboard.data"), skills=service.skills)

    @board.get("/dashboard/data")
    def data() -> Response:
        return _data(pages.fleet())

    @board.get("/dashboard/jobs/<job_id>")
    def job(job_id: str) -> Response:
        body, etag = _pack(pages.job(job_id))
        return _page("job.html", body, etag, url_for("dashboard.job_data", job_id=job_id))

    @board.get("/dashboard/jobs/<job_id>/data")
    def job_data(job_id: str) -> Response:
        return _data(pages.job(job_id))

    @board.post("/dashboard/submit")
    @needs(Scope.SUBMIT)
    def submit() -> AnyResponse:
        pages.check_token()
        submitting.check()
        skills = request.form.getlist("skills")
        submitted = service.submit(
            Submission.from_json(
                {"description": request.form.get("description"), **({"skills": skills} if skills else {})}
            )
        )
        return _go_to(presentation.job_href(submitted.job_id))

    @board.post("/dashboard/cancel")
    @needs(Scope.SUBMIT)
    def cancel() -> AnyResponse:
        pages.check_token()
        job_id = valid_id(request.form.get("job_id"), "job_id")
        service.cancel(job_id)
        return _go_to(presentation.job_href(job_id))

    @board.post("/dashboard/approve")
    @needs(Scope.ADMIN)
    def approve() -> AnyResponse:
        pages.check_token()
        approval_id = valid_id(request.form.get("approval_id"), "approval_id")
        approved = {"yes": True, "no": False}.get(request.form.get("approved", ""))
        decision = Decision.from_json(
            {
                "digest": request.form.get("digest"),
                "approved": approved,
                "reason": "" if approved else request.form.get("reason", ""),
            }
        )
        approval = service.decide(approval_id, decision, current_caller().name)
        return _go_to(presentation.job_href(approval.job_id))

    @board.errorhandler(PibotError)
    def problem(exc: PibotError) -> Response:
        status = next((status for kind, status in _STATUS if isinstance(exc, kind)), None)
        if status is None:
            raise exc
        headers = {"Retry-After": str(retry_after(exc))} if status in (429, 503) else {}
        if wants_json() or request.path.endswith("/data"):
            return answer({"success": False, "error": str(exc)}, status, headers)
        html = render_template("problem.html", message=str(exc), heading=_HEADINGS[status], version=__version__)
        return Response(html, status, headers, mimetype="text/html")

    return board


class _Pages:
    """What the pages show, as data."""

    def __init__(self, service: HubService) -> None:
        self._service = service
        self._token = secrets.token_hex(32)  # where nobody has to log in

    def token(self) -> str:
        """What the forms of the page that is being made hold."""
        session = current_session()
        return self._token if session is None else session.form_token

    def check_token(self) -> None:
        """Refuse a form that does not come from a page of this hub.

        Raises:
            _WrongToken: its token is not the one that the pages hold.
        """
        shown = request.form.get("token", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(shown, self.token().encode()):
            raise _WrongToken("this page is from before the hub was restarted; load it again, then send the form again")

    def fleet(self) -> JsonObject:
        service = self._service
        jobs = service.jobs(limit=JOBS_SHOWN + 1)
        active = presentation.active_rows(service.running_jobs(ACTIVE_JOBS_SHOWN))
        workers = service.workers()
        report = service.spending
        titles = {job.job_id: job.description for job in jobs}
        approvals = service.approvals()
        waiting = {approval.job_id for approval in approvals}
        return {
            **self._common(),
            "summary": presentation.summary(workers),
            "spent": report.in_words(report.today()),
            "banners": presentation.banners(
                service.settings,
                workers,
                service.model_problem,
                service.stopping,
                service.store_problem,
                service.store_damage,
                len(approvals),
            ),
            "approvals": [presentation.approval_row(approval) for approval in approvals],
            "workers": presentation.worker_rows(workers, active),
            "minute": int(service.uptime // 60),
            "active": active,
            "jobs": [presentation.job_row(job, waiting, report.currency) for job in jobs[:JOBS_SHOWN]],
            "more": len(jobs) > JOBS_SHOWN,
            "events": [presentation.event_row(event, titles) for event in service.events(EVENTS_SHOWN)],
        }

    def job(self, job_id: str) -> JsonObject:
        service = self._service
        job, report = service.job(job_id), service.spending
        view = presentation.job_view(job, service.why_waiting, report.of_job(job_id), report.currency)
        return {**self._common(), **view}

    def _common(self) -> JsonObject:
        return {"token": self.token(), "model": self._service.model or "none"}


class _WrongToken(PibotError):
    """A form without the token of this hub's pages."""


_STATUS: tuple[tuple[type[PibotError], int], ...] = (
    (_WrongToken, 403),
    (InvalidRequest, 400),
    (UnknownSkill, 400),
    (JobNotFound, 404),
    (TaskConflict, 409),
    (ApprovalNotFound, 404),
    (ApprovalConflict, 409),
    (ApprovalOver, 410),
    (TooManyRequests, 429),
    (ShuttingDown, 503),
    (StoreError, 503),
)

_HEADINGS = {
    400: "That can't be sent",
    403: "Load the page again",
    404: "No such job",
    409: "That does not fit any more",
    410: "That is over",
    429: "Too many at once",
    503: "Not now",
}


def _page(template: str, body: JsonObject, etag: str, data_url: str, **more: object) -> Response:
    html = render_template(
        template,
        view=body,
        etag=etag,
        data_url=data_url,
        version=__version__,
        limit=MAX_DESCRIPTION_CHARS,
        **more,
    )
    return Response(html, mimetype="text/html")


def _data(body: JsonObject) -> Response:
    """The page's data, or a 304 where the browser has it already."""
    body, etag = _pack(body)
    if etag in request.headers.get("If-None-Match", ""):
        return Response(status=304, headers={"ETag": etag})
    return answer(body, headers={"ETag": etag})


def _pack(body: JsonObject) -> tuple[JsonObject, str]:
    """The data and its ETag, which changes when anything that is shown does; workers' readings count once a minute."""
    steady = {**body, "workers": [{**row, "reading": ""} for row in body.get("workers", ())]}
    digest = hashlib.blake2b(json.dumps(steady, sort_keys=True).encode(), digest_size=12).hexdigest()
    return body, f'"{digest}"'


def _go_to(href: str) -> AnyResponse:
    """Where the browser goes after a form: told to dashboard.js, or by a redirect."""
    return answer({"success": True, "href": href}) if wants_json() else redirect(href, 303)
