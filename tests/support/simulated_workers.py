"""Simulate workers in memory behind a network that the test can cut."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Callable

from pibot.contracts import JsonObject, TaskResult, TaskState, WorkerAddress
from pibot.errors import TaskNotFound, WorkerBusy, WorkerNotReached, WorkerRejected, WorkerUnreachable
from pibot.master_components.workers.client import ANSWER_MARGIN
from tests.support.clocks import FakeClock


class Link(Enum):
    """The state of the network to one worker."""

    UP = "up"
    REFUSED = "takes no connection"
    SILENT = "takes connections and says nothing"


class SimulatedWorker:
    """One worker, which runs one task at a time until the test ends it.

    Args:
        name: its id.
        skills: their names.
        clock: seconds.
        started: called with the worker and the body of each task that it starts.

    Attributes:
        cuts: how many of the next answers get lost.
        refusals: how many of the next tasks it refuses.
        elsewhere: whether it runs another hub's task.
        starts: how often it was restarted.
        said: all its results.
    """

    def __init__(
        self,
        name: str,
        skills: frozenset[str],
        clock: FakeClock,
        started: Callable[[SimulatedWorker, JsonObject], None],
    ) -> None:
        self.name = name
        self.skills = skills
        self.link = Link.UP
        self.cuts = self.refusals = self.starts = 0
        self.elsewhere = False
        self.running: str | None = None
        self.said: list[TaskResult] = []
        self._results: dict[str, TaskResult] = {}
        self._clock = clock
        self._up_since = clock.now
        self._started = started
        self._waiting: dict[asyncio.Future[None], None] = {}  # in the order of arrival

    @property
    def address(self) -> WorkerAddress:
        return WorkerAddress(self.name, "127.0.0.1")

    def __repr__(self) -> str:
        return self.name

    # --- what happens to it ---

    def finish(self, state: TaskState) -> None:
        """End its task in this state."""
        assert self.running is not None
        error = None if state is TaskState.COMPLETED else f"it is {state.value}"
        output = f"{self.running} on {self.name}, {len(self.said)}"
        result = TaskResult(self.running, self.name, state, output, error=error)
        self.said.append(result)
        self._results[self.running], self.running = result, None
        self.wake()

    def restart(self) -> None:
        """Forget all tasks, and break the connections."""
        self.starts += 1
        self.running, self.elsewhere, self._results = None, False, {}
        self._up_since = self._clock.now
        self.wake()

    def connect(self, link: Link) -> None:
        """Change the network to this worker."""
        self.link = link
        self.wake()

    def wake(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def change(self, timeout: float) -> None:
        """Wait for a change, for up to ``timeout`` seconds."""
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[changed] = None
        try:
            await asyncio.wait({changed}, timeout=timeout)
        finally:
            del self._waiting[changed]

    def has_result(self, start: str) -> bool:
        """Return whether it has the result of a task whose id starts with ``start``."""
        return any(task_id.startswith(start) for task_id in self._results)

    # --- its API ---

    def handle(self, path: str, body: JsonObject | None) -> tuple[int, JsonObject]:
        path = path.partition("?")[0]
        if path == "/status":
            up = self._clock.now - self._up_since
            task = "others" if self.elsewhere else self.running
            return 200, {"uptime_seconds": up, "current_task": task, "skills": sorted(self.skills)}
        if path == "/task":
            assert body is not None
            self._take(body)
            return self._state_of(str(body["task_id"]))
        task_id, what = path[len("/task/") :].split("/")
        if what == "cancel" and task_id == self.running:
            self.finish(TaskState.CANCELLED)
        return self._state_of(task_id)

    def _take(self, body: JsonObject) -> None:
        task_id = str(body["task_id"])
        if task_id in self._results or task_id == self.running:
            return
        if self.running or self.elsewhere:
            raise WorkerBusy(self.running or "others")
        skills = body.get("skills")
        assert isinstance(skills, list)
        if self.refusals or not set(skills) <= self.skills:
            self.refusals = max(0, self.refusals - 1)
            raise WorkerRejected(self.name, "it will not", status=400)
        self.running = task_id
        self._started(self, body)

    def _state_of(self, task_id: str) -> tuple[int, JsonObject]:
        if task_id in self._results:
            return 200, dict(self._results[task_id].to_json())
        if task_id != self.running:
            raise TaskNotFound(f"no task {task_id!r}")
        return 202, {"task_id": task_id, "status": "running"}


class SimulatedNetwork:
    """Takes the place of the pool's :class:`WorkerClient`."""

    def __init__(self, workers: dict[str, SimulatedWorker]) -> None:
        self._workers = workers

    async def request(
        self,
        address: WorkerAddress,
        method: str,
        path: str,
        body: JsonObject | None = None,
        *,
        wait: float = 0,
        timeout: float = 15.0,
    ) -> tuple[int, JsonObject]:
        worker, now = self._workers[address.worker_id], asyncio.get_running_loop().time
        if worker.link is Link.REFUSED:
            raise WorkerNotReached(worker.name, "no connection")
        starts, answer_by = worker.starts, now() + wait
        given_up = now() + (wait + ANSWER_MARGIN if wait else timeout)
        await asyncio.sleep(0)
        while True:
            link = Link(worker.link)  # it may have changed meanwhile
            if link is Link.REFUSED or worker.starts != starts:
                raise WorkerUnreachable(worker.name, "the connection broke")
            if link is Link.UP:
                status, answer = worker.handle(path, body)
                if worker.cuts and path != "/status":
                    worker.cuts -= 1
                    raise WorkerUnreachable(worker.name, "the connection broke during the answer")
                if status == 200 or now() >= answer_by:
                    return status, answer
                await worker.change(answer_by - now())
            elif now() >= given_up:
                raise WorkerUnreachable(worker.name, "no answer in time")
            else:
                await worker.change(given_up - now())

    async def prove(self, address: WorkerAddress, join: str) -> bool:
        return True

    async def close(self) -> None:
        pass
