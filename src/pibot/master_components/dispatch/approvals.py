"""Carries approvals between the workers, the store and the owner."""

from __future__ import annotations

import logging
from collections.abc import Sequence

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
from pibot.master_components.dispatch.protocols import DecisionSender
from pibot.master_components.store.approvals import ApprovalStore
from pibot.master_components.store.records import Approval, Lease
from pibot.master_components.store.states import ApprovalState
from pibot.master_components.store.thread import StoreThread
from pibot.master_components.workers.exchange import OnPending

log = logging.getLogger("pibot.dispatcher")

NOT_WAITING = (409, 410)
"""Statuses with which a worker answers a decision on a tool call that does not wait there, or that has changed."""


class ApprovalBroker:
    """Stores the tool calls that wait on workers, and sends the owner's decisions back. Use it in one event loop.

    Args:
        store: remembers the tool calls and the decisions.
        on_disk: runs the store's calls.
        pool: reaches the workers.
    """

    def __init__(self, store: ApprovalStore, on_disk: StoreThread, pool: DecisionSender) -> None:
        self._store = store
        self._on_disk = on_disk
        self._pool = pool

    def of(self, lease: Lease) -> OnPending:
        """Return the callback for the tool calls that wait on the lease's worker."""

        async def heard(calls: Sequence[ApprovalRequest]) -> None:
            try:
                decided = await self._on_disk.once(self._store.note, lease, calls)
                for approval in decided:  # the worker, or this hub, was away when the decision was made
                    await self._send(approval)
            except StoreError as exc:  # the worker reports the calls again
                event(log, "approval_not_noted", level=logging.WARNING, task=lease.remote_id, error=str(exc))

        return heard

    async def decide(self, approval_id: str, decision: Decision, by: str) -> Approval:
        """Approve or refuse a tool call.

        When this returns, the decision is on disk. A worker that can be reached has it; another gets it when it next
        reports the call.

        Args:
            by: name of the key that the decision came with.

        Raises:
            ApprovalNotFound, ApprovalConflict, ApprovalOver: see :meth:`ApprovalStore.decide`.
            StoreUnwritable: the decision can't be written; nothing was decided.
        """
        approval, is_new = await self._on_disk.once(self._store.decide, approval_id, decision, by)
        if not is_new:
            return approval
        event(log, "approval_decided", job=approval.job_id, tool=approval.tool, approved=decision.approved, by=by)
        problem = await self._send(approval)
        if problem is not None:
            raise ApprovalOver(f"the call does not wait any more: {problem}")
        return approval

    async def _send(self, approval: Approval) -> str | None:
        """Send a decision to its worker; return why the call waits there no more, or None if it did."""
        decision = Decision(approval.digest, approval.state is ApprovalState.APPROVED, approval.reason)
        try:
            await self._pool.decide(approval.worker_id, approval.remote_id, approval.call_id, decision)
        except (TaskNotFound, WorkerError, WorkerBusy) as exc:
            status = exc.status if isinstance(exc, WorkerRejected) else None
            if isinstance(exc, TaskNotFound) or status in NOT_WAITING:
                await self._on_disk.once(self._store.end, approval.approval_id, str(exc))
                return str(exc)
            # The worker gets the decision when it next reports the call.
            event(log, "decision_not_told", level=logging.WARNING, job=approval.job_id, error=str(exc))
        return None
