"""Turn jobs, workers and events into the rows that the templates render and dashboard.js fills in."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Callable

from pibot.contracts import JsonObject, NoWorkerReason, Usage, WorkerState, WorkerStatus
from pibot.master_components.store.records import Approval, Event, Job, PlanChange, StepRecord
from pibot.master_components.store.spending import Spending
from pibot.master_components.store.states import ENDED_JOBS, JobState, StepState
from pibot.master_hub.pages.worker_rows import is_unconfined
from pibot.master_hub.report import cost_in_words
from pibot.settings import Settings
from pibot.visible import exact, printable, shown_call

NEEDS_APPROVAL = "needs approval"

TITLE_CHARS = 160
OUTPUT_CHARS = 20_000
"""Characters of a result on a page; the API has all of it."""

_EVENTS: Mapping[str, str] = {
    "job_accepted": "New: {message}",
    "job_planned": "Planned: {message}",
    "job_replanned": "Planned further: {message} · {job}",
    "job_completed": "Completed: {job}",
    "job_failed": "Failed: {job}: {message}",
    "job_cancelled": "Cancelled: {job}",
    "cancel_requested": "Cancelling: {job}",
    "subtask_started": "{worker} began {task} · {job}",
    "subtask_completed": "{worker} finished {task} · {job}",
    "subtask_failed": "{worker} failed {task} · {job}: {message}",
    "subtask_cancelled": "{worker} cancelled {task} · {job}",
    "attempt_failed": "{task} lost an attempt: {message}",
    "late_result": "{worker} returned {task} too late: {message}",
    "approval_asked": "{task} needs your approval of {message} · {job}",
    "approval_approved": "Approved: {message} · {job}",
    "approval_refused": "Refused: {message} · {job}",
    "attempt_spared": "{worker} could not do {task}, which another worker gets: {message} · {job}",
    "approval_over": "No longer waiting for approval: {message} · {job}",
    "worker_offline": "{worker} is offline: {message}",
    "worker_online": "{worker} is online",
    "worker_resting": "{worker} gets no task: {message}",
    "worker_well": "{worker} gets tasks again",
}
"""The text in *Recent activity* for each kind of event."""


def banners(
    settings: Settings,
    workers: Sequence[WorkerStatus],
    model_problem: str | None,
    stopping: bool,
    store_problem: str | None = None,
    store_damage: str | None = None,
    approvals: int = 0,
    waits_for_model: NoWorkerReason | None = None,
    resting: Sequence[str] = (),
) -> list[JsonObject]:
    """Return what the owner should know or repair, the worst first.

    Args:
        waits_for_model: why all jobs wait.
        resting: a sentence for each model that is not asked for now.
    """
    fallback = "" if waits_for_model else " The fallback model is asked meanwhile."
    offline = bool(workers) and all(w.state is WorkerState.OFFLINE for w in workers)
    open_to_all = settings.api_key is None and settings.allow_open
    unconfined = ", ".join(w.address.worker_id for w in workers if is_unconfined(w)) or "the hub's own settings"
    possible = (
        ("stopping", "bad", stopping, "The hub is stopping and accepts no new jobs."),
        ("damage", "bad", store_damage, f"Jobs may be lost: {store_damage}."),
        (
            "store",
            "bad",
            store_problem,
            f"No job can be accepted or finished now: {store_problem}. Jobs continue after that.",
        ),
        (
            "approvals",
            "warn",
            approvals,
            f"{approvals} tool call{'' if approvals == 1 else 's'} wait{'s' if approvals == 1 else ''} for your "
            "approval: see below.",
        ),
        ("model", "bad", model_problem, f"Jobs can't be planned: {model_problem}. Then restart the hub."),
        ("model_away", "warn", waits_for_model, f"Jobs wait {waits_for_model}. They go on by themselves."),
        (
            "model_rests",
            "warn",
            settings.gateway.fallback and resting,
            f"Not asked for now: {'; '.join(resting)}.{fallback}",
        ),
        (
            "workers",
            "bad",
            not workers,
            "No worker is known. Set WORKER_1_IP … and restart the hub, or set PIBOT_HUB_URL on each worker.",
        ),
        ("offline", "bad", offline, "Every worker is offline. Jobs wait until one answers; the reasons are below."),
        (
            "sandbox",
            "warn",
            settings.sandbox == "off" or any(map(is_unconfined, workers)),
            f"PIBOT_SANDBOX=off ({unconfined}): the commands that a model chooses run unconfined.",
        ),
        ("open", "warn", open_to_all, "Anyone on this network can submit jobs: set PIBOT_API_KEY to require a key."),
    )
    return [{"id": name, "tone": tone, "text": text} for name, tone, shown, text in possible if shown]


def active_rows(jobs: Iterable[Job], approvals: Iterable[Approval] = ()) -> list[JsonObject]:
    """Return a row for each step that a worker runs.

    Args:
        approvals: the tool calls that wait for approval.
    """
    waiting = {(call.job_id, call.task_id) for call in approvals}
    rows = []
    for job in jobs:
        for record in job.steps:
            if record.state is not StepState.LEASED:
                continue
            number = record.attempts[-1].number if record.attempts else 1
            rows.append(
                {
                    "id": f"{job.job_id}/{record.task_id}",
                    "title": shorten(record.step.description),
                    "href": job_href(job.job_id),
                    "status": NEEDS_APPROVAL if (job.job_id, record.task_id) in waiting else "running",
                    "worker": record.worker_id or "",
                    "attempt": f"attempt {number}" if number > 1 else "",
                    "job": "" if record.step.description == job.description else f"for: {shorten(job.description, 80)}",
                    "started_at": record.attempts[-1].started_at if record.attempts else job.started_at,
                }
            )
    return rows


def approval_row(approval: Approval) -> JsonObject:
    """Return the row of a tool call that waits for approval, with all of its arguments."""
    return {
        "id": approval.approval_id,
        "tool": exact(approval.tool),
        "call": shown_call(approval.arguments),
        "digest": approval.digest,
        "where": f"{approval.task_id} on {approval.worker_id}",
        "title": f"job {approval.job_id}",
        "href": job_href(approval.job_id),
        "asked_at": approval.asked_at,
    }


def job_row(job: Job, waiting: Collection[str] = (), currency: str = "") -> JsonObject:
    """Return a job's row in the list of jobs.

    Args:
        waiting: ids of the jobs that wait for an approval.
        currency: the currency of costs.
    """
    return {
        "id": job.job_id,
        "title": shorten(job.description),
        "href": job_href(job.job_id),
        "status": NEEDS_APPROVAL if job.job_id in waiting else job.state.value,
        "created_at": job.created_at,
        "took": _took(job.started_at, job.finished_at),
        "tokens": _tokens(job.usage),
        "cost": cost_in_words(job.cost, currency),
        "error": shorten(job.error or ""),
    }


def event_row(event: Event, titles: Mapping[str, str]) -> JsonObject:
    """Return an event's row in *Recent activity*.

    Args:
        titles: the descriptions of the jobs on the page, by id.
    """
    text = _EVENTS.get(event.kind, event.kind.replace("_", " ") + ": {message}").format(
        message=event.message,
        job=shorten(titles.get(event.job_id or "", event.job_id or ""), 48),
        task=event.task_id,
        worker=event.worker_id or "nobody",
    )
    return {
        "id": str(event.seq),
        "at": event.at,
        "text": shorten(text),
        "href": job_href(event.job_id) if event.job_id else "",
    }


def job_view(
    job: Job,
    why_waiting: Callable[[Sequence[str]], NoWorkerReason],
    spending: Sequence[Spending] = (),
    currency: str = "",
    why_not_planned: str | None = None,
) -> JsonObject:
    """Return what a job's page shows.

    Args:
        why_waiting: says why no worker takes a task with these skills now.
        spending: the job's model calls, by caller and model.
        currency: the currency of costs.
        why_not_planned: why the job is not planned yet, if its planning waits.
    """
    ended = sum(s.state is StepState.COMPLETED for s in job.steps)
    unended = job.state not in ENDED_JOBS
    status = NEEDS_APPROVAL if job.waiting_calls else job.state.value
    return {
        "id": job.job_id,
        "short": shorten(job.description, 60),
        "description": job.description,
        "status": "cancelling" if unended and job.cancel_requested else status,
        "open": unended and not job.cancel_requested,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "took": _took(job.started_at, job.finished_at),
        "progress": _progress(job, ended, why_not_planned) if unended and job.steps else "",
        "tokens": _tokens(job.usage),
        "cost": cost_in_words(job.cost, currency),
        "spending": [_spending_row(row, currency) for row in spending],
        "priority": f"priority {job.priority}" if job.priority else "",
        "answer": _cut(job.answer or ""),
        "error": job.error or "",
        "reasoning": job.plan.reasoning if job.plan else "",
        "note": job.plan.note if job.plan else "",
        "changes": [_change(change) for change in job.changes],
        "approvals": [approval_row(call) for call in job.waiting_calls],
        "decisions": [_decision(call) for call in job.approvals if call.decided_at is not None],
        "steps": [_step(step, why_waiting if unended else None) for step in job.steps],
        "no_steps": "" if job.steps else _why_no_steps(job, why_not_planned),
    }


def _change(change: PlanChange) -> JsonObject:
    return {
        "id": str(change.version),
        "text": f"Plan {change.version}, since {change.why}",
        "reasoning": change.reasoning,
        "at": change.at,
    }


def _progress(job: Job, ended: int, why_not_planned: str | None) -> str:
    waits = "" if why_not_planned is None else f"; what follows waits {why_not_planned}"
    return f"{ended} of {len(job.steps)} steps done{waits}"


def _decision(approval: Approval) -> JsonObject:
    why = f": {approval.reason}" if approval.reason else ""
    return {
        "id": approval.approval_id,
        "text": f"{exact(approval.tool)} {approval.state.value} by {approval.decided_by}{why}",
        "call": shown_call(approval.arguments),
        "at": approval.decided_at,
    }


def _why_no_steps(job: Job, why_not_planned: str | None) -> str:
    if why_not_planned is not None:
        return f"Planning waits {why_not_planned}"
    if job.plan is not None and job.plan.handle_locally:
        return "The master answered this itself; no worker was needed."
    if job.state in (JobState.QUEUED, JobState.PLANNING):
        return "Planning…"
    return "No plan: the job ended before it was planned."


def _step(record: StepRecord, why_waiting: Callable[[Sequence[str]], NoWorkerReason] | None) -> JsonObject:
    step, result = record.step, record.result
    last = record.attempts[-1] if record.attempts else None
    # Once a step has failed, its own error is the last attempt's.
    failed = [a for a in record.attempts if a.error and (a is not last or record.error is None)]
    return {
        "id": record.task_id,
        "description": step.description,
        "status": "running" if record.state is StepState.LEASED else record.state.value,
        "worker": f"on {record.worker_id}" if record.worker_id else "",
        "after": "after " + ", ".join(step.depends_on) if step.depends_on else "",
        "waiting": f"waiting: {why_waiting(step.skills)}" if why_waiting and record.state is StepState.READY else "",
        "took": _took(last.started_at, last.finished_at) if last else "",
        "tokens": _tokens(result.usage) if result else "",
        "plan": f"plan {record.version}" if record.version > 1 else "",
        "skills": [{"id": name} for name in step.skills],
        "error": record.error or "",
        "attempts": [
            {"id": str(a.number), "text": f"attempt {a.number} was lost:", "error": a.error or ""} for a in failed
        ],
        "output": _cut(result.output) if result else "",
        "reasoning": printable(result.reasoning) if result else "",
    }


def job_href(job_id: str) -> str:
    return f"/dashboard/jobs/{job_id}"


def shorten(text: str, limit: int = TITLE_CHARS) -> str:
    """Return ``text`` as one line of at most ``limit`` characters."""
    line = " ".join(text[: limit * 4].split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _cut(text: str) -> str:
    if len(text) <= OUTPUT_CHARS:
        return text
    return f"{text[:OUTPUT_CHARS]}…\n\n[{len(text) - OUTPUT_CHARS} more characters: see the complete record below]"


def _took(start: float | None, end: float | None) -> str:
    if start is None or end is None:
        return ""
    seconds = max(0.0, end - start)
    if seconds < 1:
        return f"took {seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"took {seconds:.1f} s"
    if seconds < 120:
        return f"took {seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"took {minutes} min" if minutes < 120 else f"took {minutes // 60} h {minutes % 60} min"


def _tokens(usage: Usage) -> str:
    return f"{usage.total_tokens:,} tokens" if usage.total_tokens else ""


def _spending_row(row: Spending, currency: str) -> JsonObject:
    usage, calls = row.usage, row.usage.llm_calls
    parts = (
        f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens in {calls} call{'' if calls == 1 else 's'}",
        f"{row.estimated} of them estimated" if row.estimated else "",
        cost_in_words(row.cost, currency),
    )
    return {"id": f"{row.caller}/{row.model}", "text": f"{row.caller}, {row.model}: {', '.join(filter(None, parts))}"}


def iso(at: float) -> str:
    """Format seconds since the epoch as ISO 8601, for a ``datetime`` attribute."""
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="seconds")


def utc(at: float | None) -> str:
    """Format seconds since the epoch for a browser without JavaScript; empty for None."""
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M UTC") if at else ""
