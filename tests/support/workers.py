"""Run real workers: the product's API and executor on a real server, with an agent that the test controls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Callable

from pibot.background import BackgroundLoop
from pibot.contracts import AgentOutcome, TaskRequest, TaskState, WorkerAddress
from pibot.settings import Settings
from pibot.tool_registry import SkillLibrary
from pibot.web import Server
from pibot.worker.api import create_worker_app
from pibot.worker_task_executor import TaskExecutor

Behaviour = Callable[[TaskRequest], "AgentOutcome"]


def echo(request: TaskRequest) -> AgentOutcome:
    """Complete at once, with the description as output."""
    return AgentOutcome(TaskState.COMPLETED, output=request.description)


class _Agent:
    def __init__(self, worker: RunningWorker) -> None:
        self._worker = worker

    async def run(self, request: TaskRequest) -> AgentOutcome:
        import asyncio

        self._worker.requests.append(request)
        if request.description.startswith("wait"):
            self._worker.waiting += 1
            try:
                await self._worker.gate.wait()
            except asyncio.CancelledError:
                self._worker.cancelled += 1
                raise
        return self._worker.behaviour(request)


@dataclass
class RunningWorker:
    """A running worker. Its tasks whose description starts with "wait" wait for :meth:`release`.

    Attributes:
        requests: the tasks that its agents have begun.
        waiting: how many tasks have begun to wait.
        cancelled: how many of those were cancelled.
    """

    address: WorkerAddress
    settings: Settings
    behaviour: Behaviour = echo
    requests: list[TaskRequest] = field(default_factory=list)
    waiting: int = 0
    cancelled: int = 0

    def start(self) -> None:
        import asyncio

        self.loop = BackgroundLoop()

        async def make_gate() -> asyncio.Event:
            return asyncio.Event()

        self.gate = self.loop.run(make_gate()).result()
        self.executor = TaskExecutor(self.address.worker_id, lambda request: _Agent(self), self.loop)
        app = create_worker_app(self.executor, SkillLibrary(self.settings.skills_dir), self.settings)
        self.server = Server(app, host="127.0.0.1", port=self.address.port)
        self.server.start()

    def stop(self) -> None:
        """Stop it. :meth:`start` starts it again on the same port, without its tasks, like a reboot."""
        self.executor.stop(0.0)
        self.server.stop()
        self.loop.stop()

    def release(self) -> None:
        """Let the waiting tasks continue."""
        self.loop.call_soon(self.gate.set)


@contextlib.contextmanager
def workers(count: int, settings: Settings | None = None, behaviour: Behaviour = echo) -> Iterator[list[RunningWorker]]:
    """Run workers named worker-1 to worker-``count`` on free ports."""
    running: list[RunningWorker] = []
    try:
        for number in range(1, count + 1):
            with closed_port() as port:
                address = WorkerAddress(f"worker-{number}", "127.0.0.1", port)
            worker = RunningWorker(address, settings or Settings.load({}), behaviour)
            worker.start()
            running.append(worker)
        yield running
    finally:
        for worker in running:
            worker.stop()


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """Reserve a port of 127.0.0.1 on which nothing listens."""
    import socket

    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]
