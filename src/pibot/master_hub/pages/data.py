"""Collect what the dashboard and a job's page show, as JSON-ready data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

from pibot.contracts import JsonObject
from pibot.master_components import JobStore
from pibot.master_components.workers.pool import WorkerPool
from pibot.master_hub.jobs import JobControl
from pibot.master_hub.pages import presentation
from pibot.master_hub.pages.worker_rows import summary, worker_rows
from pibot.master_hub.report import SpendingReport
from pibot.settings import Settings

JOBS_SHOWN = 20
EVENTS_SHOWN = 15
ACTIVE_JOBS_SHOWN = 20


class PageData:
    """Reads the hub's parts for the pages. Its methods block for as long as the disk takes.

    Args:
        store, pool, jobs, spending, settings: the hub's.
        model: the model's name; empty without a model.
        model_problem: why there is no model; None with one.
        resting: returns a sentence for each model that is not asked for now.
        uptime: seconds since the hub was started.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        pool: WorkerPool,
        jobs: JobControl,
        spending: SpendingReport,
        settings: Settings,
        model: str,
        model_problem: str | None,
        resting: Callable[[], Sequence[str]],
        uptime: Callable[[], float],
    ) -> None:
        self._store = store
        self._pool = pool
        self._jobs = jobs
        self._spending = spending
        self._settings = settings
        self._model = model or "none"
        self._model_problem = model_problem
        self._resting = resting
        self._uptime = uptime

    def fleet(self) -> JsonObject:
        """The dashboard: workers, jobs, recent events and what needs the owner's attention."""
        store, report = self._store, self._spending
        jobs = store.queries.jobs(limit=JOBS_SHOWN + 1)
        workers = self._pool.statuses()
        titles = {job.job_id: job.description for job in jobs}
        approvals = store.approvals.waiting()
        active = presentation.active_rows(store.queries.at_work(ACTIVE_JOBS_SHOWN), approvals)
        waiting = {approval.job_id for approval in approvals}
        return {
            "model": self._model,
            "summary": summary(workers),
            "spent": report.in_words(report.today()),
            "banners": presentation.banners(
                self._settings,
                workers,
                self._model_problem,
                self._jobs.stopping,
                self._jobs.store_problem,
                store.damage,
                len(approvals),
                self._jobs.waits_for_model,
                self._resting(),
            ),
            "approvals": [presentation.approval_row(approval) for approval in approvals],
            "workers": worker_rows(workers, active),
            "minute": int(self._uptime() // 60),  # so that the page's ETag changes, and readings with it
            "active": active,
            "jobs": [presentation.job_row(job, waiting, report.currency) for job in jobs[:JOBS_SHOWN]],
            "more": len(jobs) > JOBS_SHOWN,
            "events": [presentation.event_row(event, titles) for event in store.queries.events(EVENTS_SHOWN)],
        }

    def job(self, job_id: str) -> JsonObject:
        """One job's page.

        Raises:
            JobNotFound: no job has this id.
        """
        report = self._spending
        spending = report.of_job(job_id)
        job = self._store.queries.job(job_id)
        view = presentation.job_view(
            job, self._jobs.why_waits, spending, report.currency, self._jobs.why_not_planned(job)
        )
        return {"model": self._model, **view}
