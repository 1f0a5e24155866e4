"""Chooses the worker for a task: which workers are fit, which of these comes first, and why none does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from pibot.contracts import NoWorkerKind, NoWorkerReason, WorkerReport, WorkerState
from pibot.master_components.workers.record import WorkerRecord

MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class FitnessLimits:
    """When a worker is unfit and gets no task.

    Args:
        hot: degrees Celsius. A Pi's firmware slows it down from 80 on
            (raspberrypi.com/documentation/computers/raspberry-pi.html, "Frequency management and thermal control").
        memory: bytes that must be available: a task takes about 15 MB in the worker, its commands some more.
    """

    hot: float = 80.0
    memory: int = 60 * MEGABYTE


# The margins keep a worker at a limit from changing state with each report (docs/decisions.md, D35).

COOLER = 5.0
"""Degrees below the limit at which a hot worker is fit again."""

MORE_MEMORY = 20 * MEGABYTE
"""Bytes above the limit at which a worker short of memory is fit again."""

UNTHROTTLED_SECONDS = 30.0
"""Seconds without throttling after which a throttled worker is fit again."""

_THROTTLING = frozenset({"under-voltage", "throttled", "frequency capped"})

MAX_PROBLEM_CHARS = 300
"""Characters of a worker's own problem that are shown."""

MAX_REASONS = 6
"""Workers that a reason for people names; it only counts the others."""


def note_report(worker: WorkerRecord, report: WorkerReport, limits: FitnessLimits, now: float) -> None:
    """Store a worker's report, and decide by it whether the worker is fit and how burdened it is.

    Args:
        now: monotonic seconds.
    """
    worker.report = report
    before, reasons = worker.unfit_reasons, {}
    if report.problem:
        reasons["problem"] = report.problem[:MAX_PROBLEM_CHARS]
    temperature, memory = report.host.temperature, report.host.memory_available
    if temperature is not None and temperature >= limits.hot - (COOLER if "hot" in before else 0.0):
        reasons["hot"] = f"hot: {temperature:.0f} °C"
    if memory is not None and memory < limits.memory + (MORE_MEMORY if "memory" in before else 0):
        reasons["memory"] = f"short of memory: {memory // MEGABYTE} MB available"
    throttling = [name for name in report.host.throttled or () if name in _THROTTLING]
    if throttling:
        worker.throttled_at = now
        reasons["throttled"] = f"throttled by its firmware: {', '.join(throttling)}"
    elif "throttled" in before and now - worker.throttled_at < UNTHROTTLED_SECONDS:
        reasons["throttled"] = before["throttled"]
    worker.unfit_reasons = reasons
    worker.burden = _burden(report, limits)


def _burden(report: WorkerReport, limits: FitnessLimits) -> int:
    """Return how burdened a worker is, in coarse steps, so that similar workers still take turns."""
    host, steps = report.host, 0
    if host.temperature is not None:
        steps += sum(host.temperature >= limits.hot - margin for margin in (15.0, 10.0, 5.0))
    if host.memory_available is not None:
        steps += sum(host.memory_available < limits.memory * times for times in (3.0, 2.0, 1.5))
    if host.load_1m is not None:
        steps += sum(host.load_1m >= (host.processors or 1) * times for times in (1.0, 2.0))
    return steps + ("soft temperature limit" in (host.throttled or ()))


def best(
    workers: Iterable[WorkerRecord], avoid: Collection[str], skills: Collection[str], now: float
) -> WorkerRecord | None:
    """Return the least burdened of these free workers that may run the task now, the first among equals."""
    found: WorkerRecord | None = None
    for worker in workers:
        if worker.address.worker_id in avoid or worker.free_at > now or not worker.suits(skills):
            continue
        if found is None or worker.burden < found.burden:
            found = worker
            if found.burden == 0:
                break
    return found


def has_candidate(workers: Iterable[WorkerRecord], skills: Collection[str], now: float) -> bool:
    """Return whether one of these workers can be expected to run such a task once it is free."""
    return any(
        worker.suits(skills) and worker.state is not WorkerState.OFFLINE and worker.breaker.until <= now
        for worker in workers
    )


def why_none(workers: Sequence[WorkerRecord], skills: Collection[str], now: float) -> NoWorkerReason:
    """Return why no worker runs a task with these skills now."""
    if not workers:
        return NoWorkerReason(NoWorkerKind.NONE_KNOWN, "no worker is known")
    for skill in skills:
        if all(worker.report and worker.report.skills is not None for worker in workers) and not any(
            worker.has((skill,)) for worker in workers
        ):
            return NoWorkerReason(NoWorkerKind.NO_SKILL, f"no worker has the skill {skill!r}")
    obstacles = {worker.address.worker_id: _obstacle(worker, skills, now) for worker in workers}
    if all(obstacle == _BUSY for obstacle in obstacles.values()):
        return NoWorkerReason(NoWorkerKind.ALL_BUSY, "every worker is busy")
    named = [f"{name} is {obstacle}" for name, obstacle in obstacles.items() if obstacle]
    if not named:
        return NoWorkerReason(NoWorkerKind.NEXT, "a worker is free and takes it next")
    more = f"; and {len(named) - MAX_REASONS} more" if len(named) > MAX_REASONS else ""
    return NoWorkerReason(NoWorkerKind.UNAVAILABLE, "; ".join(named[:MAX_REASONS]) + more)


_BUSY = "busy"


def _obstacle(worker: WorkerRecord, skills: Collection[str], now: float) -> str:
    """Return why one worker does not run such a task now; empty where it would."""
    if worker.leaving or worker.drained:
        return "being drained"
    if not worker.has(skills):
        assert worker.report is not None
        lacking = sorted(set(skills) - (worker.report.skills or frozenset()))
        return f"without the skill {', '.join(lacking)}"
    if worker.state is WorkerState.OFFLINE:
        return f"offline ({worker.error})"
    if worker.breaker.until > now:
        until = datetime.fromtimestamp(worker.set_aside_until, timezone.utc)
        return f"set aside until {until:%H:%M:%S} UTC ({worker.breaker.reason})"
    if worker.unfit_reasons:
        return worker.unfit or ""
    return _BUSY if worker.reserved or worker.state is WorkerState.BUSY else ""
