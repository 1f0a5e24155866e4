"""What dispatch needs from the worker pool and from the planner."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Callable, Protocol

from pibot.contracts import Decision, NoWorkerReason, SubTask, TaskPlan, TaskResult, Usage
from pibot.master_components.workers.exchange import ExchangeTerms
from pibot.master_components.workers.queue import QueueKey


class Planner(Protocol):
    """Plans one job and sums up its results; see :class:`pibot.master_components.planner.TaskPlanner`."""

    async def analyze(self, description: str) -> tuple[TaskPlan, Usage]: ...

    async def replan(
        self, description: str, results: Sequence[tuple[SubTask, TaskResult]], missing: str = ""
    ) -> tuple[TaskPlan | None, Usage]: ...

    async def compose(self, description: str, results: Sequence[tuple[SubTask, TaskResult]]) -> tuple[str, Usage]: ...

    async def judge(
        self, description: str, results: Sequence[tuple[SubTask, TaskResult]]
    ) -> tuple[str, str, Usage]: ...


PlannerFor = Callable[[str], Planner]
"""Makes the planner for the job of this id, so that its model calls can be counted with that job."""


class DecisionSender(Protocol):
    """Sends the owner's decisions to workers."""

    async def decide(self, worker_id: str, task_id: str, call_id: str, decision: Decision) -> None: ...


class ResultSource(Protocol):
    """Asks workers for the results of tasks, and cancels tasks there."""

    async def fetch_result(self, worker_id: str, task_id: str, *, wait: float = 0) -> TaskResult | None: ...

    async def cancel(self, worker_id: str, task_id: str) -> None: ...


class StepPool(DecisionSender, ResultSource, Protocol):
    """The worker pool; see :class:`pibot.master_components.workers.pool.WorkerPool`."""

    async def acquire(
        self, timeout: float | None, *, avoid: Collection[str] = (), skills: Collection[str] = (), queue_key: QueueKey
    ) -> str: ...

    def reserve(self, worker_id: str) -> bool: ...

    def release(self, worker_id: str) -> None: ...

    async def run_on(self, worker_id: str, terms: ExchangeTerms) -> TaskResult: ...

    def silence(self, worker_id: str) -> float: ...

    def task_lost(self, worker_id: str, reason: str) -> None: ...

    def cannot_work(self, worker_id: str, reason: str, seconds: float | None = None) -> None: ...

    def knows_another(self, skills: Collection[str], tried: Collection[str]) -> bool: ...

    def has_candidate(self, skills: Collection[str] = (), avoid: Collection[str] = ()) -> bool: ...

    def why_none(self, skills: Collection[str] = ()) -> NoWorkerReason: ...
