"""Between the workers on which calls wait, the store that remembers them, and the owner who decides."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from pibot.contracts import ApprovalRequest, Decision
from pibot.errors import (
    ApprovalOver,
    StoreError,
    TaskNotFound,
    WorkerBusy,
    WorkerError,
    WorkerRejected,
)
from pibot.logs import event
from pibot.master_components.store.approvals import ApprovalStore
from pibot.master_components.store.records import Approval, Lease
from pibot.master_components.store.states import ApprovalState
from pibot.master_components.store.thread import StoreThread
from pibot.master_components.workers.exchange import Heard

log = logging.getLogger("pibot.dispatcher")

NOT_WAITING = (409, 410)
"""A worker's answers to a decision on what does not wait there, or not so."""


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
