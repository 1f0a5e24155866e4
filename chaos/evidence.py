"""Check the outcome of a run: the job database after the hub has stopped, the skills' notes, the logs."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.runs import Run
from chaos.schedule import HUB

ENDED_JOBS = ("completed", "failed", "cancelled")
MAX_ATTEMPTS = 3
MAX_HUB_MB = 120.0
"""A hub takes about 60 MB with 30 jobs; a single lie of a worker would be 600 MB, unpacked."""

_RUN = re.compile(r"run ([0-9a-f]{16})\b")
_SPARED = re.compile(r"attempt_spared job=(\S+) task=(\S+)")
_DEFECT = re.compile(r"a defect in|job_broke|task_broke|Traceback")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Evidence:
    """Everything that the checks read.

    Args:
        accepted: the ids of the jobs that the hub accepted.
        refused: the jobs that it refused for good, with its answer.
        seen: the ended jobs, as the hub's API showed them when they had just ended.
        jobs, steps, attempts, events: the rows of the job database.
        runs: the calls of the skills.
        hub_peak_mb: the most memory that a process of the hub had.
        orphans: processes that should have ended, with their command lines.
        logs: the output of each process, by its name.
    """

    accepted: Sequence[str]
    refused: Mapping[str, str]
    seen: Mapping[str, Row]
    jobs: Sequence[Row]
    steps: Sequence[Row]
    attempts: Sequence[Row]
    events: Sequence[Row]
    runs: Sequence[Run]
    hub_peak_mb: float
    orphans: Sequence[tuple[int, str]] = ()
    logs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """The result of checking one promise.

    Args:
        title: the promise.
        count: what the check counted, for people.
        wrong: a sentence for each violation.
    """

    title: str
    count: str
    wrong: Sequence[str] = ()


def read_database(path: Path) -> dict[str, list[Row]]:
    """Read the hub's tables, named as in :class:`Evidence`. The hub must have stopped.

    Raises:
        sqlite3.Error: the database can't be read.
    """
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        tables = {"jobs": "job", "steps": "subtask", "attempts": "attempt", "events": "event"}
        return {name: [dict(row) for row in db.execute(f"SELECT * FROM {table}")] for name, table in tables.items()}  # nosec B608 # the names are in the line above


def check(evidence: Evidence) -> list[Check]:
    """Run all checks, in the order of the report."""
    return [
        _accepted_ended(evidence),
        _recorded_once(evidence),
        _stayed(evidence),
        _true_results(evidence),
        _order(evidence),
        _attempts(evidence),
        _failures(evidence),
        _leases(evidence),
        _hub_memory(evidence),
        _orphans(evidence),
        _defects(evidence),
    ]


def _accepted_ended(evidence: Evidence) -> Check:
    states = {job["job_id"]: job["state"] for job in evidence.jobs}
    wrong = [f"{job_id} was accepted and is gone" for job_id in evidence.accepted if job_id not in states]
    wrong += [
        f"{job_id} was accepted and is {states[job_id]}"
        for job_id in evidence.accepted
        if states.get(job_id, ENDED_JOBS[0]) not in ENDED_JOBS
    ]
    wrong += [f"{job_id} was refused: {answer}" for job_id, answer in evidence.refused.items()]
    tally = Counter(states[job_id] for job_id in evidence.accepted if job_id in states)
    ended = sum(tally[state] for state in ENDED_JOBS)
    by_state = ", ".join(f"{number} {state}" for state, number in sorted(tally.items()))
    return Check("accepted = ended", f"{len(evidence.accepted)} = {ended} ({by_state})", wrong)


def _recorded_once(evidence: Evidence) -> Check:
    """A step has at most one successful attempt and one event of its end, and no other step has its result."""
    good = Counter(_step(row) for row in evidence.attempts if row["finished_at"] is not None and row["error"] is None)
    wrong = [f"{_said(step)} has {number} results" for step, number in good.items() if number > 1]
    ends = ("subtask_completed", "subtask_failed", "subtask_cancelled")
    told = Counter(_step(row) for row in evidence.events if row["kind"] in ends)
    wrong += [f"{_said(step)} ended {number} times" for step, number in told.items() if number > 1]
    done = Counter(row["job_id"] for row in evidence.events if row["kind"] in [f"job_{state}" for state in ENDED_JOBS])
    wrong += [f"{job_id} ended {number} times" for job_id, number in done.items() if number > 1]
    holders: dict[str, list[str]] = defaultdict(list)
    for row in evidence.steps:
        run_id = _run_id(row)
        if run_id is not None:
            holders[run_id].append(_said(_step(row)))
    wrong += [f"one run gave the result of {' and of '.join(steps)}" for steps in holders.values() if len(steps) > 1]
    return Check("no result recorded twice", f"{len(holders)} results", wrong)


def _stayed(evidence: Evidence) -> Check:
    """The database still holds the end of each job that the API showed."""
    now = {job["job_id"]: job for job in evidence.jobs}
    outputs = {_step(row): (_result(row) or {}).get("output") for row in evidence.steps}
    wrong = []
    for job_id, job in evidence.seen.items():
        row = now.get(job_id)
        if row is None:
            wrong.append(f"{job_id} was seen {job['status']} and is gone")
            continue
        if (job["status"], job["answer"], job["error"]) != (row["state"], row["answer"], row["error"]):
            wrong.append(f"{job_id} was seen {job['status']} and is now {row['state']}, with another answer or error")
        wrong += [
            f"{_said((job_id, step['task_id']))} had another result before"
            for step in job["subtasks"]
            if step["output"] != outputs.get((job_id, step["task_id"]))
        ]
    return Check("an ended job stays as it is", f"{len(evidence.seen)} seen to end", wrong)


def _true_results(evidence: Evidence) -> Check:
    """A recorded result is the one that the skill gave for this step when it had finished."""
    runs = {run.run_id: run for run in evidence.runs}
    wrong = []
    completed = [row for row in evidence.steps if row["state"] == "completed"]
    for row in completed:
        run = runs.get(_run_id(row) or "")
        if run is None:
            wrong.append(f"{_said(_step(row))} completed with the result of no run")
        elif (run.job, run.step) != _step(row) or run.ended is None:
            wrong.append(f"{_said(_step(row))} has the result of {_said((run.job, run.step))}")
    again = len(evidence.runs) - len(completed)
    return Check("results are true", f"{len(evidence.runs)} runs for {len(completed)} results: {again} unused", wrong)


def _order(evidence: Evidence) -> Check:
    """No step runs before the steps that it needs have finished."""
    began, ended = _first_times(evidence.runs)
    wrong = []
    needs = 0
    for row in evidence.steps:
        step = _step(row)
        for name in json.loads(row["depends_on"]):
            needs += 1
            if step in began and began[step] < ended.get((row["job_id"], name), float("inf")):
                wrong.append(f"{_said(step)} began before {name} had finished")
    return Check("no step before those it needs", f"{needs} dependencies", wrong)


def _attempts(evidence: Evidence) -> Check:
    wrong = []
    numbers = [(_step(row), row["number"]) for row in evidence.attempts]
    wrong += [f"{_said(step)} had attempt {number}" for step, number in numbers if number > MAX_ATTEMPTS]
    sent: dict[tuple[str, str], set[str]] = defaultdict(set)
    for run in evidence.runs:
        sent[run.job, run.step].add(run.task_id)
    # One that a worker could not finish for want of its model counts as no attempt.
    spared = Counter(_SPARED.findall(evidence.logs.get(HUB, "")))
    wrong += [
        f"{_said(step)} ran under {len(ids)} task ids"
        for step, ids in sent.items()
        if len(ids) > MAX_ATTEMPTS + spared[step]
    ]
    tally = Counter(number for _, number in numbers)
    count = ", ".join(f"{tally[number]} × {_ORDINALS.get(number, number)}" for number in sorted(tally))
    return Check("no step after its third attempt", count, wrong)


def _failures(evidence: Evidence) -> Check:
    """A job fails only if one of its steps failed in all attempts: nothing else here can't succeed."""
    tried = Counter(_step(row) for row in evidence.attempts)
    failed = [job for job in evidence.jobs if job["state"] in ("failed", "cancelled")]
    steps = defaultdict(list)
    for row in evidence.steps:
        steps[row["job_id"]].append(row)
    wrong = []
    for job in failed:
        lost = [row for row in steps[job["job_id"]] if row["state"] == "failed"]
        if not lost or any(tried[_step(row)] < MAX_ATTEMPTS for row in lost):
            wrong.append(f"{job['job_id']} {job['state']} without three lost attempts: {job['error']}")
    return Check("a job fails only after three attempts", f"{len(failed)} failed", wrong)


