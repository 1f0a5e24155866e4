"""What happens when, drawn from a seed: the jobs with their steps, and the faults. The same seed draws the same."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
        name: its task_id.
        skill: ``noop`` or ``slow``.
        seconds: how long ``slow`` takes; 0 for ``noop``.
        after: the names of the steps that it needs.
    """

    name: str
    skill: str
    seconds: float
    after: tuple[str, ...] = ()

    def line(self) -> str:
        """The step in its job's description."""
        seconds = f" {self.seconds} s" if self.seconds else ""
        after = f", after {' '.join(self.after)}" if self.after else ""
        return f"- {self.name}: {self.skill}{seconds}{after}"

    def text(self, job_id: str) -> str:
        """The step's own description, as a worker gets it."""
        seconds = f" for {self.seconds} s" if self.seconds else ""
        return f"Run {self.skill}{seconds} as step {self.name} of job {job_id}."


@dataclass(frozen=True)
class ChaosJob:
    """One job, and when it is handed in.

    Args:
        job_id: the caller's own name for it.
        at: seconds after the start.
        steps: one to six.
        planned: whether the planner is asked for the steps; else the job names its skill and is one step.
    """

    job_id: str
    at: float
    steps: tuple[Step, ...]
    planned: bool

    def body(self) -> dict[str, Any]:
        """What is posted to the hub. Everything that the model has to know is in the description."""
        if not self.planned:
            (step,) = self.steps
            return {"job_id": self.job_id, "description": step.text(self.job_id), "skills": [step.skill]}
        lines = "\n".join(step.line() for step in self.steps)
        return {"job_id": self.job_id, "description": f"Job {self.job_id} has these steps:\n{lines}"}


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Args:
        at: seconds after the start.
        kind: one of :data:`KINDS`.
        target: the hub, a worker, the model's link or the disk.
        seconds: for how long; 0 where it is over at once.
        share: how much of the request or answer passes before it is cut.
    """

    at: float
    kind: str
    target: str
    seconds: float = 0.0
    share: float = 0.0

    def __str__(self) -> str:
        seconds = f" for {self.seconds} s" if self.seconds else ""
        share = f" after {self.share:.0%}" if self.kind.startswith("cut") else ""
        return f"{self.at:7.2f} {self.kind} {self.target}{seconds}{share}"


@dataclass(frozen=True)
class _Kind:
    weight: int
    targets: tuple[str, ...]
    seconds: tuple[float, float] = (0.0, 0.0)


def kinds(lease_seconds: float) -> dict[str, _Kind]:
    """The kinds of faults: how often each is drawn, whom it hits and for how long."""
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
    }


KINDS = tuple(kinds(1.0))


@dataclass(frozen=True)
class Schedule:
    """One run's plan.

    Args:
        seed: what it was drawn from.
        seconds: until the last fault is over; the fleet is left alone after that.
        jobs: in the order of their coming.
        faults: in their order.
    """

    seed: int
    seconds: float
    jobs: tuple[ChaosJob, ...]
    faults: tuple[Fault, ...]

    def lines(self) -> Iterator[str]:
        """The faults, a line each, for a reader."""
        return (str(fault) for fault in self.faults)


def draw(seed: int, jobs: int, *, seconds: float, lease_seconds: float) -> Schedule:
    """Draw a schedule.

    Args:
        seed: the same one with the same other arguments draws the same schedule, on every Python.
        jobs: how many.
        seconds: how long the faults last; jobs come during the first four fifths.
        lease_seconds: a lease's length; delays and some stops are longer.
    """
    # One generator for each, so that another number of jobs leaves the first faults as they were.
    job_random, fault_random = random.Random(f"{seed} jobs"), random.Random(f"{seed} faults")  # nosec B311 # a run is to be repeatable, not secret
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
        # Half of what is cut off passes nothing: a whole request whose answer never comes is the worst case.
        share = round(rng.random(), 2) if rng.random() < 0.5 else 0.0
        lasts = round(rng.uniform(*kind.seconds), 1)
        yield Fault(
            round(at, 2), name, rng.choice(kind.targets), lasts, max(share, 0.05 if name == "cut-request" else 0)
        )
        at += rng.uniform(0.3, 1.1)


# --- read again by the model ---------------------------------------------------


def steps_in(description: str) -> list[Step]:
    """The steps of a job's description."""
    return [
        Step(name, skill, float(seconds or 0), tuple(after.split()))
        for name, skill, seconds, after in _STEP_LINE.findall(description)
    ]


def job_in(description: str) -> str:
    """The job's id in its description."""
    return description.split()[1]


def step_in(description: str) -> tuple[str, Step] | None:
    """The job's id and the step in a step's description; None where there is none."""
    found = _STEP_TEXT.search(description)
    if found is None:
        return None
    skill, seconds, name, job_id = found.groups()
    return job_id, Step(name, skill, float(seconds or 0))
