"""The calls that wait for the owner, in the job database."""

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
    """Its methods block for as long as the disk takes, and may be called from any thread.

    Args:
        file: the open database.
        tables: its statements.
        clock: seconds since the epoch.
    """

    def __init__(self, file: Database, tables: Tables, clock: Clock) -> None:
        self._reading = file.reading
        self._transaction = file.transaction
        self._tables = tables
        self._clock = clock

    def waiting(self) -> tuple[Approval, ...]:
        """All calls that wait, the oldest first."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT * FROM approval INDEXED BY approval_waiting WHERE state = 'waiting' ORDER BY asked_at"
            )
            return tuple(map(approval_from, rows))

    def note(self, lease: Lease, calls: Sequence[ApprovalRequest]) -> tuple[Approval, ...]:
        """Note which calls of a leased subtask wait on its worker now.

        Returns:
            Those of them that are decided already, so that the worker has yet to be told.
        """
        with self._reading() as db:
            rows = db.execute("SELECT * FROM approval WHERE remote_id = ?", (lease.remote_id,))
            known = {row["call_id"]: approval_from(row) for row in rows}
        wait_there = {call.approval_id for call in calls}
        new = [call for call in calls if call.approval_id not in known]
        gone = [a for a in known.values() if a.state is ApprovalState.WAITING and a.call_id not in wait_there]
        if new or gone:  # most times there is neither, and nothing to write
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
                return  # its attempt has ended, and what it waits for with it
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
                self._end(approval, "it was decided, or its time ended, on the worker")

    def decide(self, approval_id: str, decision: Decision, by: str) -> tuple[Approval, bool]:
        """Record what was decided of a call. The same decision may come again.

        Args:
            by: whose key it came with.

        Returns:
            The call, and whether that was decided only now.

        Raises:
            ApprovalNotFound: there is no such call.
            ApprovalConflict: the decision is about another call than the one that waits, or the other was made before.
            ApprovalOver: it does not wait any more.
        """
        state = ApprovalState.APPROVED if decision.approved else ApprovalState.REFUSED
        with self._transaction() as db:
            approval = self._get(approval_id)
            if decision.digest != approval.digest:
                raise ApprovalConflict(
                    f"the call that waits is not the one that was decided on: its digest is {approval.digest}; "
                    "look at it again"
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
        """Note that a call does not wait any more although nobody's decision reached it."""
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