def _leases(evidence: Evidence) -> Check:
    ended = {job["job_id"] for job in evidence.jobs if job["state"] in ENDED_JOBS}
    left = [row for row in evidence.steps if row["state"] == "leased" or row["token"] is not None]
    wrong = [f"{_said(_step(row))} is still {row['state']} on {row['worker_id']}" for row in left]
    open_steps = [r for r in evidence.steps if r["job_id"] in ended and r["state"] in ("waiting", "ready")]
    wrong += [f"{_said(_step(row))} is {row['state']} though its job has ended" for row in open_steps]
    return Check("no lease left", f"{len(left)} left", wrong)


def _hub_memory(evidence: Evidence) -> Check:
    peak = evidence.hub_peak_mb
    wrong = [f"it had {peak:.0f} MB, and {MAX_HUB_MB:.0f} are allowed"] if peak > MAX_HUB_MB else []
    return Check("the hub stays small", f"{peak:.0f} MB at most", wrong)


def _orphans(evidence: Evidence) -> Check:
    wrong = [f"process {pid} is left over: {command[:160]}" for pid, command in evidence.orphans]
    return Check("no orphan process", f"{len(evidence.orphans)} left", wrong)


def _defects(evidence: Evidence) -> Check:
    wrong = [f"{job['job_id']}: {job['error']}" for job in evidence.jobs if _DEFECT.search(job["error"] or "")]
    wrong += [f"{name}: {line}" for name, text in evidence.logs.items() for line in _defect_lines(text)]
    return Check("no defect in a log", f"{len(evidence.logs)} logs", wrong)


