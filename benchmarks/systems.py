"""Start the workers and callers of each measured system: PiBot and its peers."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.processes import Client, Process, Processes, answers_health, free_port, wait_until
from benchmarks.redis_server import RedisServer

ROOT = Path(__file__).resolve().parent.parent
PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
OURS = "PiBot"


class System(Protocol):
    """A system with workers that run a no-op task, and a caller."""

    name: str

    def start_worker(self, processes: Processes) -> tuple[Process, float]:
        """Start one more worker; return it, and the seconds until it could serve."""
        ...

    def start_client(self, processes: Processes) -> Client:
        """Start a caller of the workers started so far."""
        ...


def environment(folder: Path, **extra: str) -> dict[str, str]:
    """Return an environment without any setting of the user's."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL", "TMPDIR")}
    return {**kept, "HOME": str(folder), "PYTHONPATH": str(ROOT), **extra}


# --- ours -------------------------------------------------------------------


class PibotNoop:
    """The real worker process with an agent that returns at once; see :mod:`benchmarks.noop_worker`."""

    name = OURS

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ports: list[int] = []

    def start_worker(self, processes: Processes) -> tuple[Process, float]:
        return self._start(processes, "benchmarks.noop_worker", environment(self._folder))

    def start_client(self, processes: Processes) -> Client:
        argv = [sys.executable, "-m", "benchmarks.pibot_client", *map(str, self.ports)]
        environ = environment(self._folder)
        return Client(processes.start("pibot-client", argv, environ=environ, directory=self._folder, pipes=True))

    def _start(self, processes: Processes, module: str, environ: Mapping[str, str]) -> tuple[Process, float]:
        port = free_port()
        name = f"worker-{len(self.ports) + 1}"
        folder = self._folder / f"{name}-{port}"
        folder.mkdir()
        argv = [sys.executable, "-m", module, "--port", str(port), "--worker-id", name]
        process = processes.start(f"pibot-{name}", argv, environ=environ, directory=folder)
        ready = wait_until(lambda: answers_health(port), process)
        self.ports.append(port)
        return process, ready


class PibotWorker(PibotNoop):
    """The shipped worker, which asks a model server."""

    def __init__(self, folder: Path, model_url: str, model: str, **more: str) -> None:
        super().__init__(folder)
        self._environ = environment(folder, VOLC_API_KEY="bench", VOLC_BASE_URL=model_url, MODEL_NAME=model, **more)

    def start_worker(self, processes: Processes) -> tuple[Process, float]:
        return self._start(processes, "pibot.worker_task_executor", self._environ)


class ModelServer:
    """The offline model, which can be started and stopped repeatedly at one address."""

    module: tuple[str, ...] = ("pibot", "rehearsal")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def start(self, processes: Processes) -> Process:
        argv = [sys.executable, "-m", *self.module, "--port", str(self.port)]
        process = processes.start("model", argv, environ=environment(self._folder), directory=self._folder)
        wait_until(lambda: answers_health(self.port), process)
        return process


class Hub:
    """The shipped master, with the workers that listen on ``worker_ports``.

    Args:
        database: a job database to start with; an empty one by default.
    """

    def __init__(
        self, processes: Processes, folder: Path, worker_ports: list[int], database: Path | None = None
    ) -> None:
        self.port = free_port()
        addresses = {
            "PIBOT_HOT_CELSIUS": "1000",
            "PIBOT_MIN_MEMORY_MB": "0",
        }  # use the workers however hot this computer is
        for number, port in enumerate(worker_ports, 1):
            addresses[f"WORKER_{number}_IP"] = "127.0.0.1"
            addresses[f"WORKER_{number}_PORT"] = str(port)
        # The jobs name their skills, so nothing asks the model. No limit may refuse or delete a measured job.
        kept = {"PIBOT_MAX_QUEUED": "1000000", "PIBOT_JOBS_KEPT": "1000000", "PIBOT_JOBS_KEPT_DAYS": "3650"}
        kept["PIBOT_SUBMIT_PER_MINUTE"] = "0"
        environ = environment(folder, VOLC_API_KEY="bench", VOLC_BASE_URL="http://127.0.0.1:9/v1", **kept, **addresses)
        argv = [sys.executable, "-m", "pibot", "hub", "--host", "127.0.0.1", "--port", str(self.port)]
        home = folder / f"hub-{self.port}"
        home.mkdir()
        if database is not None:
            (home / "data").mkdir()
            shutil.copyfile(database, home / "data" / "jobs.db")
            good_copy = database.with_name(f"{database.name}.bak")
            if good_copy.exists():  # otherwise the hub would make one during the measurement, as it does once a day
                shutil.copyfile(good_copy, home / "data" / "jobs.db.bak")
        self.process = processes.start("hub", argv, environ=environ, directory=home)
        wait_until(lambda: answers_health(self.port), self.process)


