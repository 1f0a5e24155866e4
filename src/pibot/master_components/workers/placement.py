"""Which worker gets a task: what rules one out for now, and which of the others comes first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from pibot.contracts import WorkerReport, WorkerState
from pibot.master_components.workers.record import Worker

MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Beyond what a worker gets no task.

    Args:
        hot: degrees Celsius. A Pi's firmware slows it down from 80 on
            (raspberrypi.com/documentation/computers/raspberry-pi.html, "Frequency management and thermal control").
        memory: bytes that must be available: a task takes about 15 MB in the worker, a command of it some more.
    """

    hot: float = 80.0
    memory: int = 60 * MEGABYTE


COOLER = 5.0
"""Degrees below the limit at which a worker counts as cool again, so that it does not go to and fro."""

MORE_MEMORY = 20 * MEGABYTE
"""Bytes above the limit at which a worker counts as having memory again."""

WELL_SECONDS = 30.0
"""Seconds without throttling after which a worker counts as well again."""

_HOLDS_BACK = frozenset({"under-voltage", "throttled", "frequency capped"})


def examine(worker: Worker, report: WorkerReport, limits: Limits, now: float) -> None:
    """Take down what a worker says of itself, and what follows from it.

    Args:
        now: monotonic seconds.
    """
    worker.report = report
    before, now_ill = worker.ailments, {}
    temperature, memory = report.temperature, report.memory_available
    if temperature is not None and temperature >= limits.hot - (COOLER if "hot" in before else 0.0):
        now_ill["hot"] = f"hot: {temperature:.0f} °C"
    if memory is not None and memory < limits.memory + (MORE_MEMORY if "memory" in before else 0):
        now_ill["memory"] = f"short of memory: {memory // MEGABYTE} MB available"
    held = [name for name in report.throttled if name in _HOLDS_BACK]
    if held:
        worker.throttled_at = now
        now_ill["throttled"] = f"held back by its firmware: {', '.join(held)}"
    elif "throttled" in before and now - worker.throttled_at < WELL_SECONDS:
        now_ill["throttled"] = before["throttled"]
    worker.ailments = now_ill
    worker.burden = _burden(report, limits)


def _burden(report: WorkerReport, limits: Limits) -> int:
    """How much speaks for another worker, in coarse steps, so that equal ones still take turns."""
    steps = 0
    if report.temperature is not None:
        steps += sum(report.temperature >= limits.hot - margin for margin in (15.0, 10.0, 5.0))
    if report.memory_available is not None:
        steps += sum(report.memory_available < limits.memory * times for times in (3.0, 2.0, 1.5))
    if report.load_1m is not None:
        steps += sum(report.load_1m >= (report.processors or 1) * times for times in (1.0, 2.0))
    return steps + ("soft temperature limit" in report.throttled)


def best(workers: Iterable[Worker], avoid: Collection[str], skills: Collection[str], now: float) -> Worker | None:
    """The free worker with the least burden that may have a task now; the first among equals."""
    found: Worker | None = None
    for worker in workers:
        if worker.address.worker_id in avoid or worker.free_at > now or not worker.suits(skills):
            continue
        if found is None or worker.burden < found.burden:
            found = worker
            if found.burden == 0:
                break
    return found


def hopeful(workers: Iterable[Worker], skills: Collection[str], now: float) -> bool:
    """Whether one of these can be expected to take such a task soon."""
    return any(
        worker.suits(skills) and worker.state is not WorkerState.OFFLINE and worker.breaker.until <= now
        for worker in workers
    )


def why_none(workers: Sequence[Worker], skills: Collection[str], now: float) -> str:
    """Why no worker takes a task with these skills now, for people."""
    if not workers:
        return "no worker is known"
    for skill in skills:
        if all(worker.report and worker.report.skills is not None for worker in workers) and not any(
            worker.has((skill,)) for worker in workers
        ):
            return f"no worker has the skill {skill!r}"
    reasons = {worker.address.worker_id: _why_not(worker, skills, now) for worker in workers}
    if all(reason == "busy" for reason in reasons.values()):
        return "every worker is busy"
    shown = [f"{name} is {reason}" for name, reason in reasons.items() if reason]
    more = f"; and {len(shown) - 6} more" if len(shown) > 6 else ""
    return "; ".join(shown[:6]) + more or "a worker is free: its turn is next"


def _why_not(worker: Worker, skills: Collection[str], now: float) -> str:
    """Why one worker does not take such a task; empty where it would."""
    if worker.leaving or worker.drained:
        return "being drained"
    if not worker.has(skills):
        assert worker.report is not None
        lacking = sorted(set(skills) - (worker.report.skills or frozenset()))
        return f"without the skill {', '.join(lacking)}"
    if worker.state is WorkerState.OFFLINE:
        return f"offline ({worker.error})"
    if worker.breaker.until > now:
        return f"set aside for {worker.breaker.until - now:.0f} s ({worker.breaker.reason})"
    if worker.ailments:
        return worker.resting or ""
    return "busy" if worker.reserved or worker.state is WorkerState.BUSY else ""
