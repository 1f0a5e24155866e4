"""The hub's parts put together, behind methods that a view may call from its thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pibot.background import BackgroundLoop
from pibot.contracts import (
    Clock,
    Completion,
    Decision,
    JsonObject,
    LLMClient,
    Message,
    ToolSpec,
    Usage,
    WorkerState,
    WorkerStatus,
)
from pibot.errors import LLMConfigurationError, SettingsError, ShuttingDown, StoreError, TooManyRequests
from pibot.llm_client.configuration import Endpoint, check
from pibot.llm_client.retry import RetryPolicy
from pibot.logs import event
from pibot.master_components import Dispatcher, JobStore, TaskPlanner
from pibot.master_components.dispatch.step_runner import Timing
from pibot.master_components.store.records import Approval, Event, Job, JobRecord, Submission
from pibot.master_components.store.states import JobState, StepState
from pibot.master_components.store.upkeep import Upkeep
from pibot.master_components.workers.pool import create_worker_pool
from pibot.master_hub.gateway.attempts import Timing as AttemptTiming
from pibot.master_hub.gateway.gateway import Gateway
from pibot.master_hub.gateway.in_process import CountedPlanner, create_planning_client
from pibot.master_hub.gateway.ledger import Ledger
from pibot.master_hub.gateway.provider import Provider
from pibot.master_hub.membership import Membership
from pibot.master_hub.report import SpendingReport
from pibot.settings import Settings
from pibot.tool_registry import SkillLibrary

if TYPE_CHECKING:
    from pibot.tool_registry import SkillInfo

log = logging.getLogger("pibot.hub")

T = TypeVar("T")

CHECK_EVERY = 5.0
"""Seconds between two looks at the workers' health, which the dashboard shows."""

SECONDS_A_DAY = 86_400.0

GATEWAY_PLACES = 8
"""Calls that the gateway passes on at once, beside one for each worker, where PIBOT_GATEWAY_CALLS says no other number;
so many may wait for it in any case."""

CANCELS_AT_ONCE = 6
"""Each holds one of the server's threads until its workers have answered, half a minute where they do not."""

CANCEL_AGAIN = 5
"""Seconds until one that found no place is to come again."""


