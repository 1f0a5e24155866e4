"""The job store's statements. Each runs within one of its transactions."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from pibot.contracts import Clock, SubTask, TaskPlan, TaskResult, Usage
from pibot.errors import IllegalTransition, JobNotFound, LeaseLost
from pibot.master_components.store.records import Job, Lease, PlanChange
from pibot.master_components.store.rows import (
    approval_from,
    attempt_from,
    change_from,
    job_from,
    state_from,
    step_from,
    was_planned,
)
from pibot.master_components.store.states import (
    ENDED_JOBS,
    OPEN_STEPS,
    STEP_TRANSITIONS,
    JobState,
    StepState,
    listed,
    sources_of,
)

EVENTS_KEPT = 5000
"""An event that is about no job is deleted when so many newer events exist. A job's events are deleted with it."""

_PRUNE_EVERY = 100

LEASE = "job_id, task_id, worker_id, token, attempt, expires_at"
"""The columns of ``subtask`` that make a lease."""

_NEVER = frozenset({StepState.FAILED, StepState.CANCELLED, StepState.SKIPPED})


class Tables:
    """Reads and writes the rows of jobs, steps, attempts and events.

    Args:
        db: the only connection.
        clock: seconds since the epoch.
        monotonic: seconds that never go back.
    """

    def __init__(self, db: sqlite3.Connection, clock: Clock, monotonic: Clock) -> None:
        self._db = db
        self._clock = clock
        self.running_time = RunningTime(self._time_before(), monotonic)

    def insert_plan(self, job_id: str, plan: TaskPlan) -> None:
        """Store a plan and its steps; those that need no other are ready.

        The steps are stored in ``subtask`` only, and a step's description only if it is not the job's
        (docs/decisions.md, D114).
        """
        body = plan.to_json()
        del body["subtasks"]
        self._db.execute("UPDATE job SET plan = ? WHERE job_id = ?", (json.dumps(body), job_id))
        self._insert_steps(job_id, plan.subtasks, 1, 0)

    def change_plan(self, job_id: str, change: PlanChange, steps: Sequence[SubTask]) -> None:
        """Store a further version of a plan with its steps.

        Raises:
            IllegalTransition: the job does not run, has other versions than the change knows, or has steps to run.
        """
        job, records = self.row(job_id), self.job(job_id)
        if job["state"] != JobState.RUNNING.value or change.version != records.version + 1:
            raise IllegalTransition(
                f"{job_id} is {job['state']}, with plan {records.version}; it gets no {change.version}"
            )
        if any(record.state in OPEN_STEPS for record in records.steps):
            raise IllegalTransition(f"{job_id} has steps to run; it gets no other plan now")
        self._db.execute(
            "INSERT INTO plan_change (job_id, version, at, why, reasoning) VALUES (?, ?, ?, ?, ?)",
            (job_id, change.version, change.at, change.why, change.reasoning),
        )
        self._insert_steps(job_id, steps, change.version, len(records.steps))
        self.move_on(job_id)  # a step whose needs are all finished is ready at once

    def _insert_steps(self, job_id: str, steps: Sequence[SubTask], version: int, first: int) -> None:
        description = self.row(job_id)["description"]
        self._db.executemany(
            "INSERT INTO subtask (job_id, task_id, position, description, skills, depends_on, timeout, state, version)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    job_id,
                    step.task_id,
                    position,
                    "" if step.description == description else step.description,
                    json.dumps(list(step.skills)),
                    json.dumps(list(step.depends_on)),
                    step.timeout,
                    (StepState.WAITING if step.depends_on else StepState.READY).value,
                    version,
                )
                for position, step in enumerate(steps, first)
            ],
        )

    def move_job(self, job_id: str, state: JobState) -> None:
        """Change a job's state.

        Raises:
            IllegalTransition: :data:`JOB_TRANSITIONS` does not allow it.
        """
        now, run = (self._clock(), self.running_time()) if state in ENDED_JOBS else (None, None)
        done = self._db.execute(
            "UPDATE job SET state = ?, started_at = coalesce(started_at, ?), finished_at = ?, finished_run = ?"
            f" WHERE job_id = ? AND state IN {listed(sources_of(state))}",  # nosec B608 # an enum's values
            (state.value, self._clock(), now, run, job_id),
        )
        if done.rowcount == 0:
            current = self.row(job_id)["state"]
            raise IllegalTransition(f"{job_id} is {current}; it can't become {state.value}")

    def finish(self, job_id: str, state: JobState, answer: str | None, error: str | None) -> None:
        """End a job, and cancel its steps that have not ended."""
        self.move_job(job_id, state)
        self.cancel_steps(job_id, OPEN_STEPS, error or "the job has ended")
        self._db.execute("UPDATE job SET answer = ?, error = ? WHERE job_id = ?", (answer, error, job_id))
        self.event(f"job_{state.value}", job_id, message=error or "")

    # --- steps ---

    def move_step(
        self,
        job_id: str,
        task_id: str,
        source: StepState,
        state: StepState,
        changes: str,
        values: Sequence[Any],
    ) -> bool:
        """Change the state of a step that is in ``source``; return whether it was.

        Raises:
            IllegalTransition: :data:`STEP_TRANSITIONS` does not allow it.
        """
        _check(source, state)
        done = self._db.execute(
            f"UPDATE subtask SET state = ?, {changes} WHERE job_id = ? AND task_id = ? AND state = ?",  # nosec B608 # this package's own constants
            (state.value, *values, job_id, task_id, source.value),
        )
        return done.rowcount > 0

    def hold(self, lease: Lease, expires_at: float) -> None:
        """Extend a lease to ``expires_at``."""
        self._change_leased(lease, "expires_at = ?", (expires_at,))

    def end_lease(self, lease: Lease, state: StepState, changes: str, values: Sequence[Any]) -> None:
        """Move a leased step to ``state``.

        This is the only transition out of ``leased`` besides ending the job. It needs the lease's token.
        """
        _check(StepState.LEASED, state)
        self._change_leased(lease, f"state = ?, token = NULL, expires_at = NULL, {changes}", (state.value, *values))

    def _change_leased(self, lease: Lease, changes: str, values: Sequence[Any]) -> None:
        done = self._db.execute(
            f"UPDATE subtask SET {changes}"  # nosec B608 # this package's own constants
            " WHERE job_id = ? AND task_id = ? AND state = ? AND token = ?",
            (*values, lease.job_id, lease.task_id, StepState.LEASED.value, lease.token),
        )
        if done.rowcount == 0:
            raise LeaseLost(f"{lease.worker_id} lost its lease of {lease.task_id!r} of {lease.job_id}")

    def end_attempt(self, lease: Lease, error: str | None) -> None:
        self._db.execute(
            "UPDATE attempt SET finished_at = ?, error = ? WHERE job_id = ? AND task_id = ? AND number = ?",
            (self._clock(), error, lease.job_id, lease.task_id, lease.attempt),
        )

    def delete_attempt(self, lease: Lease) -> None:
        """Delete an attempt that turned out to be none, with its event."""
        self._db.execute("DELETE FROM attempt WHERE job_id = ? AND task_id = ? AND token = ?", _key(lease))
        self._db.execute(
            "DELETE FROM event WHERE seq = (SELECT max(seq) FROM event"
            " WHERE job_id = ? AND task_id = ? AND kind = 'subtask_started')",
            (lease.job_id, lease.task_id),
        )

    def keep_late(self, lease: Lease, result: TaskResult) -> None:
        """Keep the result of a lost lease with its attempt, unless one is there."""
        done = self._db.execute(
            "UPDATE attempt SET late_result = coalesce(late_result, ?) WHERE job_id = ? AND task_id = ? AND token = ?",
            (json.dumps(result.to_json()), *_key(lease)),
        )
        if done.rowcount:
            self.event("late_result", lease.job_id, lease.task_id, lease.worker_id, "its lease was lost before")

    def move_on(self, job_id: str) -> None:
        """After a step has ended, make steps ready that have all they need, and skip steps that can't get it."""
        rows = self._db.execute("SELECT task_id, depends_on, state FROM subtask WHERE job_id = ?", (job_id,)).fetchall()
        states = {row["task_id"]: state_from(StepState, row["state"], StepState.FAILED)[0] for row in rows}
        changed = True
        while changed:
            changed = False
            for row in rows:
                task_id, needs = row["task_id"], json.loads(row["depends_on"])
                if states[task_id] is not StepState.WAITING:
                    continue
                lost = next((name for name in needs if states[name] in _NEVER), None)
                if lost is not None:
                    states[task_id], error = StepState.SKIPPED, f"it needs {lost!r}, which did not complete"
                elif all(states[name] is StepState.COMPLETED for name in needs):
                    states[task_id], error = StepState.READY, None
                else:
                    continue
                changed = True
                self.move_step(job_id, task_id, StepState.WAITING, states[task_id], "error = ?", (error,))

    def cancel_steps(self, job_id: str, sources: Collection[StepState], reason: str) -> None:
        """Cancel the job's steps that are in one of ``sources``."""
        for source in sources:
            _check(source, StepState.CANCELLED)
        self._db.execute(
            "UPDATE subtask SET state = ?, error = ?, token = NULL, expires_at = NULL"
            f" WHERE job_id = ? AND state IN {listed(sources)}",  # nosec B608 # an enum's values
            (StepState.CANCELLED.value, reason, job_id),
        )

    def uncounted(self, lease: Lease, reported: Usage) -> Usage:
        """Return the part of a worker's reported usage that the gateway has not counted for the attempt."""
        row = self._db.execute(
            "SELECT prompt_tokens, completion_tokens, llm_calls FROM attempt"
            " WHERE job_id = ? AND task_id = ? AND token = ?",
            _key(lease),
        ).fetchone()
        if row is None:
            return reported
        return Usage(
            max(0, reported.prompt_tokens - row["prompt_tokens"]),
            max(0, reported.completion_tokens - row["completion_tokens"]),
            max(0, reported.llm_calls - row["llm_calls"]),
        )

    def add_usage(self, job_id: str, usage: Usage | None) -> None:
        if usage is not None and usage != Usage():
            self._db.execute(
                "UPDATE job SET prompt_tokens = prompt_tokens + ?, completion_tokens = completion_tokens + ?,"
                " llm_calls = llm_calls + ? WHERE job_id = ?",
                (usage.prompt_tokens, usage.completion_tokens, usage.llm_calls, job_id),
            )

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
            self._db.execute("DELETE FROM event WHERE job_id IS NULL AND seq <= ?", (done.lastrowid - EVENTS_KEPT,))

    def keep_time(self) -> None:
        """Store how long hubs have run, for the next hub."""
        self._db.execute("UPDATE running_time SET seconds = ?", (self.running_time(),))

    def _time_before(self) -> float:
        """Return the seconds that earlier hubs ran.

        A killed hub did not store its last seconds; the times of its jobs may be later than what it stored.
        """
        noted, accepted, finished = self._db.execute(
            "SELECT (SELECT seconds FROM running_time),"
            " (SELECT accepted_run FROM job ORDER BY seq DESC LIMIT 1),"
            f" (SELECT max(finished_run) FROM job WHERE state IN {listed(ENDED_JOBS)})"  # nosec B608 # an enum's values
        ).fetchone()
        return max(float(noted), accepted or 0.0, finished or 0.0)

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
        rows = self._db.execute("SELECT * FROM subtask WHERE job_id = ? ORDER BY position", (job_id,))
        description = row["description"]
        steps = tuple(step_from(step, tuple(attempts.get(step["task_id"], ())), description) for step in rows)
        approvals = self._db.execute("SELECT * FROM approval WHERE job_id = ? ORDER BY asked_at", (job_id,))
        changes = self._db.execute("SELECT * FROM plan_change WHERE job_id = ? ORDER BY version", (job_id,))
        job = job_from(row, steps, tuple(map(approval_from, approvals)), tuple(map(change_from, changes)))
        return replace(job, planned=was_planned(row["body"]))

    def approval_row(self, approval_id: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._db.execute(
            "SELECT * FROM approval WHERE approval_id = ?", (approval_id,)
        ).fetchone()
        return row

    def end_approval(self, approval_id: str) -> None:
        self._db.execute("UPDATE approval SET state = 'over' WHERE approval_id = ?", (approval_id,))

    def new_id(self) -> str:
        """Make an id that no job has. It sorts by time and can be typed: ``job-20261124-081418-3f9a2c``."""
        second = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._clock()))
        while True:
            # Among a few hundred jobs in one second, two sometimes draw the same six digits.
            job_id = f"job-{second}-{secrets.token_hex(3)}"
            if self._db.execute("SELECT 1 FROM job WHERE job_id = ?", (job_id,)).fetchone() is None:
                return job_id


class RunningTime:
    """Seconds that hubs have run with this database, this hub included (docs/decisions.md, D38).

    The wall clock of a Pi starts in the past and jumps when the network corrects it. This one follows the monotonic
    clock while a hub runs, and goes on from its last value when the next hub starts.

    Args:
        before: seconds that earlier hubs ran.
        monotonic: seconds from any point, never going back.
    """

    def __init__(self, before: float, monotonic: Clock) -> None:
        self._monotonic = monotonic
        self._offset = before - monotonic()

    def __call__(self) -> float:
        return self._offset + self._monotonic()


def _check(source: StepState, state: StepState) -> None:
    if state not in STEP_TRANSITIONS[source]:
        raise IllegalTransition(f"a step that is {source.value} can't become {state.value}")


def _key(lease: Lease) -> tuple[str, str, str]:
    return lease.job_id, lease.task_id, lease.token
