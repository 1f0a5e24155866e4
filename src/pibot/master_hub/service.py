"""Put the hub's parts together, start them in order and stop them in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pibot.background import BackgroundLoop
from pibot.contracts import Caller, Clock, Completion, LLMClient, Message, Scope, ToolSpec
from pibot.conversation.briefing import local_now, today_line
from pibot.disk import make_folder
from pibot.errors import LLMConfigurationError, SettingsError
from pibot.llm_client.configuration import Endpoint, check
from pibot.llm_client.retry import RetryLoop, RetryPolicy
from pibot.master_components import Dispatcher, JobStore, TaskPlanner
from pibot.master_components.dispatch.timing import DispatchTiming
from pibot.master_components.store.limits import MB
from pibot.master_components.store.upkeep import Upkeep
from pibot.master_components.workers.pool import create_worker_pool
from pibot.master_hub.addresses import AddressChecks
from pibot.master_hub.gateway.caller import ModelCaller
from pibot.master_hub.gateway.client import GatewayClient
from pibot.master_hub.gateway.gateway import Gateway
from pibot.master_hub.gateway.ledger import Ledger
from pibot.master_hub.gateway.provider import Provider
from pibot.master_hub.gateway.shares import PLANNER, Shares
from pibot.master_hub.health_polls import POLL_SECONDS, HealthPolls
from pibot.master_hub.jobs import JobControl
from pibot.master_hub.membership import Membership
from pibot.master_hub.report import SpendingReport
from pibot.settings import Settings
from pibot.tool_registry import SkillLibrary
from pibot.web.keys import OWNER

if TYPE_CHECKING:
    from pibot.tool_registry import SkillInfo

T = TypeVar("T")

SECONDS_A_DAY = 86_400.0

GATEWAY_PLACES = 8
"""Model calls that the gateway passes on at once, beside one for each worker, unless PIBOT_GATEWAY_CALLS says
otherwise. At least this many callers may wait for a turn."""

MODEL_CALL_GRACE = 3.0
"""Seconds for the workers' model calls to end when the hub stops. Workers send them again; cheroot waits 5 seconds."""


