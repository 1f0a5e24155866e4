"""The pool as the guide's scripts use it: ``pibot.master_components.WorkerPool``."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from pibot.contracts import (
    MAX_TASK_TIMEOUT,
    Clock,
    SubTask,
    TaskRequest,
    TaskResult,
    TaskResultDict,
    TaskState,
    WorkerState,
    valid_timeout,
)
from pibot.errors import NoWorkers, WorkerBusy, WorkerError
from pibot.master_components.workers.exchange import ExchangeTerms
from pibot.master_components.workers.pool import WorkerPool, create_worker_pool
from pibot.settings import Settings

DEFAULT_TIMEOUT = 300.0
"""Seconds that ``execute_task`` waits for a free worker and its result together."""

PATIENCE = 60.0
"""Seconds without a sign of life after which ``execute_task`` gives up a worker that has its task."""

MAX_WORKERS_TRIED = 3
"""Workers that ``execute_task`` tries before it gives up a task that each of them lost."""


class GuidePool:
    """Runs single tasks on a pool's workers, with no plan and no job database.

    Args:
        pool: the workers; closed together with this.
        monotonic: seconds.
    """

    def __init__(self, pool: WorkerPool, monotonic: Clock = time.monotonic) -> None:
        self._pool = pool
        self._monotonic = monotonic

    async def check_all_workers_health(self) -> dict[str, bool]:
        """Ask every worker's ``/health`` at once, and return which of them are healthy."""
        return await self._pool.check_health()

    def get_status_summary(self) -> dict[str, Any]:
        """Return ``total``, ``idle``, ``busy``, ``offline`` and ``workers``, as of each worker's last answer.

        A worker that was never asked counts as idle (docs/decisions.md, D33).
        """
        statuses = self._pool.statuses()
        summary: dict[str, Any] = {"total": len(statuses)}
        for state in WorkerState:
            summary[state.value] = sum(status.state is state for status in statuses)
        summary["workers"] = [status.to_json() for status in statuses]
        return summary

    async def execute_task(self, subtask: SubTask, timeout: float | None = None) -> TaskResultDict:
        """Run one task on a free worker and return its result in its JSON form.

        If a worker can't be reached, says that it can't do the task, or vanishes while the task runs, another one gets
        the task, three in all. So a task may run more than once. Each call is an execution of its own, even for the
        same ``task_id``.

        Args:
            subtask: what to do. Its ``depends_on`` is ignored.
            timeout: seconds to wait for a free worker and the result together; 300 by default.

        Returns:
            The result. Without one, ``success`` is False and ``error`` says why.

        Raises:
            InvalidRequest: the subtask or the timeout is invalid; it names the field.
        """
        timeout = DEFAULT_TIMEOUT if timeout is None else cast(float, valid_timeout(timeout))
        task = TaskRequest.from_json(subtask.to_request(subtask.task_id).to_json())  # checks its fields
        deadline = self._monotonic() + timeout
        tried: list[str] = []
        problems: list[str] = []
        while len(tried) < MAX_WORKERS_TRIED:
            try:
                left = max(0.0, deadline - self._monotonic())
                worker_id = await self._pool.acquire(left, avoid=tried, skills=task.skills)
            except NoWorkers as exc:
                return _no_result(task.task_id, TaskState.FAILED, [str(exc)])
            except asyncio.TimeoutError:
                problems.append(f"no worker was free within {timeout:g} s ({self._pool.why_none(task.skills)})")
                return _no_result(task.task_id, TaskState.TIMEOUT, problems)
            try:
                result = await self._pool.run_on(worker_id, self._terms(task, deadline))
            except WorkerBusy:
                continue
            except WorkerError as exc:
                problems.append(str(exc))
                tried.append(worker_id)
                continue
            finally:
                self._pool.release(worker_id)
            if result.fault is not None:
                tried.append(worker_id)
                if len(tried) < MAX_WORKERS_TRIED and self._pool.has_candidate(task.skills, tried):
                    problems.append(f"{worker_id}: {result.error}")
                    continue
            return replace(result, task_id=task.task_id).to_json()
        return _no_result(task.task_id, TaskState.FAILED, problems)

    def _terms(self, task: TaskRequest, deadline: float) -> ExchangeTerms:
        """Give one execution an id of its own, since a worker runs no id twice (docs/decisions.md, D6)."""
        left = max(0.001, deadline - self._monotonic())  # a caller that has left wants no result
        request = TaskRequest(
            f"{task.task_id[:80]}.{secrets.token_hex(6)}",
            task.description,
            task.skills,
            round(min(task.timeout or left, left, MAX_TASK_TIMEOUT), 3),
        )
        return ExchangeTerms(request, left, patience=PATIENCE)

    async def close(self) -> None:
        """Close the connections. Calling it twice is fine."""
        await self._pool.close()


def create_default_worker_pool(environ: Mapping[str, str] | None = None) -> GuidePool:
    """Create the pool of ``WORKER_1_IP`` … ``WORKER_n_IP`` (and their ``_PORT``), with ``PIBOT_API_KEY``.

    Args:
        environ: the environment; the process's own by default.

    Raises:
        SettingsError: a variable is invalid; it is named.
    """
    return GuidePool(create_worker_pool(Settings.load(environ)))


def _no_result(task_id: str, state: TaskState, problems: list[str]) -> TaskResultDict:
    return TaskResult(task_id, None, state, error="; ".join(problems)).to_json()