def _defect_lines(text: str) -> Iterator[str]:
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("Traceback"):
            # The exception itself is the first line after it that is not indented.
            yield next((after for after in lines[number + 1 :] if not after.startswith((" ", "Traceback"))), line)
        elif _DEFECT.search(line):
            yield line


_ORDINALS = {1: "first", 2: "second", 3: "third"}


def _first_times(runs: Sequence[Run]) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], float]]:
    """Return when each step first began, and when it first finished."""
    began: dict[tuple[str, str], float] = {}
    ended: dict[tuple[str, str], float] = {}
    for run in runs:
        step = (run.job, run.step)
        began[step] = min(began.get(step, run.began), run.began)
        if run.ended is not None:
            ended[step] = min(ended.get(step, run.ended), run.ended)
    return began, ended


def _step(row: Row) -> tuple[str, str]:
    return row["job_id"], row["task_id"]


def _said(step: tuple[str, str]) -> str:
    return f"step {step[1]} of {step[0]}"


def _result(row: Row) -> dict[str, Any] | None:
    found: dict[str, Any] | None = None if row["result"] is None else json.loads(row["result"])
    return found


def _run_id(row: Row) -> str | None:
    """Return the id of the run that gave the step's result; None without one."""
    found = _RUN.search(str((_result(row) or {}).get("output", "")))
    return None if found is None else found.group(1)
