"""The skills' own notes of each call, in files, to compare with the results that the hub recorded."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = "CHAOS_RUNS"
"""The environment variable with the folder of the notes. Each worker process writes one file."""

MARK = "CHAOS_MARK"
"""The environment variable that every process of one chaos run has, to find those left over."""


@dataclass(frozen=True)
class Run:
    """One call of a skill.

    Args:
        run_id: unique for the call, and part of the step's result.
        job, step: the step that it was for.
        task_id: the worker's task, one for each attempt.
        began, ended: this machine's monotonic seconds; ``ended`` is None if the call never finished.
    """

    run_id: str
    job: str
    step: str
    task_id: str
    began: float
    ended: float | None = None


def begin(job: str, step: str, task_id: str) -> str:
    """Note that a skill was called, and return the id of the run."""
    run_id = secrets.token_hex(8)
    _append({"run": run_id, "job": job, "step": step, "task": task_id, "began": time.monotonic()})
    return run_id


def end(run_id: str) -> None:
    """Note that a run finished."""
    _append({"run": run_id, "ended": time.monotonic()})


def read(folder: Path) -> list[Run]:
    """Read all runs. Skips a line that a killed worker left unfinished."""
    began: dict[str, Run] = {}
    ended: dict[str, float] = {}
    for line in _lines(folder):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if "ended" in row:
            ended[row["run"]] = row["ended"]
        else:
            began[row["run"]] = Run(row["run"], row["job"], row["step"], row["task"], row["began"])
    return [Run(r.run_id, r.job, r.step, r.task_id, r.began, ended.get(r.run_id)) for r in began.values()]


def _lines(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.jsonl")):
        yield from path.read_text("utf-8").splitlines()


def _append(row: dict[str, object]) -> None:
    path = Path(os.environ[FOLDER]) / f"{os.getpid()}.jsonl"
    # A single write, so that a kill leaves a whole line or none.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, json.dumps(row).encode() + b"\n")
    finally:
        os.close(descriptor)
