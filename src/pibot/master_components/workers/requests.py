"""Requests to the workers. Each answer updates what the pool knows of the worker; so does the health poll."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pibot.contracts import Clock, JsonObject, WorkerHealth, WorkerReport
from pibot.errors import TaskNotFound, WorkerBusy, WorkerError, WorkerNotReached, WorkerRejected, WorkerUnreachable
from pibot.logs import event
from pibot.master_components.workers.client import ANSWER_TIMEOUT, WorkerHttp
from pibot.master_components.workers.placement import FitnessLimits, note_report
from pibot.master_components.workers.record import WorkerRecord

log = logging.getLogger("pibot.pool")

CHECK_TIMEOUT = 5.0
"""Seconds that a worker gets to answer a request that it can answer at once, such as the health poll."""


class WorkerRequests:
    """Sends requests to workers by their id and keeps their records up to date.

    Args:
        workers: the record of each worker, by its id.
        http: sends one request to one address.
        limits: when a worker is unfit.
        clock: seconds since the epoch.
        monotonic: seconds.
    """

    def __init__(
        self,
        workers: Mapping[str, WorkerRecord],
        http: WorkerHttp,
        limits: FitnessLimits,
        clock: Clock,
        monotonic: Clock,
    ) -> None:
        self._workers = workers
        self._http = http
        self._limits = limits
        self._clock = clock
        self._monotonic = monotonic

    async def request(
        self,
        worker_id: str,
        method: str,
        path: str,
        body: JsonObject | None = None,
        *,
        wait: float = 0,
        timeout: float = ANSWER_TIMEOUT,
    ) -> tuple[int, JsonObject]:
        """Send one request and note what its answer says of the worker.

        Arguments, answer and errors are those of :meth:`WorkerClient.request`; a worker that is not of this pool
        raises :class:`WorkerNotReached`.
        """
        worker = self.record(worker_id)
        try:
            status, answer = await self._http.request(worker.address, method, path, body, wait=wait, timeout=timeout)
        except WorkerUnreachable as exc:
            self.unreachable(exc)
            raise
        except (WorkerBusy, WorkerRejected, TaskNotFound) as exc:
            self._answered(worker)
            if isinstance(exc, WorkerBusy):
                worker.busy_elsewhere(self._monotonic())
            elif isinstance(exc, WorkerRejected):
                worker.error = exc.problem
            raise
        self._answered(worker)
        return status, answer

    async def poll(self, worker_id: str) -> None:
        """Poll one worker's report, or its health where it has no report."""
        try:
            _, body = await self.request(worker_id, "GET", "/status", timeout=CHECK_TIMEOUT)
        except TaskNotFound:
            await self.check_health(worker_id)
            return
        except WorkerRejected as exc:
            worker = self._workers.get(worker_id)  # it may have left meanwhile
            if worker is not None:
                worker.unfit_reasons = {"refusal": f"refusing this master: {exc.problem}"}
            return
        except (WorkerError, WorkerBusy):
            return
        worker = self._workers.get(worker_id)
        if worker is not None:
            now, report = self._monotonic(), WorkerReport.from_json(body)
            note_report(worker, report, self._limits, now)
            worker.runs(report.current_task, now)
            self._compare_names(worker)

    async def check_health(self, worker_id: str) -> bool:
        """Ask one worker for its health. Returns True if it says that it is healthy."""
        try:
            _, body = await self.request(worker_id, "GET", "/health", timeout=CHECK_TIMEOUT)
        except (WorkerError, WorkerBusy, TaskNotFound):
            return False
        health = WorkerHealth.from_json(body)
        worker = self._workers.get(worker_id)
        if body.get("role") == "master" and worker is not None:
            # A hub answers too, and would take a task for a job. A worker's answer has no role.
            problem = f"no worker: {worker.address.url} answers, but not as a PiBot worker does; check its address"
            worker.unfit_reasons = {"no_worker": problem}
            return False
        if not health.healthy:
            self.unreachable(WorkerUnreachable(worker_id, f"its health is {health.status!r}"))
            return False
        if worker is not None:
            worker.unfit_reasons.pop("no_worker", None)
            worker.runs(health.current_task, self._monotonic())
        return True

    def record(self, worker_id: str) -> WorkerRecord:
        """Return what is known of a worker.

        Raises:
            WorkerNotReached: the pool has no worker of that id.
        """
        try:
            return self._workers[worker_id]
        except KeyError:
            raise WorkerNotReached(worker_id, "it is none of this master's workers any more") from None

    def unreachable(self, exc: WorkerUnreachable) -> None:
        """Mark a worker offline."""
        worker = self._workers.get(exc.worker_id)
        if worker is not None and worker.unreachable(exc, self._monotonic()):
            event(log, "worker_offline", level=logging.WARNING, worker=exc.worker_id, error=exc.problem)

    def _compare_names(self, worker: WorkerRecord) -> None:
        """Tell the owner of a worker that calls itself by another worker's name, as where no WORKER_ID was set."""
        own, said = worker.address.worker_id, None if worker.report is None else worker.report.worker_id
        shared = said is not None and said != own and said in self._workers
        name_problem = f"it calls itself {said}, which is another worker; set WORKER_ID={own} on it" if shared else None
        if name_problem is not None and worker.name_problem != name_problem:
            event(log, "worker_name_shared", level=logging.WARNING, worker=own, url=worker.address.url, said=said)
        worker.name_problem = name_problem

    def _answered(self, worker: WorkerRecord) -> None:
        worker.answered(self._clock(), self._monotonic())