class HubService:
    """Everything that the hub does, but for HTTP. Between :meth:`start` and :meth:`close`, its methods may be called
    from any thread but the loop's.

    Args:
        settings: all of it.
        clock: seconds since the epoch.
        check_every: seconds between two looks at the workers.

    Raises:
        SettingsError: something is set so that the hub can't work; a missing key for the model is not.
        StoreError: the job database can't be opened.
    """

    def __init__(self, settings: Settings, *, clock: Clock = time.time, check_every: float = CHECK_EVERY) -> None:
        self.settings = settings
        self.library = SkillLibrary(settings.skills_dir)
        self.skills: Sequence[SkillInfo] = self.library.describe()
        self._started = time.monotonic()
        self.model_problem: str | None = None
        self._check_every = check_every
        self._loop = BackgroundLoop("pibot-hub")
        self._pool = create_worker_pool(settings, clock=clock)
        endpoints = self._endpoints()
        soul = _read_soul(settings)
        _make_data_dir(settings)
        self._store = JobStore(settings.data_dir / "jobs.db", clock=clock, max_queued=settings.max_queued)
        calls = settings.gateway.calls or GATEWAY_PLACES + len(settings.workers)
        self.gateway_places = max(calls, GATEWAY_PLACES + len(settings.workers))
        self.gateway = self._create_gateway(endpoints, calls)
        self._llm: LLMClient = _NoModel(self.model_problem or "")
        if endpoints:
            self._llm = create_planning_client(endpoints[0], self.gateway, settings.llm.retries)
        planner = CountedPlanner(TaskPlanner(self._llm, skills=self.skills, soul=soul))
        self._upkeep = Upkeep(
            self._store, keep_jobs=settings.jobs_kept, keep_seconds=settings.jobs_kept_days * SECONDS_A_DAY
        )
        self.spending = SpendingReport(self._store.accounts, self.gateway.ledger, settings.gateway)
        timing = Timing(lease=settings.lease_seconds, no_worker=settings.no_worker_seconds)
        self._dispatcher = Dispatcher(self._store, planner, self._pool, timing=timing)
        self.members = Membership(self._pool, self._loop, settings.data_dir / "workers.json")
        self._always: list[Future[None]] = []
        self._conditions: dict[str, tuple[str, str]] = {}
        self._cancels = threading.BoundedSemaphore(CANCELS_AT_ONCE)
        self._stopping = threading.Event()

    def _endpoints(self) -> tuple[Endpoint, ...]:
        """The model's place, and that of the one for when it fails; none where there is no usable key.

        Raises:
            SettingsError: the second one is set so that it can't be right.
        """
        try:
            first = check(self.settings.llm)
        except LLMConfigurationError as exc:
            self.model_problem = str(exc)
            return ()
        fallback = self.settings.gateway.fallback
        try:
            return (first,) if fallback is None else (first, check(fallback))
        except LLMConfigurationError as exc:
            raise SettingsError(f"PIBOT_FALLBACK_MODEL, _BASE_URL or _API_KEY can't be right: {exc}") from exc

    def _create_gateway(self, endpoints: Sequence[Endpoint], calls: int) -> Gateway:
        settings = self.settings
        names = ("VOLC_BASE_URL", "PIBOT_FALLBACK_BASE_URL")
        providers = [Provider(e, silence=settings.llm.timeout, setting=name) for e, name in zip(endpoints, names)]
        return Gateway(
            providers,
            self.model_problem,
            Ledger(self._store, settings.gateway, tuple(endpoint.model for endpoint in endpoints)),
            self._loop,
            calls=calls,
            callers=self.gateway_places,
            timing=AttemptTiming(settings.llm.timeout, RetryPolicy(retries=settings.llm.retries)),
        )

    # --- from start to end ---

    def start(self) -> None:
        """Take up the jobs that are not ended, and keep looking at the workers and after the store."""
        self._await(self._dispatcher.start())
        self._always = [self._loop.run(self._keep_looking()), self._loop.run(self._upkeep.run())]

    def stop(self) -> None:
        """Take no new jobs and end what runs here. Jobs go on from where they are when a hub is started again.

        What is stored can still be read, so that requests in flight get their answers; :meth:`close` ends that too.
        """
        if self._stopping.is_set():
            return
        self._stopping.set()
        for task in self._always:
            task.cancel()
        self._await(self._dispatcher.stop())

    def close(self) -> None:
        """Give everything back. Calling it twice is fine."""
        self.stop()

        async def close_clients() -> None:
            await self.gateway.close()
            await self._pool.close()
            await self._llm.close()

        self._await(close_clients())
        self._loop.stop()
        self._upkeep.close()
        self.gateway.ledger.close()
        self._store.close()

    async def _keep_looking(self) -> None:
        while True:
            try:
                await self._look()
            except Exception:  # a defect must not leave the dashboard showing what was true once
                log.exception("health_check_broke")
            await asyncio.sleep(self._check_every)

    async def _look(self) -> None:
        """Ask each worker how it is, and note who went and who came back."""
        await self._pool.look()
        statuses = self._pool.statuses()
        for gone in self._conditions.keys() - {status.address.worker_id for status in statuses}:
            del self._conditions[gone]
        for status in statuses:
            name, before = status.address.worker_id, self._conditions.get(status.address.worker_id, _WELL)
            now = _condition(status)
            if now[0] == before[0]:
                continue
            self._conditions[name] = now
            kind = now[0] or ("worker_online" if before[0] == "worker_offline" else "worker_well")
            try:
                await asyncio.to_thread(self._store.note, kind, worker_id=name, message=now[1])
            except StoreError as exc:
                event(log, "not_noted", level=logging.ERROR, worker=name, error=str(exc))

    def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._loop.run(coroutine).result()

    # --- jobs ---

    def submit(self, submission: Submission) -> Job:
        """Take a job; it is on disk when this returns.

        Raises:
            UnknownSkill: it names a skill that there is not.
            TaskConflict: its id was taken before, with another body.
            QueueFull: so many have not ended that it is not taken.
            ShuttingDown: the hub is stopping.
        """
        self._refuse_when_stopping()
        if submission.skills is not None:
            self.library.check(submission.skills)
        job = self._store.submit(submission)
        self._loop.call_soon(self._dispatcher.notify, job.job_id, job.priority, job.timeout)
        return job

    def wait(self, job_id: str, seconds: float) -> Job:
        """The job, once it has ended or ``seconds`` are over.

        Raises:
            JobNotFound: there is none of that id.
        """
        if seconds > 0 and not self._stopping.is_set():
            try:
                self._await(self._dispatcher.wait(job_id, seconds))
            except (CancelledError, RuntimeError):
                log.info("no longer waiting for job=%s: the hub is stopping", job_id)
        return self._store.queries.job(job_id)

    def job(self, job_id: str) -> Job:
        """A job with its plan and subtasks.

        Raises:
            JobNotFound: there is none of that id.
        """
        return self._store.queries.job(job_id)

    def export(self, job_id: str) -> JobRecord:
        """All that is stored of a job.

        Raises:
            JobNotFound: there is none of that id.
        """
        return self._store.queries.export(job_id)

    def jobs(self, *, state: JobState | None = None, limit: int = 50, before: str | None = None) -> tuple[Job, ...]:
        """Jobs without their subtasks, the newest first.

        Raises:
            JobNotFound: there is none of the id ``before``.
        """
        return self._store.queries.jobs(state=state, limit=limit, before=before)

    def running_jobs(self, limit: int) -> tuple[Job, ...]:
        """The newest jobs that workers are busy with, with their subtasks."""
        jobs = self._store.queries.jobs(state=JobState.RUNNING, limit=limit)
        return tuple(self._store.queries.job(job.job_id) for job in jobs)

    def cancel(self, job_id: str) -> Job:
        """End a job; one that has ended stays as it is.

        Raises:
            JobNotFound: there is none of that id.
            TooManyRequests: so many wait already that the server's other threads are kept for others.
            ShuttingDown: the hub is stopping.
        """
        self._refuse_when_stopping()
        if not self._cancels.acquire(blocking=False):
            raise TooManyRequests(
                f"{CANCELS_AT_ONCE} cancels wait for workers to end their tasks; send this one again in "
                f"{CANCEL_AGAIN} s",
                retry_after=CANCEL_AGAIN,
            )
        try:
            self._await(self._dispatcher.cancel(job_id))
        finally:
            self._cancels.release()
        return self._store.queries.job(job_id)

    def approvals(self) -> tuple[Approval, ...]:
        """The calls that wait for the owner, the oldest first."""
        return self._store.approvals.waiting()

    def decide(self, approval_id: str, decision: Decision, by: str) -> Approval:
        """Let a call that waits be run, or refuse it.

        Args:
            by: whose key the decision came with.

        Raises:
            ApprovalNotFound, ApprovalConflict, ApprovalOver: it is not there, is another, or waits no more.
            ShuttingDown: the hub is stopping.
        """
        self._refuse_when_stopping()
        return self._await(self._dispatcher.approvals.decide(approval_id, decision, by))

    def counts(self) -> dict[JobState, int]:
        """How many jobs there are in each state."""
        return self._store.queries.counts()

    def open_steps(self) -> dict[StepState, int]:
        """How many subtasks of the jobs that have not ended are in each state."""
        return self._store.queries.open_steps()

    def used(self) -> Usage:
        """What the models were asked for since the hub was started."""
        return self._store.used

    def events(self, limit: int = 50) -> tuple[Event, ...]:
        """What happened last, the newest first."""
        return self._store.queries.events(limit=limit)

    # --- the fleet ---

    def workers(self) -> tuple[WorkerStatus, ...]:
        """What is known of each worker."""
        return self._pool.statuses()

    def why_waiting(self, skills: Sequence[str]) -> str:
        """Why no worker takes a task with these skills now."""
        return self._pool.why_none(skills)

    def check_workers(self) -> None:
        """Ask each worker now how it is; otherwise that happens every few seconds."""
        self._await(self._look())

    def worker_counts(self) -> JsonObject:
        """``total`` workers, and how many of them are in each state."""
        statuses = self._pool.statuses()
        return {
            "total": len(statuses),
            **{state.value: sum(status.state is state for status in statuses) for state in WorkerState},
        }

    @property
    def model(self) -> str:
        """The model's name; empty where there is none."""
        return self._llm.model

    @property
    def uptime(self) -> float:
        """Seconds since the hub was started."""
        return time.monotonic() - self._started

    @property
    def store_problem(self) -> str | None:
        """Why jobs can't be written now; None where they can."""
        return self._store.trouble or self._dispatcher.store_trouble

    @property
    def store_damage(self) -> str | None:
        """What is damaged of the job database, and what to do; None where nothing was found."""
        return self._store.damage

    @property
    def stopping(self) -> bool:
        """Whether new jobs are refused."""
        return self._stopping.is_set()

    def _refuse_when_stopping(self) -> None:
        if self._stopping.is_set():
            raise ShuttingDown("the hub is stopping; send it again when it is back")


_WELL = ("", "")


def _condition(status: WorkerStatus) -> tuple[str, str]:
    """The kind of event that a worker's condition is worth, empty where it is well, and why."""
    if status.state is WorkerState.OFFLINE:
        return "worker_offline", status.error or ""
    if status.set_aside_until is not None:
        return "worker_resting", f"set aside: {status.error or 'it lost tasks again and again'}"
    return ("worker_resting", status.resting) if status.resting else _WELL


class _NoModel(LLMClient):
    """Stands in for a model that is not set: whoever needs it learns what to set."""

    model = ""

    def __init__(self, problem: str) -> None:
        self._problem = problem

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, timeout: float | None = None
    ) -> Completion:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise LLMConfigurationError(self._problem)

    async def close(self) -> None:
        return None


def _make_data_dir(settings: Settings) -> None:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SettingsError(f"no folder for the jobs: {exc}; set PIBOT_DATA_DIR to one that can be written") from exc


def _read_soul(settings: Settings) -> str:
    try:
        return settings.soul.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"the master's prompt can't be read: {exc}; put it beside .env as soul.md") from exc
