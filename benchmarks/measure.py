"""The phases of the benchmark. Each starts the processes that it needs, in alternating rounds, and ends them."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import long_results
from benchmarks.processes import BenchmarkError, Memory, Process, Processes
from benchmarks.redis_server import RedisServer
from benchmarks.scale import QUICK_SCALE, Scale, ScaleEffort, round_trips
from benchmarks.systems import OURS, PEERS, Hub, ModelServer, Peer, PeerKind, PibotNoop, PibotWorker, System

WORKERS = 3
CALLERS = 12
WARM_UP = 50
REHEARSAL_MODEL = "pibot-rehearsal-not-an-ai"


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Args:
        rounds: how often to measure each system in the two rows about calls.
        calls: at most this many consecutive calls in a round.
        seconds: at most this long for each of the two measurements in a round.
        starts: how often to start each worker for the rows about memory and readiness.
        settle: seconds to wait before reading memory.
        load_tests: how often to run the guide's load test.
        jobs: durable jobs in a round.
        scale: the effort with other numbers of jobs and workers.
    """

    rounds: int = 5
    calls: int = 500
    seconds: float = 4.0
    starts: int = 7
    settle: float = 1.5
    load_tests: int = 3
    jobs: int = 100
    scale: ScaleEffort = field(default_factory=ScaleEffort)


QUICK = Effort(rounds=2, calls=100, seconds=1.0, starts=2, settle=1.0, load_tests=1, jobs=20, scale=QUICK_SCALE)

Say = Callable[[str], None]


class Figures:
    """The measured figures: for each row and system, one a round."""

    def __init__(self) -> None:
        self._figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, row: str, system: str, figure: float) -> None:
        self._figures[row][system].append(figure)

    def rows(self) -> list[str]:
        """Return the measured rows, in the order of measurement."""
        return list(self._figures)

    def of(self, row: str, system: str) -> list[float]:
        """Return the figures; none if this was not measured."""
        return list(self._figures.get(row, {}).get(system, ()))

    def median(self, row: str, system: str) -> float | None:
        figures = self.of(row, system)
        return statistics.median(figures) if figures else None


