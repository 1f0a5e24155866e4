"""The worker's metrics as Prometheus text. Imported on the first scrape, since the client library takes some MB."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pibot import __version__
from pibot.contracts import HostReading, TaskState


def worker_metrics(worker_id: str, busy: bool, ended: Mapping[TaskState, int], host: HostReading) -> bytes:
    """Return the text of one scrape.

    Args:
        worker_id: a label of ``pibot_worker_info``.
        busy: whether a task runs.
        ended: how many tasks have ended in each state.
        host: the machine's readings; a reading that is None is left out.
    """
    registry = CollectorRegistry()
    registry.register(_WorkerCollector(worker_id, busy, ended, host))
    return generate_latest(registry)


class _WorkerCollector:
    def __init__(self, worker_id: str, busy: bool, ended: Mapping[TaskState, int], host: HostReading) -> None:
        self._worker_id = worker_id
        self._busy = busy
        self._ended = ended
        self._host = host

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("pibot_worker_info", "The worker and its version.", labels=["worker_id", "version"])
        info.add_metric([self._worker_id, __version__], 1)
        yield info
        yield GaugeMetricFamily("pibot_worker_busy", "1 while a task runs.", value=int(self._busy))
        tasks = CounterMetricFamily("pibot_worker_tasks", "Tasks ended since the start, by status.", labels=["status"])
        for state, number in self._ended.items():
            tasks.add_metric([state.value], number)
        yield tasks
        for name, text, value in (
            ("memory_total_bytes", "The machine's memory.", self._host.memory_total),
            ("memory_available_bytes", "Memory available to a new process.", self._host.memory_available),
            ("process_memory_bytes", "The worker's proportional set size.", self._host.process_memory),
            ("load1", "The load average of the last minute.", self._host.load_1m),
            ("temperature_celsius", "The processor's temperature.", self._host.temperature),
            ("host_uptime_seconds", "Seconds since the machine started.", self._host.uptime),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"pibot_worker_{name}", text, value=value)
