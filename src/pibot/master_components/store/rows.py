"""Makes records of the job database's rows.

A value that this release does not write does not stop the page that shows it: another release, or a worker that an
earlier release believed, may have left it there. It is read as what comes closest, and the record's error says so.
"""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import replace
from enum import Enum
from typing import Any, Callable, TypeVar

from pibot.contracts import SubTask, TaskPlan, TaskResult, TaskState, Usage
from pibot.errors import ContractError, PibotError
from pibot.master_components.store.records import Approval, Attempt, Job, Lease, PlanChange, StepRecord
from pibot.master_components.store.states import ApprovalState, JobState, StepState

T = TypeVar("T")
State = TypeVar("State", bound=Enum)


def state_from(kind: type[State], stored: str, instead: State) -> tuple[State, str | None]:
    """Read a stored state. For an unknown word, return ``instead`` and a sentence for people (docs/decisions.md, D115).

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


def job_from(
    row: sqlite3.Row,
    steps: tuple[StepRecord, ...] = (),
    approvals: tuple[Approval, ...] = (),
    changes: tuple[PlanChange, ...] = (),
) -> Job:
    """Make a job of a row of ``job``. The steps of its plan are among ``steps``; old rows repeat them in ``plan``."""
    state, unknown = state_from(JobState, row["state"], JobState.FAILED)
    plan, broken = _read(row["plan"], lambda data: TaskPlan.from_json({**data, "subtasks": ()}))
    if plan is not None:
        plan = replace(plan, subtasks=tuple(record.step for record in steps if record.version == 1))
    return Job(
        job_id=row["job_id"],
        description=row["description"],
        state=state,
        priority=row["priority"],
        timeout=row["timeout"],
        created_at=row["created_at"],
        plan=plan,
        answer=row["answer"],
        error=_joined(row["error"], unknown, broken and f"its stored plan can't be read: {broken}"),
        usage=Usage(row["prompt_tokens"], row["completion_tokens"], row["llm_calls"]),
        cost=row["cost"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        cancel_requested=bool(row["cancel_requested"]),
        accepted_run=row["accepted_run"],
        steps=steps,
        approvals=approvals,
        changes=changes,
    )


def was_planned(body: str) -> bool:
    """Return whether a job was left to the planner: it was submitted without skills."""
    submitted, _ = _read(body, list)
    return submitted is None or len(submitted) < 2 or submitted[1] is None


def change_from(row: sqlite3.Row) -> PlanChange:
    """Make a change of a plan of a row of ``plan_change``."""
    return PlanChange(row["version"], row["at"], row["why"], row["reasoning"])


def lease_from(row: sqlite3.Row) -> Lease:
    """Make a lease of the row of a leased step."""
    return Lease(row["job_id"], row["task_id"], row["worker_id"], row["token"], row["attempt"], row["expires_at"])


def step_from(row: sqlite3.Row, attempts: tuple[Attempt, ...], job_description: str) -> StepRecord:
    """Make a step of a row of ``subtask``. Its empty description stands for the job's."""
    state, unknown = state_from(StepState, row["state"], StepState.FAILED)
    result, broken = _read(row["result"], TaskResult.from_json)
    if broken:
        result = _unreadable_result(row, broken)
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
        result=result,
        error=_joined(row["error"], unknown),
        lease=lease_from(row) if state is StepState.LEASED else None,
        version=row["version"],
    )


def attempt_from(row: sqlite3.Row) -> Attempt:
    """Make an attempt of a row of ``attempt``."""
    late, broken = _read(row["late_result"], TaskResult.from_json)
    if broken:
        late = _unreadable_result(row, broken)
    return Attempt(
        number=row["number"],
        worker_id=row["worker_id"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        error=row["error"],
        late_result=late,
    )


def approval_from(row: sqlite3.Row) -> Approval:
    """Make an approval of a row of ``approval``. One in an unknown state counts as over."""
    state, unknown = state_from(ApprovalState, row["state"], ApprovalState.OVER)
    arguments, broken = _read(row["arguments"], dict)
    if broken:
        state, broken = ApprovalState.OVER, f"its stored arguments can't be read: {broken}"
    values = {**dict(row), "arguments": arguments or {}, "state": state}
    return Approval(**{**values, "reason": _joined(row["reason"] or None, unknown, broken) or ""})


def _read(stored: str | None, read: Callable[[Any], T]) -> tuple[T | None, str | None]:
    """Return a stored value, and what is wrong with it if it can't be read."""
    if stored is None:
        return None, None
    try:
        return read(_plain(stored)), None
    except (PibotError, ValueError, TypeError, KeyError, AttributeError) as exc:
        return None, str(exc) or type(exc).__name__


_SURROGATE = re.compile(r"(?i)\\ud[89a-f]")


def _plain(stored: str) -> Any:
    """Read stored JSON without what an earlier release let in: numbers that JSON lacks, and halves of characters."""
    try:
        found = json.loads(stored, parse_constant=lambda _: None)
        if _SURROGATE.search(stored):
            found = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError:
        raise ContractError("it is nested too deeply") from None
    return found


def _unreadable_result(row: sqlite3.Row, problem: str) -> TaskResult:
    error = f"its stored result can't be read: {problem}"
    return TaskResult(row["task_id"], row["worker_id"], TaskState.FAILED, error=error)


def _joined(*parts: str | None) -> str | None:
    return "; ".join(part for part in parts if part) or None
