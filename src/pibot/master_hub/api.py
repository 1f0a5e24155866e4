"""The master's HTTP API for jobs, workers and figures. Every answer is JSON, except the metrics."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, cast

from flask import Blueprint, Response, request

from pibot import __version__
from pibot.contracts import Decision, JsonObject, Scope, WorkerAddress, WorkerState, WorkerStatus, valid_id
from pibot.contracts.proofs import JOIN_HEADER
from pibot.errors import InvalidRequest, OutOfScope
from pibot.master_components.store.accounts import DAYS_KEPT
from pibot.master_components.store.records import Job, Submission
from pibot.master_components.store.spending import rounded
from pibot.master_components.store.states import ENDED_JOBS, JobState, StepState
from pibot.master_hub.access import RateLimit
from pibot.settings import is_loopback
from pibot.web import WaitingRoom, answer, current_caller, error, json_body, needs, network_of, wait_preference

if TYPE_CHECKING:
    from pibot.master_hub.service import HubService

MAX_WAIT = 60.0
"""Seconds that one request may wait for a result; a caller that wants to wait longer asks again."""

WAITING_PLACES = 12
"""Requests that may wait at once; each holds one of the server's threads."""

WAITING_PLACES_EACH = 10
"""How many of them may come from one address."""

JOINS_PER_MINUTE = 60
"""How often one key, or one address with the fleet's key, may register workers and take them off. The hub may write its
list of workers to the card each time. A worker does it once a minute."""

MAX_PAGE = 200
MAX_PAGE_BYTES = 256 * 1024
"""Jobs in one answer of ``/tasks``, and their bytes as JSON; a page ends at the limit that comes first."""


def create_api_blueprint(hub: HubService, submitting: RateLimit) -> Blueprint:
    """Make the API's routes.

    Args:
        hub: the started hub.
        submitting: how many jobs a caller may submit, shared with the dashboard's form.
    """
    api = Blueprint("api", __name__)
    _add_job_routes(api, hub, submitting)
    _add_approval_routes(api, hub)
    _add_worker_routes(api, hub)
    _add_figures(api, hub)
    return api


def _add_job_routes(api: Blueprint, hub: HubService, submitting: RateLimit) -> None:
    jobs, store = hub.jobs, hub.store
    waiting = WaitingRoom(WAITING_PLACES, WAITING_PLACES_EACH)

    def result_or(job_id: str, not_yet: JsonObject | None, headers: dict[str, str]) -> Response:
        """The job's result, after a wait if the caller prefers one; a 202 if the job has not ended by then."""
        seconds = wait_preference(MAX_WAIT)
        headers = {**headers, **_applied(seconds)}
        if seconds or not_yet is None:
            network = network_of(request.remote_addr)
            job = cast(Job, waiting.wait(seconds, lambda limit: jobs.wait(job_id, limit), network=network))
            if job.state in ENDED_JOBS:
                return answer({**result_json(job), "currency": hub.spending.currency}, 200, headers)
            not_yet = not_yet or {"success": True, "job_id": job_id, "status": job.state.value}
            if job.waiting_calls:
                not_yet = {**not_yet, "waiting_for_approval": True}
        return answer(not_yet, 202, headers)

    @api.post("/task")
    @needs(Scope.SUBMIT)
    def submit() -> Response:
        submitting.check()
        job = jobs.submit(Submission.from_json(json_body()))
        accepted = {"success": True, "job_id": job.job_id, "status": "accepted"}
        return result_or(job.job_id, accepted, {"Location": f"/task/{job.job_id}"})

    @api.get("/task/<job_id>")
    def task(job_id: str) -> Response:
        return answer({"success": True, "job": _whole(store.queries.job(job_id), hub)})

    @api.get("/task/<job_id>/export")
    def export(job_id: str) -> Response:
        record = store.queries.export(job_id)
        body = {**record.to_json(), "job": _whole(record.job, hub)}
        return answer({"success": True, "version": __version__, **body})

    @api.get("/task/<job_id>/result")
    def result(job_id: str) -> Response:
        return result_or(job_id, None, {})

    @api.post("/task/<job_id>/cancel")
    @needs(Scope.SUBMIT)
    def cancel(job_id: str) -> Response:
        return answer({"success": True, "job_id": job_id, "status": jobs.cancel(job_id).state.value})

    @api.get("/tasks")
    def tasks() -> Response:
        limit = _limit(default=50, most=MAX_PAGE, name="limit")
        found = store.queries.jobs(state=_state(), limit=limit + 1, before=_before())
        asking = store.approvals.jobs()
        page: list[JsonObject] = []
        size = 0
        for job in found[:limit]:
            row = _listed(job, asking)
            size += len(json.dumps(row))
            if page and size > MAX_PAGE_BYTES:
                break
            page.append(row)
        return answer({"success": True, "tasks": page, "next": page[-1]["job_id"] if len(found) > len(page) else None})


