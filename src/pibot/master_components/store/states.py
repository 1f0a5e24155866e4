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


class SubtaskState(Enum):
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
ENDED_SUBTASKS = frozenset({SubtaskState.COMPLETED, SubtaskState.FAILED, SubtaskState.CANCELLED, SubtaskState.SKIPPED})
UNFINISHED_JOBS = frozenset(JobState) - ENDED_JOBS
OPEN_SUBTASKS = frozenset(SubtaskState) - ENDED_SUBTASKS

MAX_ATTEMPTS = 3
"""How often a subtask is given to a worker before it fails."""

JOB_TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.PLANNING, JobState.RUNNING, *ENDED_JOBS}),
    # A restart finds a job in planning whose plan was never stored, and plans it again.
    JobState.PLANNING: frozenset({JobState.PLANNING, JobState.RUNNING, *ENDED_JOBS}),
    JobState.RUNNING: ENDED_JOBS,
    **{state: frozenset() for state in ENDED_JOBS},
}

SUBTASK_TRANSITIONS: Mapping[SubtaskState, frozenset[SubtaskState]] = {
    SubtaskState.WAITING: frozenset({SubtaskState.READY, SubtaskState.SKIPPED, SubtaskState.CANCELLED}),
    SubtaskState.READY: frozenset({SubtaskState.LEASED, SubtaskState.FAILED, SubtaskState.CANCELLED}),
    # Back to ready: the worker was lost, and another attempt is left.
    SubtaskState.LEASED: frozenset(
        {SubtaskState.READY, SubtaskState.COMPLETED, SubtaskState.FAILED, SubtaskState.CANCELLED}
    ),
    **{state: frozenset() for state in ENDED_SUBTASKS},
}


def sources_of(state: JobState) -> tuple[JobState, ...]:
    """The states from which a job may go to ``state``."""
    return tuple(source for source, targets in JOB_TRANSITIONS.items() if state in targets)


def listed(states: Collection[Enum]) -> str:
    """``states``, all of one kind, as SQL has them after ``IN``: constants, in the order of the indexes' own lists."""
    kind = type(next(iter(states)))
    return "(" + ", ".join(f"'{state.value}'" for state in kind if state in states) + ")"
