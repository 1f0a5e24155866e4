"""The states of jobs and subtasks, and which may follow which: the one place that says so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum


class JobState(Enum):
    """Where a job is."""

    QUEUED = "queued"
    PLANNING = "planning"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepState(Enum):
    """Where a subtask is."""

    WAITING = "waiting"
    READY = "ready"
    LEASED = "leased"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class ApprovalState(Enum):
    """What became of a call that needs the owner's approval."""

    WAITING = "waiting"
    APPROVED = "approved"
    REFUSED = "refused"
    OVER = "over"
    """It does not wait any more, and nobody decided here: its attempt or its time has ended."""


ENDED_JOBS = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})
ENDED_STEPS = frozenset({StepState.COMPLETED, StepState.FAILED, StepState.CANCELLED, StepState.SKIPPED})
UNFINISHED_JOBS = frozenset(JobState) - ENDED_JOBS
OPEN_STEPS = frozenset(StepState) - ENDED_STEPS

MAX_ATTEMPTS = 3
"""How often a subtask is given to a worker before it fails."""

JOB_TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.PLANNING, JobState.RUNNING, *ENDED_JOBS}),
    # A restart finds a job in planning whose plan was never stored, and plans it again.
    JobState.PLANNING: frozenset({JobState.PLANNING, JobState.RUNNING, *ENDED_JOBS}),
    JobState.RUNNING: ENDED_JOBS,
    **{state: frozenset() for state in ENDED_JOBS},
}

STEP_TRANSITIONS: Mapping[StepState, frozenset[StepState]] = {
    StepState.WAITING: frozenset({StepState.READY, StepState.SKIPPED, StepState.CANCELLED}),
    StepState.READY: frozenset({StepState.LEASED, StepState.FAILED, StepState.CANCELLED}),
    # Back to ready: the worker was lost, and another attempt is left.
    StepState.LEASED: frozenset({StepState.READY, StepState.COMPLETED, StepState.FAILED, StepState.CANCELLED}),
    **{state: frozenset() for state in ENDED_STEPS},
}


def sources_of(state: JobState) -> tuple[JobState, ...]:
    """The states from which a job may go to ``state``."""
    return tuple(source for source, targets in JOB_TRANSITIONS.items() if state in targets)


def listed(states: Collection[Enum]) -> str:
    """``states``, all of one kind, as SQL has them after ``IN``: constants, in the order of the indexes' own lists."""
    kind = type(next(iter(states)))
    return "(" + ", ".join(f"'{state.value}'" for state in kind if state in states) + ")"