def _add_approval_routes(api: Blueprint, hub: HubService) -> None:
    @api.get("/approvals")
    def approvals() -> Response:
        waiting = hub.store.approvals.waiting()
        return answer({"success": True, "approvals": [approval.to_json() for approval in waiting]})

    @api.post("/approvals/<approval_id>")
    @needs(Scope.ADMIN)
    def decide(approval_id: str) -> Response:
        approval = hub.jobs.decide(approval_id, Decision.from_json(json_body()), current_caller().name)
        return answer({"success": True, "approval": approval.to_json()})


def _add_worker_routes(api: Blueprint, hub: HubService) -> None:
    members, keyless = hub.members, hub.settings.api_key is None
    joining = RateLimit(JOINS_PER_MINUTE, "workers registered or taken off", "")

    @api.get("/workers")
    def workers() -> Response:
        statuses = hub.pool.statuses()
        rows = [{**status.to_json(), "url": status.address.url} for status in statuses]
        return answer({"success": True, **_worker_counts(statuses), "workers": rows})

    @api.post("/workers")
    @needs(Scope.WORKER)
    def join() -> Response:
        joining.check()
        address = WorkerAddress.from_json(json_body())
        _refuse_another(address.worker_id)
        if keyless and not (is_loopback(request.remote_addr or "") and is_loopback(address.host)):
            return error(
                403, "without PIBOT_API_KEY only a worker on the hub's own machine may register; set it on both"
            )
        hub.addresses.refuse_impossible(address, request.remote_addr or "", int(request.environ["SERVER_PORT"]))
        # A worker's own token is sent to the address. Whoever has the fleet's key has everything already.
        if current_caller().worker_id is not None and not members.is_known_at(address):
            hub.addresses.demand_proof(address, request.headers.get(JOIN_HEADER))
        members.join(address)
        return answer({"success": True, "worker_id": address.worker_id, "status": "registered"})

    @api.delete("/workers/<worker_id>")
    @needs(Scope.WORKER)
    def leave(worker_id: str) -> Response:
        joining.check()
        _refuse_another(worker_id)
        members.leave(worker_id)
        return answer({"success": True, "worker_id": worker_id, "status": "leaving"})

    @api.post("/workers/<worker_id>/drain")
    def drain(worker_id: str) -> Response:
        members.drain(worker_id, True)
        return answer({"success": True, "worker_id": worker_id, "status": "draining"})

    @api.post("/workers/<worker_id>/undrain")
    def undrain(worker_id: str) -> Response:
        members.drain(worker_id, False)
        return answer({"success": True, "worker_id": worker_id, "status": "active"})