# --- the peers --------------------------------------------------------------


@dataclass(frozen=True)
class PeerKind:
    """A peer.

    Args:
        name: as its documentation writes it.
        package: its distribution.
        module: its application in :mod:`benchmarks.peers`.
        worker: makes the arguments after the interpreter's path from the worker's number and the address of Redis.
        waits_in: the Redis command in which an idle worker waits for work; None if it polls.
        settings: those that are not the defaults, and why.
    """

    name: str
    package: str
    module: str
    worker: Callable[[int, str], list[str]]
    waits_in: str | None
    settings: str


PEERS = (
    PeerKind(
        "Celery",
        "celery",
        "celery",
        lambda number, _url: [
            *("-m", "celery", "-A", "benchmarks.peers.celery_app", "worker", "-n", f"bench{number}@localhost"),
            *("-P", "solo", "-c", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"),
            *("-l", "WARNING"),
        ],
        "brpop",
        "`-P solo` (one process; faster and smaller here than prefork), no gossip, mingle or heartbeat; "
        "Redis as broker and result backend",
    ),
    PeerKind(
        "dramatiq",
        "dramatiq",
        "dramatiq",
        lambda _number, _url: ["-m", "dramatiq", "benchmarks.peers.dramatiq_app", "--processes", "1", "--threads", "1"],
        None,
        "one process with one thread, and its supervisor; Redis broker and result backend",
    ),
    PeerKind(
        "RQ",
        "rq",
        "rq",
        lambda _number, url: ["-m", "rq.cli", "worker", "-u", url, "-w", "rq.worker.SimpleWorker", "--quiet", "bench"],
        "blmove",
        "`SimpleWorker`, which forks no process for a job (about six times as fast, by its notes on performance); "
        "the caller waits on the result's stream",
    ),
    PeerKind(
        "huey",
        "huey",
        "huey",
        lambda _number, _url: [
            *("-m", "huey.bin.huey_consumer", "benchmarks.peers.huey_app.huey", "-w", "1", "-k", "thread", "-q"),
        ],
        "brpop",
        "one thread, `notify_result=True` (its low-latency option; by default a caller polls every 50 ms), quiet",
    ),
)


class Peer:
    """A peer's workers on the private Redis."""

    def __init__(self, kind: PeerKind, redis: RedisServer, folder: Path) -> None:
        self.name = kind.name
        self._kind = kind
        self._redis = redis
        self._environ = environment(folder, BENCH_REDIS_URL=redis.url)
        self._folder = folder
        self._workers = 0
        redis.flush()

    def start_worker(self, processes: Processes) -> tuple[Process, float]:
        self._workers += 1
        argv = [str(PEERS_PYTHON), *self._kind.worker(self._workers, self._redis.url)]
        process = processes.start(
            f"{self._kind.module}-{self._workers}", argv, environ=self._environ, directory=self._folder
        )
        ready = wait_until(lambda: self._serves(process), process, pause=0.005)
        return process, ready

    def _serves(self, process: Process) -> bool:
        if self._kind.waits_in is None:
            return "ready for action" in process.tail()  # as dramatiq logs it
        return self._redis.last_commands()[self._kind.waits_in] >= self._workers

    def start_client(self, processes: Processes) -> Client:
        argv = [str(PEERS_PYTHON), "-m", "benchmarks.peers.client", self._kind.module]
        name = f"{self._kind.module}-client"
        return Client(processes.start(name, argv, environ=self._environ, directory=self._folder, pipes=True))