class Bench:
    """One run.

    Args:
        folder: for everything that the processes write, on a real disk, since one row measures syncing.
        redis: the peers' broker; None to measure PiBot alone.
        effort: how much to measure.
        say: gets one line for each measurement.
    """

    def __init__(self, folder: Path, redis: RedisServer | None, effort: Effort, say: Say) -> None:
        self._folder = folder
        self._redis = redis
        self._effort = effort
        self._say = say
        self._turns = 0
        self.figures = Figures()

    # --- one call, and many -------------------------------------------------

    def calls(self) -> None:
        """Measure consecutive round trips, then tasks a second with :data:`CALLERS` callers."""
        for number in range(self._effort.rounds):
            for system in self._in_turn(number, lambda: PibotNoop(self._new_folder())):
                with self._processes() as processes:
                    for _ in range(WORKERS):
                        system.start_worker(processes)
                    client = system.start_client(processes)
                    client.calls(WARM_UP, 10.0)
                    taken = client.calls(self._effort.calls, self._effort.seconds)
                    client.load(CALLERS, min(0.5, self._effort.seconds))
                    rate = client.load(CALLERS, self._effort.seconds)
                p50, p95 = statistics.median(taken) * 1e3, percentile(taken, 95) * 1e3
                self.figures.add("p50", system.name, p50)
                self.figures.add("p95", system.name, p95)
                self.figures.add("rate", system.name, rate)
                self._say(f"{system.name}: p50 {p50:.2f} ms, p95 {p95:.2f} ms, {rate:.0f} tasks a second")

    # --- one worker alone ---------------------------------------------------

    def workers(self) -> None:
        """Measure one worker alone: the seconds until it serves, and its memory then and after a task.

        Our task is a real one: it asks a model over HTTP, which calls a tool. A peer's task is the no-op. No caller and
        no model server runs while memory is read, so that as few pages as possible are shared.
        """
        model = ModelServer(self._folder)
        for number in range(-1, self._effort.starts):
            for system in self._in_turn(number, lambda: PibotWorker(self._new_folder(), model.url, REHEARSAL_MODEL)):
                with self._processes() as processes:
                    worker, ready = system.start_worker(processes)
                    if number < 0:
                        continue  # the first start compiles modules and warms the disk cache
                    idle = self._settled(worker)
                    self._one_task(system, model)
                    used = self._settled(worker)
                self.figures.add("ready", system.name, ready)
                for row, memory in (("idle", idle), ("used", used)):
                    self.figures.add(row, system.name, memory.pss)
                    self.figures.add(f"{row}_rss", system.name, memory.rss)
                self._say(
                    f"{system.name}: ready in {ready:.2f} s, PSS {idle.pss:.1f} MiB idle, {used.pss:.1f} after a task"
                )

    def _one_task(self, system: System, model: ModelServer) -> None:
        with self._processes() as processes:
            if isinstance(system, PibotWorker):
                model.start(processes)
                task = {"task_id": "bench", "description": "Sleep for 0.1 seconds", "skills": ["shell_exec"]}
                with contextlib.closing(http.client.HTTPConnection("127.0.0.1", system.ports[0])) as connection:
                    result = _post(connection, task)
                if not result.get("success") or result.get("steps", 0) < 2:
                    raise BenchmarkError(f"the task that uses a tool failed: {result}")
            else:
                system.start_client(processes).calls(1, 10.0)

    def _settled(self, worker: Process) -> Memory:
        time.sleep(self._effort.settle)
        worker.check()
        return worker.memory()

    # --- ours alone -----------------------------------------------------------

    def guide(self) -> None:
        """Run the guide's load test as the first tasks after a start, then again, each time with a new caller."""
        for _ in range(self._effort.load_tests):
            with self._processes() as processes:
                model = ModelServer(self._folder)
                model.start(processes)
                system = PibotWorker(self._new_folder(), model.url, REHEARSAL_MODEL)
                for _ in range(WORKERS):
                    system.start_worker(processes)
                for row in ("guide_first", "guide"):
                    taken = system.start_client(processes).guide()
                    self.figures.add(row, OURS, taken)
                    self._say(f"the guide's load test{' on fresh workers' * (row != 'guide')}: {taken:.3f} s")

    def jobs(self) -> None:
        """Measure consecutive durable jobs of one step through the hub."""
        self.figures.add("fsync", OURS, self._fsync())
        for _ in range(self._effort.rounds):
            with self._processes() as processes:
                system = PibotNoop(self._new_folder())
                for _ in range(WORKERS):
                    system.start_worker(processes)
                hub = Hub(processes, self._folder, system.ports)
                taken = round_trips(hub.port, WARM_UP // 5 + self._effort.jobs)[WARM_UP // 5 :]
            p50, p95 = statistics.median(taken) * 1e3, percentile(taken, 95) * 1e3
            self.figures.add("job_p50", OURS, p50)
            self.figures.add("job_p95", OURS, p95)
            self._say(f"a durable job: p50 {p50:.2f} ms, p95 {p95:.2f} ms")

    def results(self) -> None:
        """Measure tasks with twenty tool results of 20 kB and of 1 MB each."""
        long_results.measure(self._new_folder(), self._effort.load_tests, self.figures.add, self._say)

    def scale(self) -> None:
        """Measure how the figures change with the number of stored jobs and of workers."""
        Scale(self._new_folder(), self._effort.scale, self.figures.add, self._say).run()

    def _fsync(self) -> float:
        """Milliseconds that the disk under the job database takes to sync 4 KiB: what a durable job can't go below."""
        path = self._folder / "fsync"
        taken = []
        with path.open("wb", buffering=0) as file:
            for _ in range(50):
                file.write(b"x" * 4096)
                before = time.perf_counter()
                os.fsync(file.fileno())
                taken.append(time.perf_counter() - before)
        return statistics.median(taken) * 1e3

    # --- the parts ------------------------------------------------------------

    def _in_turn(self, number: int, ours: Callable[[], System]) -> Iterator[System]:
        """The systems, each made when it is its turn; every round begins with another one."""
        makers = [ours]
        if self._redis is not None:
            makers += [functools.partial(self._peer, kind, self._redis) for kind in PEERS]
        first = number % len(makers)
        for make in makers[first:] + makers[:first]:
            yield make()

    def _peer(self, kind: PeerKind, redis: RedisServer) -> System:
        return Peer(kind, redis, self._new_folder())

    def _processes(self) -> Processes:
        return Processes(self._folder)

    def _new_folder(self) -> Path:
        self._turns += 1
        folder = self._folder / f"turn-{self._turns}"
        folder.mkdir()
        return folder


def percentile(figures: Sequence[float], percent: int) -> float:
    """Return the smallest figure that ``percent`` of them do not exceed."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _post(connection: http.client.HTTPConnection, task: dict[str, Any]) -> dict[str, Any]:
    """Submit a task, and wait for its result."""
    headers = {"Content-Type": "application/json", "Prefer": "wait=30"}
    connection.request("POST", "/task", body=json.dumps(task), headers=headers)
    result: dict[str, Any] = json.loads(connection.getresponse().read())
    return result
