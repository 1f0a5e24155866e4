"""Draw the jobs and faults of a run, with their times, from a seed. The same seed gives the same schedule."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chaos.lies import LIES

WORKERS = 5
MAX_STEPS = 6

HUB = "hub"
MODEL = "model"
DISK = "disk"
WORKER_NAMES = tuple(f"worker-{number}" for number in range(1, WORKERS + 1))

_STEP_LINE = re.compile(r"- (\w+): (noop|slow)(?: ([\d.]+) s)?(?:, after ([\w ]+))?")
_STEP_TEXT = re.compile(r"Run (noop|slow)(?: for ([\d.]+) s)? as step (\S+) of job (\S+)\.")


@dataclass(frozen=True)
class Step:
    """One step of a job.

    Args:
        name: the step's ``task_id``.
        skill: ``noop`` or ``slow``.
        seconds: how long ``slow`` takes; 0 for ``noop``.
        after: the names of the steps that it depends on.
    """

    name: str
    skill: str
    seconds: float
    after: tuple[str, ...] = ()

    def line(self) -> str:
        """Return the step as a line of its job's description."""
        seconds = f" {self.seconds} s" if self.seconds else ""
        after = f", after {' '.join(self.after)}" if self.after else ""
        return f"- {self.name}: {self.skill}{seconds}{after}"

    def text(self, job_id: str) -> str:
        """Return the step's own description, as a worker gets it."""
        seconds = f" for {self.seconds} s" if self.seconds else ""
        return f"Run {self.skill}{seconds} as step {self.name} of job {job_id}."


