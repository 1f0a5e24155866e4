"""Stores the tool calls that wait for the owner's approval, and the decisions."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence

from pibot.contracts import ApprovalRequest, Clock, Decision
from pibot.errors import ApprovalConflict, ApprovalNotFound, ApprovalOver
from pibot.master_components.store.database import Database
from pibot.master_components.store.records import Approval, Lease
from pibot.master_components.store.rows import approval_from
from pibot.master_components.store.states import ApprovalState, StepState
from pibot.master_components.store.tables import Tables


class ApprovalStore:
    """The approvals in the job database.

    Methods block for as long as the disk takes, and may be called from any thread.

    Args:
        file: the open database.
        tables: the statements on it.
        clock: seconds since the epoch.
    """

    def __init__(self, file: Database, tables: Tables, clock: Clock) -> None:
        self._reading = file.reading
        self._transaction = file.transaction
        self._tables = tables
        self._clock = clock

    def waiting(self) -> tuple[Approval, ...]:
        """Return all tool calls that wait, the oldest first."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT * FROM approval INDEXED BY approval_waiting WHERE state = 'waiting' ORDER BY asked_at"
            )
            return tuple(map(approval_from, rows))

    def jobs(self) -> frozenset[str]:
        """Return the ids of the jobs with a tool call that waits."""
        with self._reading() as db:
            rows = db.execute("SELECT job_id FROM approval INDEXED BY approval_waiting WHERE state = 'waiting'")
            return frozenset(row["job_id"] for row in rows)

    def note(self, lease: Lease, calls: Sequence[ApprovalRequest]) -> tuple[Approval, ...]:
        """Record which tool calls of a leased step wait on its worker now.

        Returns:
            Those that are decided already: the worker does not have the decision yet.
        """
        with self._reading() as db:
            rows = db.execute("SELECT * FROM approval WHERE remote_id = ?", (lease.remote_id,))
            known = {row["call_id"]: approval_from(row) for row in rows}
        wait_there = {call.approval_id for call in calls}
        new = [call for call in calls if call.approval_id not in known]
        gone = [a for a in known.values() if a.state is ApprovalState.WAITING and a.call_id not in wait_there]
        if new or gone:  # mostly there is neither, and no write is needed
            self._write(lease, new, gone)
        decided = (ApprovalState.APPROVED, ApprovalState.REFUSED)
        return tuple(a for a in known.values() if a.state in decided and a.call_id in wait_there)

    def _write(self, lease: Lease, new: Sequence[ApprovalRequest], gone: Sequence[Approval]) -> None:
        with self._transaction() as db:
            held = db.execute(
                "SELECT 1 FROM subtask WHERE job_id = ? AND task_id = ? AND state = ? AND token = ?",
                (lease.job_id, lease.task_id, StepState.LEASED.value, lease.token),
            ).fetchone()
            if held is None:
                return  # the attempt has ended, and its calls with it
            for call in new:
                where = (lease.job_id, lease.task_id, lease.worker_id)
                db.execute(
                    "INSERT INTO approval (approval_id, job_id, task_id, worker_id, remote_id, call_id, tool,"
                    " arguments, digest, asked_at, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        secrets.token_hex(8),
                        *where,
                        lease.remote_id,
                        call.approval_id,
                        call.tool,
                        json.dumps(dict(call.arguments)),
                        call.digest,
                        self._clock(),
                        ApprovalState.WAITING.value,
                    ),
                )
                self._tables.event("approval_asked", *where, message=call.tool)
            for approval in gone:
                self._end(approval, "it was decided on the worker, or its time ended there")

    def decide(self, approval_id: str, decision: Decision, by: str) -> tuple[Approval, bool]:
        """Record a decision on a tool call. The same decision may come again.

        Args:
            by: name of the key that the decision came with.

        Returns:
            The call, and whether the decision is new.

        Raises:
            ApprovalNotFound: no such call.
            ApprovalConflict: the decision names another digest, or the opposite was decided before.
            ApprovalOver: the call does not wait any more.
        """
        state = ApprovalState.APPROVED if decision.approved else ApprovalState.REFUSED
        with self._transaction() as db:
            approval = self._get(approval_id)
            if decision.digest != approval.digest:
                raise ApprovalConflict(
                    f"the decision is about another call: the one that waits has the digest {approval.digest}; "
                    "look at it again, then decide"
                )
            if approval.state is state:
                return approval, False
            if approval.state is ApprovalState.OVER:
                raise ApprovalOver("the call does not wait any more: its task or its time has ended")
            if approval.state is not ApprovalState.WAITING:
                raise ApprovalConflict(f"the call was {approval.state.value} before")
            db.execute(
                "UPDATE approval SET state = ?, decided_at = ?, decided_by = ?, reason = ? WHERE approval_id = ?",
                (state.value, self._clock(), by, decision.reason, approval_id),
            )
            self._tables.event(
                f"approval_{state.value}",
                approval.job_id,
                approval.task_id,
                approval.worker_id,
                f"{approval.tool}, by {by}" + (f": {decision.reason}" if decision.reason else ""),
            )
            return self._get(approval_id), True

    def end(self, approval_id: str, why: str) -> None:
        """Record that a tool call no longer waits, although no decision reached it."""
        with self._transaction():
            self._end(self._get(approval_id), why)

    def _end(self, approval: Approval, why: str) -> None:
        self._tables.end_approval(approval.approval_id)
        self._tables.event(
            "approval_over", approval.job_id, approval.task_id, approval.worker_id, f"{approval.tool}: {why}"
        )

    def _get(self, approval_id: str) -> Approval:
        row = self._tables.approval_row(approval_id)
        if row is None:
            raise ApprovalNotFound(f"no call {approval_id!r} waits for approval")
        return approval_from(row)
