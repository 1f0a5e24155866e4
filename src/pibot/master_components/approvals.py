"""Between the workers on which calls wait, the store that remembers them, and the owner who decides."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Protocol

from pibot.contracts import ApprovalRequest, Decision
from pibot.errors import (
    ApprovalOver,
    ContractError,
    StoreError,
    TaskNotFound,
    WorkerBusy,
    WorkerError,
    WorkerRejected,
)
from pibot.logs import event
from pibot.master_components.approval_store import ApprovalStore
from pibot.master_components.records import Approval, Lease
from pibot.master_components.states import ApprovalState
from pibot.master_components.store_thread import StoreThread

log = logging.getLogger("pibot.dispatcher")

Heard = Callable[[Sequence[ApprovalRequest]], Awaitable[None]]
"""Called with the calls of a task that wait on its worker now, whenever it says so."""

NOT_WAITING = (409, 410)
"""A worker's answers to a decision on what does not wait there, or not so."""


@dataclass(frozen=True)
class Waiting:
    """What a worker says of a running task's calls.

    Args:
        asked: how many have waited or do.
        waited: seconds for which the task has waited for the owner.
        calls: those that wait now.
    """

    asked: int = 0
    waited: float = 0.0
    calls: tuple[ApprovalRequest, ...] = ()

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Waiting:
        """Read a worker's 202. A call that is not what its digest says is left out: nobody is to approve it."""
        calls = []
        rows = body.get("approvals")
        for row in rows if isinstance(rows, list) else ():
            try:
                calls.append(ApprovalRequest.from_json(row))
            except (ContractError, RecursionError) as exc:
                event(log, "approval_unusable", level=logging.WARNING, error=str(exc))
        asked, waited = body.get("approvals_asked"), body.get("waited_seconds")
        return cls(
            asked if isinstance(asked, int) and asked >= 0 else 0,
            float(waited) if isinstance(waited, (int, float)) and 0 <= waited < 1e9 else 0.0,
            tuple(calls),
        )


class Pool(Protocol):
    """The workers."""

    async def decide(self, worker_id: str, task_id: str, call_id: str, decision: Decision) -> None: ...


class Approvals:
    """Within one event loop.

    Args:
        store: remembers the calls.
        on_disk: where the store's calls are made.
        pool: the workers.
    """

    def __init__(self, store: ApprovalStore, on_disk: StoreThread, pool: Pool) -> None:
        self._store = store
        self._on_disk = on_disk
        self._pool = pool

    def of(self, lease: Lease) -> Heard:
        """What is to be called with the calls that wait on the lease's worker."""

        async def heard(calls: Sequence[ApprovalRequest]) -> None:
            try:
                decided = await self._on_disk.once(self._store.note, lease, calls)
                for approval in decided:  # the worker was away, or this hub, when it was to be told
                    await self._tell(approval)
            except StoreError as exc:  # the worker says it again
                event(log, "approval_not_noted", level=logging.WARNING, task=lease.remote_id, error=str(exc))

        return heard

    async def decide(self, approval_id: str, decision: Decision, by: str) -> Approval:
        """Let a call be run, or refuse it. It is on disk when this returns, and the worker was told if it is there.

        Args:
            by: whose key the decision came with.

        Raises:
            ApprovalNotFound, ApprovalConflict, ApprovalOver: see :meth:`ApprovalStore.decide`.
            StoreUnwritable: it can't be written; nothing was decided.
        """
        approval, now = await self._on_disk.once(self._store.decide, approval_id, decision, by)
        if not now:
            return approval
        event(log, "approval_decided", job=approval.job_id, tool=approval.tool, approved=decision.approved, by=by)
        problem = await self._tell(approval)
        if problem is not None:
            raise ApprovalOver(f"the call does not wait any more: {problem}")
        return approval

    async def _tell(self, approval: Approval) -> str | None:
        """Tell the worker what was decided; why the call does not wait there any more, None where it did."""
        decision = Decision(approval.digest, approval.state is ApprovalState.APPROVED, approval.reason)
        try:
            await self._pool.decide(approval.worker_id, approval.remote_id, approval.call_id, decision)
        except (TaskNotFound, WorkerError, WorkerBusy) as exc:
            status = exc.status if isinstance(exc, WorkerRejected) else None
            if isinstance(exc, TaskNotFound) or status in NOT_WAITING:
                await self._on_disk.once(self._store.end, approval.approval_id, str(exc))
                return str(exc)
            # It is told when it next says that the call waits.
            event(log, "decision_not_told", level=logging.WARNING, job=approval.job_id, error=str(exc))
        return None
