"""What the skills really did, in files beside the fleet: so that runs can be told from results."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = "CHAOS_RUNS"
"""The variable that names the folder, one file a worker process."""

MARK = "CHAOS_MARK"
"""The variable that every process of one run has in its environment, by which those left behind are found."""


@dataclass(frozen=True)
class Run:
    """One time that a skill was called.

    Args:
        run_id: of this call; part of the step's result.
        job, step: for which step.
        task_id: the worker's task, one for each attempt.
        began, ended: monotonic seconds of this machine; None where it never came to its end.
    """

    run_id: str
    job: str
    step: str
    task_id: str
    began: float
    ended: float | None = None


def begin(job: str, step: str, task_id: str) -> str:
    """Note that a skill began; the new run's id."""
    run_id = secrets.token_hex(8)
    _append({"run": run_id, "job": job, "step": step, "task": task_id, "began": time.monotonic()})
    return run_id


def end(run_id: str) -> None:
    """Note that a run came to its end."""
    _append({"run": run_id, "ended": time.monotonic()})


def read(folder: Path) -> list[Run]:
    """Every run. A line that a killed worker left half written is left out."""
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
    # One write, so that a kill leaves a whole line or none.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, json.dumps(row).encode() + b"\n")
    finally:
        os.close(descriptor)
