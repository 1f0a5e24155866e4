"""The states of jobs, steps and approvals, and the allowed transitions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum


class JobState(Enum):
    """The state of a job."""

    QUEUED = "queued"
    PLANNING = "planning"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepState(Enum):
    """The state of a step."""

    WAITING = "waiting"
    READY = "ready"
    LEASED = "leased"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class ApprovalState(Enum):
    """The state of a tool call that needs the owner's approval."""

    WAITING = "waiting"
    APPROVED = "approved"
    REFUSED = "refused"
    OVER = "over"
    """The call no longer waits, and nobody decided at the hub: its attempt or its time has ended."""


ENDED_JOBS = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})
ENDED_STEPS = frozenset({StepState.COMPLETED, StepState.FAILED, StepState.CANCELLED, StepState.SKIPPED})
UNFINISHED_JOBS = frozenset(JobState) - ENDED_JOBS
OPEN_STEPS = frozenset(StepState) - ENDED_STEPS

MAX_ATTEMPTS = 3
"""How many attempts a step gets before it fails."""

JOB_TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.PLANNING, JobState.RUNNING, *ENDED_JOBS}),
    # After a restart, a job in planning has no stored plan; it is planned again.
    JobState.PLANNING: frozenset({JobState.PLANNING, JobState.RUNNING, *ENDED_JOBS}),
    JobState.RUNNING: ENDED_JOBS,
    **{state: frozenset() for state in ENDED_JOBS},
}

STEP_TRANSITIONS: Mapping[StepState, frozenset[StepState]] = {
    StepState.WAITING: frozenset({StepState.READY, StepState.SKIPPED, StepState.CANCELLED}),
    StepState.READY: frozenset({StepState.LEASED, StepState.FAILED, StepState.CANCELLED}),
    # Back to ready: the attempt failed, and another one is left.
    StepState.LEASED: frozenset({StepState.READY, StepState.COMPLETED, StepState.FAILED, StepState.CANCELLED}),
    **{state: frozenset() for state in ENDED_STEPS},
}


def sources_of(state: JobState) -> tuple[JobState, ...]:
    """Return the states from which a job may go to ``state``."""
    return tuple(source for source, targets in JOB_TRANSITIONS.items() if state in targets)


def listed(states: Collection[Enum]) -> str:
    """Write states of one kind as a list for SQL's ``IN``: constants, in the order of the partial indexes' lists."""
    kind = type(next(iter(states)))
    return "(" + ", ".join(f"'{state.value}'" for state in kind if state in states) + ")"
