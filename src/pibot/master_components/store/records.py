"""The job store's records, with their JSON forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pibot.contracts import (
    JsonObject,
    SubTask,
    TaskPlan,
    TaskResult,
    Usage,
    valid_description,
    valid_id,
    valid_skills,
    valid_timeout,
)
from pibot.errors import InvalidRequest
from pibot.master_components.store.states import ApprovalState, JobState, StepState

MAX_PRIORITY = 100
MAX_JOB_ID_CHARS = 48
"""Characters in a job's id. A task's id on a worker has at most 100, and holds the step's id and the attempt too."""

_FIELDS = ("description", "skills", "timeout", "priority", "job_id")


@dataclass(frozen=True)
class Submission:
    """A job as it is submitted.

    Args:
        description: what to do, in words.
        skills: makes the job one step with these skills, without planning; None leaves it to the planner.
        timeout: seconds for the whole job; None for no limit.
        priority: -100 to 100; a job with a higher one starts first.
        job_id: the caller's own id for the job; the same id with the same body is the same job. None to get one.
    """

    description: str
    skills: tuple[str, ...] | None = None
    timeout: float | None = None
    priority: int = 0
    job_id: str | None = None

    @classmethod
    def from_json(cls, data: object) -> Submission:
        """Read the body of the hub's ``POST /task``.

        Raises:
            InvalidRequest: a field does not fit; the error names it.
        """
        if not isinstance(data, dict):
            raise InvalidRequest("the body must be a JSON object with a description")
        if "description" not in data:
            raise InvalidRequest("description is missing", field="description")
        unknown = sorted(set(data) - set(_FIELDS))
        if unknown:
            raise InvalidRequest(f"unknown field {unknown[0]!r}; the fields are {', '.join(_FIELDS)}", field=unknown[0])
        priority = data.get("priority", 0)
        if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > MAX_PRIORITY:
            raise InvalidRequest(
                f"priority must be a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}", field="priority"
            )
        job_id = data.get("job_id")
        if job_id is not None and len(valid_id(job_id, "job_id")) > MAX_JOB_ID_CHARS:
            raise InvalidRequest(f"job_id may have {MAX_JOB_ID_CHARS} characters", field="job_id")
        skills = data.get("skills")
        return cls(
            description=valid_description(data["description"]),
            skills=None if skills is None else valid_skills(skills),
            timeout=valid_timeout(data.get("timeout")),
            priority=priority,
            job_id=job_id,
        )


@dataclass(frozen=True)
class Attempt:
    """One try of a step on a worker.

    Args:
        number: from 1.
        worker_id: the worker.
        started_at, finished_at: seconds since the epoch; ``finished_at`` is None while it runs.
        error: why the attempt failed; None if it has a result or still runs.
        late_result: a result that came after the lease was lost. It is kept as evidence and changes nothing.
    """

    number: int
    worker_id: str
    started_at: float
    finished_at: float | None = None
    error: str | None = None
    late_result: TaskResult | None = None

    def to_json(self) -> JsonObject:
        return {
            "number": self.number,
            "worker_id": self.worker_id,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "error": self.error,
            "late_result": None if self.late_result is None else self.late_result.to_json(),
        }


@dataclass(frozen=True)
class Lease:
    """A worker's right to a step, until it expires. Every change to it needs the token.

    Args:
        job_id, task_id: the step.
        worker_id: the worker that holds it.
        token: proves to the store that the caller means this lease.
        attempt: the attempt's number, from 1.
        expires_at: seconds since the epoch, for display only (docs/decisions.md, D39).
    """

    job_id: str
    task_id: str
    worker_id: str
    token: str
    attempt: int
    expires_at: float

    @property
    def remote_id(self) -> str:
        """The task's id on the worker. One lease has one id, so that a restarted hub can ask for its result.

        It holds part of the token: a job's id may come again after the job was pruned or the database was moved away,
        while the worker still has the old result.
        """
        return f"{self.job_id}.{self.task_id}.{self.attempt}.{self.token[:6]}"


@dataclass(frozen=True)
class StepRecord:
    """A step of a stored plan, and what has become of it.

    Args:
        step: the step as it was planned.
        attempts: the oldest first.
        result: None until a worker's result is recorded.
        error: why it has no result, or what the result says went wrong.
        lease: the running attempt's; None in every state but ``leased``.
        version: the version of the plan that it came with, from 1.
    """

    step: SubTask
    state: StepState
    attempts: tuple[Attempt, ...] = ()
    result: TaskResult | None = None
    error: str | None = None
    lease: Lease | None = None
    version: int = 1

    @property
    def task_id(self) -> str:
        """The step's id, unique within its job."""
        return self.step.task_id

    @property
    def worker_id(self) -> str | None:
        """The worker of the last attempt; None before the first."""
        return self.attempts[-1].worker_id if self.attempts else None

    def to_json(self) -> JsonObject:
        return {
            **self.step.to_json(),
            "status": self.state.value,
            "worker_id": self.worker_id,
            "attempts": [attempt.to_json() for attempt in self.attempts],
            "output": None if self.result is None else self.result.output,
            "error": self.error,
            "result": None if self.result is None else self.result.to_json(),
            "version": self.version,
        }


