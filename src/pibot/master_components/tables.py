"""The statements of the job store, each for use within one of its transactions."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from pibot.contracts import Clock, TaskPlan, TaskResult, Usage
from pibot.errors import IllegalTransition, JobNotFound, LeaseLost
from pibot.master_components.records import Job, Lease
from pibot.master_components.rows import attempt_from, job_from, subtask_from
from pibot.master_components.states import ENDED_JOBS, JobState, SubtaskState, sources_of

EVENTS_KEPT = 5000
"""Events of the recent activity; older ones go."""

_PRUNE_EVERY = 100

_NEVER = frozenset({SubtaskState.FAILED, SubtaskState.CANCELLED, SubtaskState.SKIPPED})


class Tables:
    """Jobs, subtasks, attempts and events as rows.

    Args:
        db: the one connection.
        clock: seconds since the epoch.
    """

    def __init__(self, db: sqlite3.Connection, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self.used = Usage()
        """What the models were asked for, over all jobs, since the file was opened."""

    def insert_plan(self, job_id: str, plan: TaskPlan) -> None:
        self._db.execute("UPDATE job SET plan = ? WHERE job_id = ?", (json.dumps(plan.to_json()), job_id))
        self._db.executemany(
            "INSERT INTO subtask (job_id, task_id, position, description, skills, depends_on, timeout, state)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    job_id,
                    step.task_id,
                    position,
                    step.description,
                    json.dumps(list(step.skills)),
                    json.dumps(list(step.depends_on)),
                    step.timeout,
                    (SubtaskState.WAITING if step.depends_on else SubtaskState.READY).value,
                )
                for position, step in enumerate(plan.subtasks)
            ],
        )

    def move(self, job_id: str, state: JobState) -> None:
        """Change a job's state as the table of transitions allows."""
        sources = sources_of(state)
        marks = ", ".join("?" * len(sources))
        now = self._clock()
        ended = now if state in ENDED_JOBS else None
        done = self._db.execute(
            "UPDATE job SET state = ?, started_at = coalesce(started_at, ?), finished_at = ?"
            f" WHERE job_id = ? AND state IN ({marks})",  # marks only
            (state.value, now, ended, job_id, *(source.value for source in sources)),
        )
        if done.rowcount == 0:
            current = self.row(job_id)["state"]
            raise IllegalTransition(f"{job_id} is {current}; it can't become {state.value}")

    def finish(self, job_id: str, state: JobState, answer: str | None, error: str | None, usage: Usage | None) -> None:
        self.move(job_id, state)
        self.end_steps(job_id, ("waiting", "ready", "leased"), error or "the job has ended")
        self._db.execute("UPDATE job SET answer = ?, error = ? WHERE job_id = ?", (answer, error, job_id))
        self.add_usage(job_id, usage)
        self.event(f"job_{state.value}", job_id, message=error or "")

    def change_leased(self, db: sqlite3.Connection, lease: Lease, changes: str, values: Sequence[Any]) -> None:
        """The one way to change a leased subtask: whoever does it shows the lease's token."""
        done = db.execute(
            f"UPDATE subtask SET {changes}"  # the changes are this module's own constants
            " WHERE job_id = ? AND task_id = ? AND state = 'leased' AND token = ?",
            (*values, lease.job_id, lease.task_id, lease.token),
        )
        if done.rowcount == 0:
            raise LeaseLost(f"{lease.worker_id} lost its lease of {lease.task_id!r} of {lease.job_id}")

    def end_attempt(self, lease: Lease, error: str | None) -> None:
        self._db.execute(
            "UPDATE attempt SET finished_at = ?, error = ? WHERE job_id = ? AND task_id = ? AND number = ?",
            (self._clock(), error, lease.job_id, lease.task_id, lease.attempt),
        )

    def keep_late(self, lease: Lease, result: TaskResult) -> None:
        self._db.execute(
            "UPDATE attempt SET late_result = ? WHERE job_id = ? AND task_id = ? AND number = ?",
            (json.dumps(result.to_json()), lease.job_id, lease.task_id, lease.attempt),
        )
        self.event("late_result", lease.job_id, lease.task_id, lease.worker_id, "its lease was lost before")

    def move_on(self, job_id: str) -> None:
        """After a subtask has ended: ready what has all it needs now, skip what can't have it any more."""
        rows = self._db.execute("SELECT task_id, depends_on, state FROM subtask WHERE job_id = ?", (job_id,)).fetchall()
        states = {row["task_id"]: SubtaskState(row["state"]) for row in rows}
        changed = True
        while changed:
            changed = False
            for row in rows:
                task_id, needs = row["task_id"], json.loads(row["depends_on"])
                if states[task_id] is not SubtaskState.WAITING:
                    continue
                lost = next((name for name in needs if states[name] in _NEVER), None)
                if lost is not None:
                    states[task_id], error = SubtaskState.SKIPPED, f"it needs {lost!r}, which did not complete"
                elif all(states[name] is SubtaskState.COMPLETED for name in needs):
                    states[task_id], error = SubtaskState.READY, None
                else:
                    continue
                changed = True
                self._db.execute(
                    "UPDATE subtask SET state = ?, error = ? WHERE job_id = ? AND task_id = ? AND state = 'waiting'",
                    (states[task_id].value, error, job_id, task_id),
                )

    def end_steps(self, job_id: str, states: Sequence[str], reason: str) -> None:
        """Cancel the job's subtasks that are in one of ``states``."""
        marks = ", ".join("?" * len(states))
        self._db.execute(
            "UPDATE subtask SET state = 'cancelled', error = ?, token = NULL, expires_at = NULL"
            f" WHERE job_id = ? AND state IN ({marks})",  # marks only
            (reason, job_id, *states),
        )

    def add_usage(self, job_id: str, usage: Usage | None) -> None:
        if usage is not None and usage != Usage():
            self._db.execute(
                "UPDATE job SET prompt_tokens = prompt_tokens + ?, completion_tokens = completion_tokens + ?,"
                " llm_calls = llm_calls + ? WHERE job_id = ?",
                (usage.prompt_tokens, usage.completion_tokens, usage.llm_calls, job_id),
            )
            self.used += usage

    def event(
        self,
        kind: str,
        job_id: str | None = None,
        task_id: str | None = None,
        worker_id: str | None = None,
        message: str = "",
    ) -> None:
        done = self._db.execute(
            "INSERT INTO event (at, kind, job_id, task_id, worker_id, message) VALUES (?, ?, ?, ?, ?, ?)",
            (self._clock(), kind, job_id, task_id, worker_id, message[:1000]),
        )
        assert done.lastrowid is not None
        if done.lastrowid % _PRUNE_EVERY == 0:
            self._db.execute("DELETE FROM event WHERE seq <= ?", (done.lastrowid - EVENTS_KEPT,))

    def row(self, job_id: str) -> sqlite3.Row:
        row: sqlite3.Row | None = self._db.execute("SELECT * FROM job WHERE job_id = ?", (job_id,)).fetchone()
        if row is None:
            raise JobNotFound(f"no job {job_id!r}")
        return row

    def job(self, job_id: str) -> Job:
        row = self.row(job_id)
        attempts: dict[str, list[Any]] = {}
        for attempt in self._db.execute("SELECT * FROM attempt WHERE job_id = ? ORDER BY task_id, number", (job_id,)):
            attempts.setdefault(attempt["task_id"], []).append(attempt_from(attempt))
        steps = self._db.execute("SELECT * FROM subtask WHERE job_id = ? ORDER BY position", (job_id,))
        return job_from(row, tuple(subtask_from(step, tuple(attempts.get(step["task_id"], ()))) for step in steps))

    def new_id(self) -> str:
        """One that no job has. It sorts by time, says when, and can be typed: ``job-20261124-081418-3f9a2c``."""
        second = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._clock()))
        while True:
            # Of a few hundred jobs in one second, two get the same six digits now and then.
            job_id = f"job-{second}-{secrets.token_hex(3)}"
            if self._db.execute("SELECT 1 FROM job WHERE job_id = ?", (job_id,)).fetchone() is None:
                return job_id
