"""The hub and the workers of a test's fleet as processes of their own, which the test may kill and start again."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.fleet import Fleet
from tests.support.processes import Running, clean_environment, serving_process
from tests.support.scripted_llm import ScriptedLLM
from tests.support.waiting import Changes

LISTENS = r"listen=\S+?:(\d+)"


class Processes:
    """Starts the hub and workers that join it.

    Args:
        directory: each process gets a folder in it.
        environment: of every process.
        hub: further settings of the hub, as variables of its environment.

    Attributes:
        hub: the process that was started last.
        workers: by their ids, those that were started last.
        changes: noted whenever a process prints a line: the hub and the workers log what happens to them.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str], hub: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = clean_environment(**environment)
        self._hub_settings = hub
        self._parts = contextlib.ExitStack()
        self._port = 0
        self.changes = Changes()
        self.workers: dict[str, Running] = {}
        self.hub = self.start_hub()

    def start_hub(self) -> Running:
        """Start the hub; again on the same port if it ran before."""
        self.hub = self._start("hub", ["hub", "--port", str(self._port)], self._hub_settings)
        self._port = self.hub.port
        return self.hub

    def start_worker(self, name: str = "worker-1", **settings: str) -> Running:
        """Start a worker with further settings, and wait until it has joined the hub."""
        own = {"PIBOT_HUB_URL": self.hub.url, "PIBOT_STOP_GRACE": "0.1", **settings}
        worker = self._start(name, ["worker", "--port", "0", "--worker-id", name], own)
        self.workers[name] = worker
        worker.wait_for_line(r" joined hub=")
        return worker

    def close(self) -> None:
        """End everything that still runs."""
        for running in (self.hub, *self.workers.values()):
            running.process.send_signal(signal.SIGCONT)  # a process that is stopped can't end
        self._parts.close()

    def _start(self, name: str, arguments: list[str], settings: Mapping[str, str]) -> Running:
        process = serving_process(
            self._directory / name,
            ["-m", "pibot", *arguments, "--host", "127.0.0.1"],
            {**self._environment, **settings},
            port_pattern=LISTENS,
            printed=self.changes.note,
        )
        return self._parts.enter_context(process)


@contextlib.contextmanager
def process_fleet(
    directory: Path,
    llm: ScriptedLLM,
    key: str,
    *,
    workers: int = 1,
    hub: Mapping[str, str] | None = None,
    **settings: str,
) -> Iterator[Fleet]:
    """Run a hub and workers as processes.

    Args:
        directory: for everything that they write.
        llm: the model of the hub and the workers.
        key: the fleet's.
        workers: how many, called worker-1 and so on.
        hub: settings of the hub alone.
        settings: of the hub and the workers, as variables of their environments.
    """
    environment = llm.environ(PIBOT_API_KEY=key, PIBOT_HOT_CELSIUS="1000", PIBOT_MIN_MEMORY_MB="0")
    processes = Processes(directory, {**environment, **settings}, hub or {})
    try:
        for number in range(1, workers + 1):
            processes.start_worker(f"worker-{number}")
        yield Fleet(processes.hub.port, llm, key, processes.changes, processes=processes)
    finally:
        processes.close()
