"""Makes records of the job database's rows."""

from __future__ import annotations

import json
import sqlite3

from pibot.contracts import SubTask, TaskPlan, TaskResult, Usage
from pibot.master_components.store.records import Approval, Attempt, Job, Lease, StepRecord
from pibot.master_components.store.states import ApprovalState, JobState, StepState


def job_from(row: sqlite3.Row, steps: tuple[StepRecord, ...] = (), approvals: tuple[Approval, ...] = ()) -> Job:
    """Make a job of a row of ``job``."""
    return Job(
        job_id=row["job_id"],
        description=row["description"],
        state=JobState(row["state"]),
        priority=row["priority"],
        timeout=row["timeout"],
        created_at=row["created_at"],
        plan=None if row["plan"] is None else TaskPlan.from_json(json.loads(row["plan"])),
        answer=row["answer"],
        error=row["error"],
        usage=Usage(row["prompt_tokens"], row["completion_tokens"], row["llm_calls"]),
        cost=row["cost"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        cancel_requested=bool(row["cancel_requested"]),
        accepted_run=row["accepted_run"],
        steps=steps,
        approvals=approvals,
    )


def step_from(row: sqlite3.Row, attempts: tuple[Attempt, ...]) -> StepRecord:
    """Make a step of a row of ``subtask``."""
    state = StepState(row["state"])
    lease = None
    if state is StepState.LEASED:
        lease = Lease(row["job_id"], row["task_id"], row["worker_id"], row["token"], row["attempt"], row["expires_at"])
    return StepRecord(
        SubTask(
            task_id=row["task_id"],
            description=row["description"],
            skills=tuple(json.loads(row["skills"])),
            depends_on=tuple(json.loads(row["depends_on"])),
            timeout=row["timeout"],
        ),
        state,
        attempts=attempts,
        result=None if row["result"] is None else TaskResult.from_json(json.loads(row["result"])),
        error=row["error"],
        lease=lease,
    )


def attempt_from(row: sqlite3.Row) -> Attempt:
    """Make an attempt of a row of ``attempt``."""
    late = row["late_result"]
    return Attempt(
        number=row["number"],
        worker_id=row["worker_id"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        error=row["error"],
        late_result=None if late is None else TaskResult.from_json(json.loads(late)),
    )


def approval_from(row: sqlite3.Row) -> Approval:
    """Make an approval of a row of ``approval``."""
    return Approval(**{**dict(row), "arguments": json.loads(row["arguments"]), "state": ApprovalState(row["state"])})