class HubService:
    """The running hub without its HTTP side: the parts that the views use.

    Attributes:
        settings: all settings.
        library: the skills on this machine.
        skills: their names and descriptions.
        loop: the one asyncio loop of the process.
        pool: the workers.
        store: the jobs.
        jobs: submits, cancels and waits for jobs.
        addresses: checks the address with which a worker registers.
        members: workers that join, leave and are drained.
        health: polls the workers.
        gateway: passes model calls on to the provider.
        gateway_places: model calls that may be in the gateway at once, waiting ones included.
        spending: tokens and costs.
        model: the model's name; empty without a usable key.
        model_problem: why there is no model, and what to set; None with a model.

    Args:
        settings: all settings.
        clock: seconds since the epoch.
        poll_seconds: seconds between two health polls.

    Raises:
        SettingsError: a setting keeps the hub from working; a missing key for the model does not.
        StoreError: the job database can't be opened.
    """

    def __init__(self, settings: Settings, *, clock: Clock = time.time, poll_seconds: float = POLL_SECONDS) -> None:
        self.settings = settings
        self.library = SkillLibrary(settings.skills_dir)
        self.skills: Sequence[SkillInfo] = self.library.describe()
        self._started = time.monotonic()
        self.model_problem: str | None = None
        self.loop = BackgroundLoop("pibot-hub")
        self.pool = create_worker_pool(settings, clock=clock)
        endpoints = self._endpoints()
        soul = _read_soul(settings)
        _make_data_dir(settings)
        self.store = JobStore(
            settings.data_dir / "jobs.db",
            clock=clock,
            max_queued=settings.max_queued,
            queue_bytes=settings.queue_mb * MB,
        )
        calls = settings.gateway.calls or GATEWAY_PLACES + len(settings.workers)
        self.gateway_places = max(calls, GATEWAY_PLACES + len(settings.workers))
        self._ledger = Ledger(self.store, settings.gateway)
        self.gateway = self._create_gateway(endpoints, calls)
        self.model = endpoints[0].model if endpoints else ""

        def planner_for(job_id: str) -> TaskPlanner:
            llm = GatewayClient(self.gateway, self.model, job_id) if self.model else _NoModel(self.model_problem or "")
            return TaskPlanner(llm, skills=self.skills, soul=f"{soul.strip()}\n\n{today_line(local_now())}")

        self._upkeep = Upkeep(
            self.store,
            keep_jobs=settings.jobs_kept,
            keep_seconds=settings.jobs_kept_days * SECONDS_A_DAY,
            keep_bytes=settings.jobs_mb * MB,
        )
        self.spending = SpendingReport(self.store.accounts, self._ledger, settings.gateway)
        timing = DispatchTiming(lease=settings.lease_seconds, no_worker=settings.no_worker_seconds)
        self._dispatcher = Dispatcher(self.store, planner_for, self.pool, timing=timing, replans=settings.replans)
        self.gateway.tell(self._dispatcher)
        self.jobs = JobControl(self.store, self._dispatcher, self.library, self.loop, self.pool)
        self.addresses = AddressChecks(self.pool, self.loop)
        self.members = Membership(self.pool, self.loop, settings.data_dir / "workers.json")
        self.health = HealthPolls(self.pool, self.store, every=poll_seconds)
        self._background: list[Future[None]] = []
        self._stopped = threading.Event()

    def _endpoints(self) -> tuple[Endpoint, ...]:
        """Return the model's endpoint and the fallback's, if one is set; empty without a usable key.

        Raises:
            SettingsError: the fallback's settings can't be right.
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
        callers = _callers_of_gateway(settings)
        providers = [Provider(e, silence=settings.llm.timeout, setting=name) for e, name in zip(endpoints, names)]
        caller = ModelCaller(
            providers,
            self.model_problem,
            self._ledger,
            slots=Shares(calls, (PLANNER, *callers)),
            model_seconds=settings.llm.timeout,
            retry_loop=RetryLoop(RetryPolicy(retries=settings.llm.retries)),
        )
        return Gateway(caller, self.loop, threads=Shares(self.gateway_places, callers))

    def start(self) -> None:
        """Take up the unfinished jobs, then start the health polls and the store's upkeep."""
        self._await(self._dispatcher.start())
        self._background = [self.loop.run(self.health.run()), self.loop.run(self._upkeep.run())]

    def stop(self) -> None:
        """Refuse new jobs and stop dispatching. The next start takes the jobs up where they are.

        The store can still be read, so that requests in flight get their answers; :meth:`close` ends that too.
        """
        if self._stopped.is_set():
            return
        self._stopped.set()
        self.jobs.refuse_changes()
        for task in self._background:
            task.cancel()
        self.loop.run(self.gateway.end_calls(MODEL_CALL_GRACE))
        self._await(self._dispatcher.stop())

    def close(self) -> None:
        """Stop, and close every connection and file. Calling it twice is fine."""
        self.stop()

        async def close_clients() -> None:
            await self.gateway.close()
            await self.pool.close()

        self._await(close_clients())
        self.loop.stop()
        self._upkeep.close()
        self._ledger.close()
        self.store.close()

    def uptime(self) -> float:
        """Seconds since the hub was started."""
        return time.monotonic() - self._started

    def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(coroutine).result()


class _NoModel(LLMClient):
    """Stands in for a model without a usable key: each call fails and says what to set."""

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


def _callers_of_gateway(settings: Settings) -> frozenset[str]:
    """Return the names of the keys with which the gateway may be called."""
    people = (key.name for key in settings.keys if Caller(key.name, key.scope).may(Scope.WORKER))
    return frozenset((OWNER.name, *people, *settings.worker_tokens, *settings.previous_worker_tokens))


def _make_data_dir(settings: Settings) -> None:
    try:
        make_folder(settings.data_dir)
    except OSError as exc:
        raise SettingsError(
            f"can't create the folder for the jobs: {exc}; set PIBOT_DATA_DIR to a writable one"
        ) from exc


def _read_soul(settings: Settings) -> str:
    try:
        return settings.soul.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"can't read the master's prompt: {exc}; put it beside .env as soul.md") from exc
