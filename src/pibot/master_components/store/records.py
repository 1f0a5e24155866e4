"""What the job store takes and gives: frozen records, with their JSON forms."""

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
"""Characters of a job's id: the id that a worker gets holds the subtask's and the attempt's too, in 100."""

_FIELDS = ("description", "skills", "timeout", "priority", "job_id")


@dataclass(frozen=True)
class Submission:
    """A job as somebody asks for it.

    Args:
        description: what to do, in words.
        skills: where given, the job is one subtask with these skills and is not planned; None leaves it to the planner.
        timeout: seconds for the whole job; None for no limit of its own.
        priority: -100 to 100; jobs of a higher one are started first.
        job_id: the caller's own name for it; the same name with the same body is the same job.
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
            InvalidRequest: it names the field that does not fit.
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
    """One time that a subtask was given to a worker.

    Args:
        number: from 1.
        worker_id: who got it.
        started_at, finished_at: seconds since the epoch; not finished where it is None.
        error: why it came to nothing; None where it has a result or still runs.
        late_result: what came when its lease was lost: evidence, nothing more.
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
    """A subtask in a worker's hands, for a time. Every change to it names the token.

    Args:
        job_id, task_id: the subtask.
        worker_id: who has it.
        token: who knows it may end the lease.
        attempt: the attempt's number.
        expires_at: seconds since the epoch.
    """

    job_id: str
    task_id: str
    worker_id: str
    token: str
    attempt: int
    expires_at: float

    @property
    def remote_id(self) -> str:
        """The task's id on the worker: the same for one lease, so that a restarted hub can ask for its result.

        It holds a piece of the token, because a job's name may come again after its job was pruned or the database
        moved away, while the worker still has the old result.
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
    """

    step: SubTask
    state: StepState
    attempts: tuple[Attempt, ...] = ()
    result: TaskResult | None = None
    error: str | None = None
    lease: Lease | None = None

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
        }


@dataclass(frozen=True)
class Approval:
    """A call that waits for the owner, or did.

    Args:
        approval_id: the hub's own id of it.
        job_id, task_id: the subtask.
        worker_id: where it waits.
        remote_id, call_id: the task's and the call's ids there.
        tool, arguments: the call.
        digest: of both.
        asked_at: seconds since the epoch, when the hub heard of it.
        decided_at, decided_by: when and by whose key it was decided here.
        reason: the owner's, for a refusal.
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
    """A stored job. In listings ``subtasks`` is empty.

    Args:
        timeout: seconds that it has; counted in ``accepted_run``'s time.
        usage: of all that was asked for it, lost attempts too where the gateway counted them; nothing twice.
        cost: of the calls through the gateway, in the owner's currency; None where no model has a price.
        created_at, started_at, finished_at: seconds since the epoch.
        accepted_run: how many seconds hubs had run with the store when it was taken.
        approvals: its calls that needed the owner's approval; empty in listings, too.
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

    @property
    def waiting_calls(self) -> tuple[Approval, ...]:
        """The calls that wait for the owner now."""
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
        }


@dataclass(frozen=True)
class Event:
    """Something that happened, for the recent activity."""

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
    """All that is stored of a job: the job with its plan, its subtasks and their attempts, and what happened to it.

    Args:
        events: the oldest first.
    """

    job: Job
    events: tuple[Event, ...]

    def to_json(self) -> JsonObject:
        return {"job": self.job.to_json(), "events": [event.to_json() for event in self.events]}
