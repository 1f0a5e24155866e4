"""The hub's metrics as Prometheus text. Imported on the first scrape, because the client library takes some MB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Callable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pibot import __version__
from pibot.contracts import WorkerState, WorkerStatus

if TYPE_CHECKING:
    from pibot.master_hub.service import HubService


def hub_metrics(hub: HubService) -> bytes:
    """Return the text of one scrape."""
    registry = CollectorRegistry()
    registry.register(_Readings(hub))
    return generate_latest(registry)


class _Readings:
    def __init__(self, hub: HubService) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        hub = self._hub
        build = GaugeMetricFamily("pibot_build_info", "The hub's version and its model.", labels=["version", "model"])
        build.add_metric([__version__, hub.model], 1)
        yield build
        yield GaugeMetricFamily("pibot_uptime_seconds", "Seconds since the hub started.", value=hub.uptime())
        yield from self._jobs()
        yield from self._workers()
        calls = CounterMetricFamily(
            "pibot_gateway_calls", "Model calls that the gateway answered, by HTTP status.", labels=["status"]
        )
        for status, number in sorted(hub.gateway.calls().items()):
            calls.add_metric([str(status)], number)
        yield calls
        yield from self._spending()

    def _spending(self) -> Iterator[Metric]:
        report = self._hub.spending
        by = ["worker", "model"]
        tokens = CounterMetricFamily(
            "pibot_gateway_tokens",
            "Tokens through the gateway since the hub started; worker is the caller, or master for the hub itself.",
            labels=[*by, "kind"],
        )
        asked = CounterMetricFamily(
            "pibot_gateway_completions", "Completions through the gateway since the hub started.", labels=by
        )
        cost = CounterMetricFamily(
            "pibot_gateway_cost", "Cost of completions in PIBOT_CURRENCY, for models with a price.", labels=by
        )
        for row in report.since_start:
            names = [row.caller, row.model]
            tokens.add_metric([*names, "prompt"], row.usage.prompt_tokens)
            tokens.add_metric([*names, "completion"], row.usage.completion_tokens)
            asked.add_metric(names, row.usage.llm_calls)
            if row.cost is not None:
                cost.add_metric(names, row.cost)
        yield from (tokens, asked, cost)
        today = report.today()
        yield GaugeMetricFamily(
            "pibot_tokens_today", "Tokens through the gateway today (UTC).", today.usage.total_tokens
        )
        left = report.left(today)
        if left is not None:
            yield GaugeMetricFamily("pibot_tokens_left_today", "Tokens left of PIBOT_DAY_TOKENS.", left)

    def _jobs(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("pibot_jobs", "Jobs in the store, by state.", labels=["state"])
        for job_state, number in self._hub.store.queries.counts().items():
            jobs.add_metric([job_state.value], number)
        yield jobs
        steps = GaugeMetricFamily("pibot_subtasks", "Steps of jobs that have not ended, by state.", labels=["state"])
        for state, number in self._hub.store.queries.open_steps().items():
            steps.add_metric([state.value], number)
        yield steps
        waiting = len(self._hub.store.approvals.waiting())
        yield GaugeMetricFamily("pibot_approvals_waiting", "Tool calls that wait for approval.", value=waiting)
        used = self._hub.store.used
        tokens = CounterMetricFamily("pibot_tokens", "Tokens of jobs since the hub started, by kind.", labels=["kind"])
        tokens.add_metric(["prompt"], used.prompt_tokens)
        tokens.add_metric(["completion"], used.completion_tokens)
        yield tokens
        yield CounterMetricFamily("pibot_llm_calls", "Model calls of jobs since the hub started.", value=used.llm_calls)

    def _workers(self) -> Iterator[Metric]:
        statuses = self._hub.pool.statuses()
        workers = GaugeMetricFamily("pibot_workers", "Workers that the hub knows, by state.", labels=["state"])
        for state in WorkerState:
            workers.add_metric([state.value], sum(status.state is state for status in statuses))
        yield workers
        up = GaugeMetricFamily("pibot_worker_up", "1 if the worker answered its last health poll.", labels=["worker"])
        for status in statuses:
            up.add_metric([status.address.worker_id], int(status.state is not WorkerState.OFFLINE))
        yield up
        yield from _per_worker(statuses)


def _per_worker(statuses: Sequence[WorkerStatus]) -> Iterator[Metric]:
    """What decides whether a worker gets tasks, as far as the worker has reported it."""
    for name, text, value in _WORKER_GAUGES:
        family = GaugeMetricFamily(f"pibot_worker_{name}", text, labels=["worker"])
        for status in statuses:
            reading = value(status)
            if reading is not None:
                family.add_metric([status.address.worker_id], float(reading))
        yield family


_WORKER_GAUGES: tuple[tuple[str, str, Callable[[WorkerStatus], float | None]], ...] = (
    ("resting", "1 if the worker is unfit (hot, throttled, low memory) and gets no task.", lambda s: bool(s.unfit)),
    ("set_aside", "1 if the worker is set aside because it lost several tasks.", lambda s: bool(s.set_aside_until)),
    (
        "set_aside_until_seconds",
        "Since the epoch, in seconds, when that ends.",
        lambda s: s.set_aside_until,
    ),
    ("draining", "1 if the worker is drained and gets no new task.", lambda s: s.draining),
    (
        "temperature_celsius",
        "Temperature of the worker's processor, as last reported.",
        lambda s: s.report.host.temperature if s.report else None,
    ),
    (
        "memory_available_bytes",
        "Available memory of the worker, as last reported.",
        lambda s: s.report.host.memory_available if s.report else None,
    ),
    (
        "load1",
        "Load average of the worker, as last reported.",
        lambda s: s.report.host.load_1m if s.report else None,
    ),
)
