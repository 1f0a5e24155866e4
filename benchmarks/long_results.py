"""Measure a task with twenty long tool results on the shipped worker: its time, and the most memory that it takes."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.calling_model import PAGE, SKILL, TOOLS
from benchmarks.processes import BenchmarkError, Processes
from benchmarks.systems import OURS, ROOT, ModelServer, PibotWorker

CALLS = 20
SIZES = {"20kb": 20_000, "1mb": 1_000_000}
"""Characters of each result, by the end of the row's name."""


class CallingModel(ModelServer):
    """The model of :mod:`benchmarks.calling_model`."""

    module = ("benchmarks.calling_model", "--calls", str(CALLS))


def measure(folder: Path, rounds: int, add: Callable[[str, str, float], None], say: Callable[[str], None]) -> None:
    """Run the tasks, each on a fresh worker.

    Args:
        folder: for the processes' files.
        rounds: how often.
        add: takes a figure: its row, the system, the number.
        say: gets one line for each task.
    """
    skills = folder / "skills"
    (skills / SKILL).mkdir(parents=True)
    (skills / SKILL / "SKILL.md").write_text(PAGE, "utf-8")
    (skills / SKILL / "tools.py").write_text(TOOLS, "utf-8")
    shutil.copytree(ROOT / "skills" / "file_ops", skills / "file_ops")  # so that the worker keeps whole results
    for number in range(rounds):
        for name, size in SIZES.items():
            home = folder / f"long-{number}-{name}"
            home.mkdir()
            with Processes(home) as processes:
                model = CallingModel(home)
                model.start(processes)
                system = PibotWorker(home, model.url, "bench", PIBOT_SKILLS_DIR=str(skills))
                worker, _ = system.start_worker(processes)
                began = time.perf_counter()
                _run(system.ports[0], size)
                taken = time.perf_counter() - began
                most = _most_memory(worker.pid)
            add(f"long_{name}", OURS, taken)
            add(f"long_{name}_memory", OURS, most)
            say(f"{CALLS} results of {size:,} characters: {taken:.2f} s, at most {most:.1f} MiB")


def _run(port: int, size: int) -> None:
    task = {"task_id": "long", "description": f"{size} characters each", "skills": [SKILL, "file_ops"]}
    headers = {"Content-Type": "application/json", "Prefer": "wait=120"}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", "/task", body=json.dumps(task), headers=headers)
        result = json.loads(connection.getresponse().read())
    if result.get("output") != f"{CALLS} results":
        raise BenchmarkError(f"the task with long results failed: {result}")


def _most_memory(pid: int) -> float:
    """Return the most memory (RSS) in MiB that a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise BenchmarkError("this system does not say how much memory a process had at most")