@dataclass(frozen=True)
class PlanChange:
    """A further version of a job's plan: steps that were added after the earlier ones had ended.

    Args:
        version: from 2; the first version is the plan itself.
        at: when, in seconds since the epoch.
        why: what failed, or what the answer lacked.
        reasoning: the planner's sentence on the further steps.
    """

    version: int
    at: float
    why: str
    reasoning: str = ""

    def to_json(self) -> JsonObject:
        return {"version": self.version, "at": self.at, "why": self.why, "reasoning": self.reasoning}


@dataclass(frozen=True)
class Approval:
    """A tool call that waits for the owner's approval, or waited for it.

    Args:
        approval_id: the hub's own id for it.
        job_id, task_id: the step.
        worker_id: the worker that it waits on.
        remote_id, call_id: the task's and the tool call's ids on the worker.
        tool, arguments: what the model wants to run.
        digest: of tool and arguments.
        asked_at: when the hub first read of it, in seconds since the epoch.
        decided_at, decided_by: when, and with which key, it was decided at the hub.
        reason: the owner's reason for a refusal.
    """

    approval_id: str
    job_id: str
    task_id: str
    worker_id: str
    remote_id: str
    call_id: str
    tool: str
    arguments: Mapping[str, Any]
    digest: str
    asked_at: float
    state: ApprovalState
    decided_at: float | None = None
    decided_by: str | None = None
    reason: str = ""

    def to_json(self) -> JsonObject:
        return {
            "approval_id": self.approval_id,
            "job_id": self.job_id,
            "task_id": self.task_id,
            "worker_id": self.worker_id,
            "tool": self.tool,
            "arguments": dict(self.arguments),
            "digest": self.digest,
            "asked_at": self.asked_at,
            "status": self.state.value,
            "decided_at": self.decided_at,
            "decided_by": self.decided_by,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Job:
    """A stored job.

    Args:
        timeout: seconds until the job is ended, in the time that hubs run, as ``accepted_run``; None for no limit.
        usage: tokens of all its model calls, each counted once. Those of lost attempts are known only if they went
            through the gateway.
        cost: of its calls through the gateway, in the owner's currency; None if no model has a price.
        created_at, started_at, finished_at: seconds since the epoch.
        accepted_run: seconds that hubs had run with the database when the job was accepted.
        steps: empty before it is planned, and in listings.
        approvals: its tool calls that needed the owner's approval; empty in listings.
        changes: the further versions of its plan, the oldest first; empty in listings.
        planned: its plan is the planner's; False where it was submitted with its skills.
    """

    job_id: str
    description: str
    state: JobState
    priority: int
    timeout: float | None
    created_at: float
    plan: TaskPlan | None = None
    answer: str | None = None
    error: str | None = None
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    cancel_requested: bool = False
    accepted_run: float = 0.0
    steps: tuple[StepRecord, ...] = ()
    approvals: tuple[Approval, ...] = ()
    changes: tuple[PlanChange, ...] = ()
    planned: bool = True

    @property
    def version(self) -> int:
        """The number of the plan's newest version, from 1."""
        return self.changes[-1].version if self.changes else 1

    @property
    def waiting_calls(self) -> tuple[Approval, ...]:
        """The tool calls that wait for the owner now."""
        return tuple(a for a in self.approvals if a.state is ApprovalState.WAITING)

    def to_json(self) -> JsonObject:
        return {
            "job_id": self.job_id,
            "description": self.description,
            "status": self.state.value,
            "priority": self.priority,
            "timeout": self.timeout,
            "plan": None if self.plan is None else self.plan.to_json(),
            "answer": self.answer,
            "error": self.error,
            "usage": self.usage.to_json(),
            "cost": None if self.cost is None else round(self.cost, 6),
            "created_at": self.created_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "cancel_requested": self.cancel_requested,
            "subtasks": [step.to_json() for step in self.steps],
            "waiting_for_approval": bool(self.waiting_calls),
            "approvals": [approval.to_json() for approval in self.approvals],
            "plan_changes": [change.to_json() for change in self.changes],
        }


@dataclass(frozen=True)
class Event:
    """Something that happened, for the list of recent activity."""

    seq: int
    at: float
    kind: str
    job_id: str | None = None
    task_id: str | None = None
    worker_id: str | None = None
    message: str = ""

    def to_json(self) -> JsonObject:
        return {
            "seq": self.seq,
            "at": self.at,
            "kind": self.kind,
            "job_id": self.job_id,
            "task_id": self.task_id,
            "worker_id": self.worker_id,
            "message": self.message,
        }


@dataclass(frozen=True)
class JobRecord:
    """Everything that is stored about a job.

    Args:
        job: with its plan, its steps and their attempts.
        events: the oldest first.
    """

    job: Job
    events: tuple[Event, ...]

    def to_json(self) -> JsonObject:
        return {"job": self.job.to_json(), "events": [event.to_json() for event in self.events]}
