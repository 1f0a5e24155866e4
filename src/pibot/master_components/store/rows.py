"""Makes records of the job database's rows."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from enum import Enum
from typing import TypeVar

from pibot.contracts import SubTask, TaskPlan, TaskResult, Usage
from pibot.master_components.store.records import Approval, Attempt, Job, Lease, StepRecord
from pibot.master_components.store.states import ApprovalState, JobState, StepState

State = TypeVar("State", bound=Enum)


def state_from(kind: type[State], stored: str, instead: State) -> tuple[State, str | None]:
    """Read a stored state. For an unknown word, return ``instead`` and a sentence for people (docs/decisions.md, D151).

    Args:
        kind: the states of a job, a step or an approval.
        instead: the state in which nothing more happens.
    """
    try:
        return kind(stored), None
    except ValueError:
        return instead, (
            f"the job database says {stored!r} for its state, which this release does not know; use the release that "
            "wrote it, or submit the job again"
        )


def job_from(row: sqlite3.Row, steps: tuple[StepRecord, ...] = (), approvals: tuple[Approval, ...] = ()) -> Job:
    """Make a job of a row of ``job``. The steps of its plan are ``steps``; old rows repeat them in ``plan``."""
    state, problem = state_from(JobState, row["state"], JobState.FAILED)
    plan = None
    if row["plan"] is not None:
        plan = TaskPlan.from_json({**json.loads(row["plan"]), "subtasks": ()})
        plan = replace(plan, subtasks=tuple(record.step for record in steps))
    return Job(
        job_id=row["job_id"],
        description=row["description"],
        state=state,
        priority=row["priority"],
        timeout=row["timeout"],
        created_at=row["created_at"],
        plan=plan,
        answer=row["answer"],
        error=problem or row["error"],
        usage=Usage(row["prompt_tokens"], row["completion_tokens"], row["llm_calls"]),
        cost=row["cost"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        cancel_requested=bool(row["cancel_requested"]),
        accepted_run=row["accepted_run"],
        steps=steps,
        approvals=approvals,
    )


def lease_from(row: sqlite3.Row) -> Lease:
    """Make a lease of the row of a leased step."""
    return Lease(row["job_id"], row["task_id"], row["worker_id"], row["token"], row["attempt"], row["expires_at"])


def step_from(row: sqlite3.Row, attempts: tuple[Attempt, ...], job_description: str) -> StepRecord:
    """Make a step of a row of ``subtask``. Its empty description stands for the job's."""
    state, problem = state_from(StepState, row["state"], StepState.FAILED)
    return StepRecord(
        SubTask(
            task_id=row["task_id"],
            description=row["description"] or job_description,
            skills=tuple(json.loads(row["skills"])),
            depends_on=tuple(json.loads(row["depends_on"])),
            timeout=row["timeout"],
        ),
        state,
        attempts=attempts,
        result=None if row["result"] is None else TaskResult.from_json(json.loads(row["result"])),
        error=problem or row["error"],
        lease=lease_from(row) if state is StepState.LEASED else None,
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
    state, problem = state_from(ApprovalState, row["state"], ApprovalState.OVER)
    more = {"arguments": json.loads(row["arguments"]), "state": state, "reason": problem or row["reason"]}
    return Approval(**{**dict(row), **more})