@dataclass(frozen=True)
class ChaosJob:
    """One job, and when to submit it.

    Args:
        job_id: chosen by the caller.
        at: seconds after the start.
        steps: one to six.
        planned: whether the planner makes the steps; otherwise the job names its skill and has one step.
    """

    job_id: str
    at: float
    steps: tuple[Step, ...]
    planned: bool

    def body(self) -> dict[str, Any]:
        """Return the body to submit. The description holds everything that the model needs."""
        if not self.planned:
            (step,) = self.steps
            return {"job_id": self.job_id, "description": step.text(self.job_id), "skills": [step.skill]}
        lines = "\n".join(step.line() for step in self.steps)
        return {"job_id": self.job_id, "description": f"Job {self.job_id} has these steps:\n{lines}"}


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        at: seconds after the start.
        kind: one of :data:`KINDS`.
        target: the hub, a worker, the model's link or the disk.
        seconds: its duration; 0 for an instant.
        share: how much of the request or answer passes before the cut.
        lie: one of :data:`chaos.lies.LIES`.
    """

    at: float
    kind: str
    target: str
    seconds: float = 0.0
    share: float = 0.0
    lie: str = ""

    def __str__(self) -> str:
        seconds = f" for {self.seconds} s" if self.seconds else ""
        share = f" after {self.share:.0%}" if self.kind.startswith("cut") else ""
        lie = f": {self.lie}" if self.lie else ""
        return f"{self.at:7.2f} {self.kind} {self.target}{seconds}{share}{lie}"


@dataclass(frozen=True)
class _Kind:
    weight: int
    targets: tuple[str, ...]
    seconds: tuple[float, float] = (0.0, 0.0)


def kinds(lease_seconds: float) -> dict[str, _Kind]:
    """Return the kinds of faults: how often each is drawn, its targets, and its shortest and longest duration."""
    everyone = (*WORKER_NAMES, HUB, MODEL)
    return {
        "kill": _Kind(24, WORKER_NAMES),
        "kill-hub": _Kind(7, (HUB,)),
        "stop": _Kind(14, WORKER_NAMES, (1.0, lease_seconds * 2)),
        "stop-hub": _Kind(4, (HUB,), (0.5, lease_seconds * 1.5)),
        "cut-request": _Kind(16, everyone),
        "cut-answer": _Kind(16, everyone),
        "delay": _Kind(10, WORKER_NAMES, (lease_seconds + 0.5, lease_seconds * 2)),
        "refuse": _Kind(8, everyone, (0.5, 3.0)),
        "disk-full": _Kind(4, (DISK,), (1.5, 4.0)),
        "lie": _Kind(10, WORKER_NAMES, (6.0, 10.0)),  # longer than the 5 s between two health polls
        "sick": _Kind(6, WORKER_NAMES, (3.0, 8.0)),
    }


KINDS = tuple(kinds(1.0))


@dataclass(frozen=True)
class Schedule:
    """The jobs and faults of one run.

    Args:
        seed: the number that it was drawn from.
        seconds: how long faults are applied.
        jobs: by their times.
        faults: by their times.
    """

    seed: int
    seconds: float
    jobs: tuple[ChaosJob, ...]
    faults: tuple[Fault, ...]

    def lines(self) -> Iterator[str]:
        """Return a line for each fault, for people."""
        return (str(fault) for fault in self.faults)


def draw(seed: int, jobs: int, *, seconds: float, lease_seconds: float) -> Schedule:
    """Draw a schedule.

    Args:
        seed: with the same other arguments it gives the same schedule, on every Python.
        jobs: how many.
        seconds: how long to apply faults; jobs come during the first four fifths.
        lease_seconds: the length of a lease; delays and some stops last longer.
    """
    # Two generators, so that another number of jobs does not change the first faults.
    job_random, fault_random = random.Random(f"{seed} jobs"), random.Random(f"{seed} faults")  # nosec B311 # runs must be repeatable, not secret
    times = sorted(round(job_random.uniform(0, seconds * 0.8), 2) for _ in range(jobs))
    drawn = tuple(_job(job_random, f"chaos-{seed}-{number:04}", at) for number, at in enumerate(times, 1))
    return Schedule(seed, seconds, drawn, tuple(_faults(fault_random, seconds, lease_seconds)))


def _job(rng: random.Random, job_id: str, at: float) -> ChaosJob:
    count = rng.randint(1, MAX_STEPS)
    planned = count > 1 or rng.random() < 0.5
    steps: list[Step] = []
    for number in range(count):
        name = "abcdef"[number] if planned else "step-1"
        slow = rng.random() < 0.3
        after = tuple(step.name for step in steps if rng.random() < 0.4)
        steps.append(Step(name, "slow" if slow else "noop", round(rng.uniform(0.2, 2.0), 1) if slow else 0.0, after))
    return ChaosJob(job_id, at, tuple(steps), planned)


def _faults(rng: random.Random, seconds: float, lease_seconds: float) -> Iterator[Fault]:
    known = kinds(lease_seconds)
    each_once = rng.sample(list(known), len(known))
    at = 0.5
    while at < seconds:
        drawn = rng.choices(list(known), [kind.weight for kind in known.values()])[0]
        name = each_once.pop() if each_once else drawn
        kind = known[name]
        # Half of the cuts let nothing pass: the worst case is a whole request without any answer.
        share = round(rng.random(), 2) if rng.random() < 0.5 else 0.0
        lasts = round(rng.uniform(*kind.seconds), 1)
        target = rng.choice(kind.targets)
        lie = rng.choice(list(LIES)) if name == "lie" else ""
        yield Fault(round(at, 2), name, target, lasts, max(share, 0.05 if name == "cut-request" else 0), lie)
        at += rng.uniform(0.3, 1.1)


# --- what the model reads ------------------------------------------------------


def steps_in(description: str) -> list[Step]:
    """Return the steps in a job's description."""
    return [
        Step(name, skill, float(seconds or 0), tuple(after.split()))
        for name, skill, seconds, after in _STEP_LINE.findall(description)
    ]


def job_in(description: str) -> str:
    """Return the job's id from its description."""
    return description.split()[1]


def step_in(description: str) -> tuple[str, Step] | None:
    """Return the job's id and the step from a step's description; None if it is not one."""
    found = _STEP_TEXT.search(description)
    if found is None:
        return None
    skill, seconds, name, job_id = found.groups()
    return job_id, Step(name, skill, float(seconds or 0))