def _add_figures(api: Blueprint, hub: HubService) -> None:
    @api.get("/health")
    def health() -> Response:
        body: JsonObject = {
            "status": "healthy",
            "role": "master",
            "version": __version__,
            "model": hub.model,
            "workers": _worker_counts(hub.pool.statuses()),
            "jobs": {state.value: number for state, number in hub.store.queries.counts().items()},
        }
        problem = hub.store.damage or hub.jobs.store_problem
        if problem:
            body["problem"] = problem
        return answer(body)

    @api.get("/usage")
    def usage() -> Response:
        days = _limit(default=7, most=DAYS_KEPT, name="days")
        return answer({"success": True, **hub.spending.to_json(days=days)})

    @api.get("/metrics")
    def metrics() -> Response:
        from pibot.master_hub.metrics import hub_metrics

        return Response(hub_metrics(hub), content_type="text/plain; version=0.0.4; charset=utf-8")

    @api.get("/openapi.json")
    def openapi() -> Response:
        return Response(_openapi(), mimetype="application/json")


def _worker_counts(statuses: Sequence[WorkerStatus]) -> JsonObject:
    """``total`` workers, and how many of them are in each state."""
    return {
        "total": len(statuses),
        **{state.value: sum(status.state is state for status in statuses) for state in WorkerState},
    }


def _refuse_another(worker_id: str) -> None:
    """Let a worker's token speak for that worker only.

    Raises:
        OutOfScope: the token belongs to another worker.
    """
    caller = current_caller()
    if caller.worker_id not in (None, worker_id):
        raise OutOfScope(f"this is the token of {caller.worker_id}, which can't speak for {worker_id}")


def _whole(job: Job, hub: HubService) -> JsonObject:
    """A job's record with its model calls by caller, and why its ready steps still wait for a worker."""
    record = job.to_json()
    record["currency"] = hub.settings.gateway.currency
    record["spending"] = [row.to_json() for row in hub.spending.of_job(job.job_id)]
    record["waiting_for"] = hub.jobs.why_not_planned(job)
    for step in record["subtasks"]:
        ready = step["status"] == StepState.READY.value and not record["cancel_requested"]
        reason = hub.jobs.why_waits(step["skills"]) if ready else None
        step["waiting_for"] = None if reason is None else reason.detail
        step["waiting_for_kind"] = None if reason is None else reason.kind.value
    return record


def _listed(job: Job, asking: Collection[str]) -> JsonObject:
    """A job's row in ``/tasks``, with excerpts of its texts."""
    row = job.to_json()
    del row["subtasks"], row["approvals"], row["plan_changes"]
    row["waiting_for_approval"] = job.job_id in asking
    return row


def result_json(job: Job) -> JsonObject:
    """An ended job's result: its answer, and each step's result."""
    output = job.answer or ""
    body: JsonObject = {
        "success": job.state is JobState.COMPLETED,
        "job_id": job.job_id,
        "status": job.state.value,
        "output": output,
        "data": {
            "output": output,
            "subtasks": {step.task_id: step.result.to_json() for step in job.steps if step.result is not None},
        },
        "usage": job.usage.to_json(),
        "cost": rounded(job.cost),
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }
    if job.error is not None:
        body["error"] = job.error
    return body


def _applied(seconds: float) -> dict[str, str]:
    return {"Preference-Applied": f"wait={seconds:.0f}"} if seconds else {}


def _state() -> JobState | None:
    value = request.args.get("status")
    if value is None:
        return None
    try:
        return JobState(value)
    except ValueError:
        states = ", ".join(state.value for state in JobState)
        raise InvalidRequest(f"status must be one of {states}", field="status") from None


def _limit(*, default: int, most: int, name: str) -> int:
    value = request.args.get(name, str(default))
    if not value.isascii() or not value.isdigit() or len(value) > 9 or not 1 <= int(value) <= most:
        raise InvalidRequest(f"{name} must be a whole number from 1 to {most}", field=name)
    return int(value)


def _before() -> str | None:
    value = request.args.get("before")
    return None if value is None else valid_id(value, "before")


@cache
def _openapi() -> str:
    return files("pibot.master_hub").joinpath("openapi.json").read_text("utf-8")
