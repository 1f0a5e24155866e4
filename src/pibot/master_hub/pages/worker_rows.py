"""Turn what is known of the workers into the rows of the dashboard."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone

from pibot.contracts import JsonObject, WorkerReport, WorkerState, WorkerStatus


def summary(workers: Sequence[WorkerStatus]) -> str:
    """Return the state of the fleet in a few words."""
    online = [w for w in workers if w.state is not WorkerState.OFFLINE]
    busy = sum(w.state is WorkerState.BUSY for w in online)
    if not workers:
        return "no worker known"
    total = f"{len(workers)} worker" + ("s" if len(workers) > 1 else "")
    return f"{len(online)} of {total} online, {f'{busy} busy' if busy else 'none busy'}"


def worker_rows(workers: Iterable[WorkerStatus], active: Sequence[JsonObject]) -> list[JsonObject]:
    """Return a row for each worker.

    Args:
        active: the rows of the running steps, for what each worker runs.
    """
    running = {row["worker"]: row for row in active}
    return [_worker(status, running.get(status.address.worker_id)) for status in workers]


def _worker(status: WorkerStatus, task: Mapping[str, object] | None) -> JsonObject:
    name = status.address.worker_id
    offline = status.state is WorkerState.OFFLINE
    return {
        "id": name,
        "name": name.capitalize() if re.fullmatch(r"worker-\d+", name) else name,
        "address": f"{status.address.host}:{status.address.port}",
        "status": status.state.value,
        "title": task["title"] if task else status.current_task or "",
        "href": task["href"] if task else "",
        "error": status.error or "",
        "note": _why_no_tasks(status),
        "reading": _reading(status.report) if status.report and not offline else "",
        "unconfined": "its commands run without the sandbox" if is_unconfined(status) else "",
        # Only for an offline worker: a time that changes with each health poll would change the page's ETag.
        "last_seen": status.last_seen if offline else None,
    }


def _why_no_tasks(status: WorkerStatus) -> str:
    """Return why a worker that answers gets no task; empty if it gets tasks."""
    reasons = [status.unfit] if status.unfit else []
    if status.set_aside_until is not None:
        reasons.append(f"set aside until {datetime.fromtimestamp(status.set_aside_until, timezone.utc):%H:%M:%S} UTC")
    if status.draining:
        reasons.append("draining")
    return f"no new task: {'; '.join(reasons)}" if reasons else ""


def _reading(report: WorkerReport) -> str:
    """Return a worker's readings, so rounded that they do not change with each health poll."""
    parts = []
    if report.host.temperature is not None:
        parts.append(f"{report.host.temperature:.0f} °C")
    if report.host.memory_available is not None:
        parts.append(f"{round(report.host.memory_available / 1e7) * 10} MB free")
    if report.host.load_1m is not None:
        parts.append(f"load {report.host.load_1m:.0f}")
    return " · ".join(parts)


def is_unconfined(status: WorkerStatus) -> bool:
    """Return whether a worker runs commands without the sandbox."""
    return status.report is not None and status.report.sandbox == "off"
