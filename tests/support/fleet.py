"""A fleet for tests, as its owner meets it, and how to run one in the test's own process: the real hub and real workers
over HTTP, a scripted model, and agents that do what a task's description says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from pibot.background import BackgroundLoop
from pibot.contracts import AgentOutcome, TaskRequest, TaskState, Usage, WorkerAddress
from pibot.master_hub import HubService, create_hub_app
from pibot.master_hub.app import hub_threads
from pibot.settings import LLMSettings, Secret, Settings
from pibot.tool_registry import SkillLibrary
from pibot.worker.api import create_worker_app
from pibot.worker.approvals import WorkerApprovals
from pibot.worker_task_executor import TaskExecutor
from tests.support import scripted_llm as model
from tests.support.processes import ROOT, pibot
from tests.support.scripted_llm import ScriptedLLM
from tests.support.serving import Answer, ask, serving
from tests.support.waiting import Changes

if TYPE_CHECKING:
    from tests.support.fleet_processes import Processes

T = TypeVar("T")

POLL_SECONDS = 0.05
"""Seconds between two health polls of the hub in this process."""


class Gate:
    """Holds the agents of the tasks called ``hold …`` until the test opens it. Works across threads and loops."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._held = threading.Semaphore(0)

    def open(self) -> None:
        """Let every task continue, now and later."""
        self._open.set()

    def wait_for_a_task(self) -> None:
        """Wait until an agent is held; each call is for one agent."""
        assert self._held.acquire(timeout=20), "no task came to the gate"

    async def pass_through(self) -> None:
        """Wait until the gate is open."""
        self._held.release()
        while not await asyncio.to_thread(self._open.wait, 0.05):
            pass


class ObedientAgent:
    """Do what the description says: ``fail …`` fails, ``hold …`` waits for the gate, ``ask …`` needs the owner's
    approval of the rest as a command, ``think …`` completes with the rest as its reasoning, anything else completes."""

    def __init__(self, gate: Gate, approvals: WorkerApprovals) -> None:
        self._gate = gate
        self._approvals = approvals

    async def run(self, request: TaskRequest) -> AgentOutcome:
        usage = Usage(10, 5, 1)
        if request.description.startswith("fail"):
            return AgentOutcome(TaskState.FAILED, error="it was told to fail", usage=usage, steps=1)
        if request.description.startswith("ask "):
            asking = self._approvals.for_task(request.task_id)
            decision = await asking.ask("shell_exec", {"command": request.description[len("ask ") :]})
            output = "approved" if decision.approved else f"refused: {decision.reason}"
            return AgentOutcome(TaskState.COMPLETED, output=output, usage=usage, steps=1)
        if request.description.startswith("hold"):
            await self._gate.pass_through()
        if request.description.startswith("think "):
            thought = request.description[len("think ") :]
            return AgentOutcome(TaskState.COMPLETED, output="thought", usage=usage, steps=1, reasoning=thought)
        return AgentOutcome(TaskState.COMPLETED, output=f"did: {request.description}", usage=usage, steps=1)


class Fleet:
    """A running hub with its workers and a scripted model, and the requests that their owner sends.

    :func:`fleet` runs all of it in this process; :func:`tests.support.fleet_processes.process_fleet` gives the hub and
    each worker a process of its own.

    Args:
        port: the hub's, on 127.0.0.1.
        llm: the model of the hub, and of workers that are processes.
        key: the fleet's key, if it has one.
        changes: noted when something has happened that may change the hub's answers.
        service: the hub's parts, if it runs in this process.
        gate: holds the tasks called ``hold …``, if the workers run in this process.
        processes: starts the hub and the workers, if they are processes.
    """

    def __init__(
        self,
        port: int,
        llm: ScriptedLLM,
        key: str | None,
        changes: Changes,
        *,
        service: HubService | None = None,
        gate: Gate | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.port = port
        self.llm = llm
        self.key = key
        self._changes = changes
        self._service = service
        self._gate = gate
        self._processes = processes

    @property
    def service(self) -> HubService:
        assert self._service is not None, "this fleet's hub is a process of its own"
        return self._service

    @property
    def gate(self) -> Gate:
        assert self._gate is not None, "this fleet's workers are processes of their own"
        return self._gate

    @property
    def processes(self) -> Processes:
        assert self._processes is not None, "this fleet runs in the test's own process"
        return self._processes

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Send one request with the fleet's key; ``_`` in a header's name stands for ``-``."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(self.port, method, path, body, key=self.key, headers=sent, timeout=90)

    def pibot(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run the ``pibot`` command against this hub."""
        return pibot(*arguments, url=self.url, key=self.key, stdin=stdin)

    def poll_workers(self) -> None:
        """Have the hub ask each worker for its health now."""
        self.service.loop.run(self.service.health.poll()).result()

    def submit(self, description: str, **more: Any) -> str:
        """Submit a job that needs no plan, and return its id."""
        answer = self.ask("POST", "/task", {"description": description, "skills": [], **more})
        assert answer.status == 202, answer.body
        return str(answer.json()["job_id"])

    def result(self, job_id: str) -> Any:
        """Wait for the job's result, and return it."""
        answer = self.ask("GET", f"/task/{job_id}/result", Prefer="wait=60")
        assert answer.status == 200, answer.body
        return answer.json()

    def job(self, job_id: str) -> dict[str, Any]:
        """Return the job's record."""
        return dict(self.ask("GET", f"/task/{job_id}").json()["job"])

    def workers(self) -> dict[str, dict[str, Any]]:
        """Return the record of each worker, by its id."""
        return {worker["id"]: worker for worker in self.ask("GET", "/workers").json()["workers"]}

    def events(self) -> list[str]:
        """Return the texts of the dashboard's latest events."""
        return [str(event["text"]) for event in self.ask("GET", "/dashboard/data").json()["events"]]

    def until(self, condition: Callable[[], T]) -> T:
        """Wait until ``condition``, which asks the hub or a worker, returns something true, and return that."""
        return self._changes.until(condition)

    def waiting_call(self, job_id: str) -> dict[str, Any]:
        """Wait until a tool call of the job needs the owner's approval, and return its record."""

        def waiting() -> list[dict[str, Any]]:
            return [approval for approval in self.job(job_id)["approvals"] if approval["status"] == "waiting"]

        return self.until(waiting)[0]


def plan(*steps: dict[str, Any], **more: Any) -> model.Reply:
    """Make the scripted model's answer that plans these steps.

    Args:
        more: further fields of the plan.
    """
    subtasks = [{"skills": [], "depends_on": [], **step} for step in steps]
    return model.text(
        json.dumps(
            {
                "complexity": "moderate",
                "handle_locally": False,
                "subtasks": subtasks,
                "reasoning": "It has parts.",
                **more,
            }
        )
    )


def step(task_id: str, description: str, *needed: str) -> dict[str, Any]:
    """Make one step of :func:`plan`, after those that are ``needed``."""
    return {"task_id": task_id, "description": description, "depends_on": list(needed)}


def make_skills(directory: Path, names: Sequence[str] = ("shell_exec", "web_fetch")) -> Path:
    """Make a folder of skills that have no tools, and return it."""
    for name in names:
        folder = directory / name
        folder.mkdir(parents=True)
        folder.joinpath("SKILL.md").write_text(f"---\nname: {name}\ndescription: The skill {name}.\n---\nUse it.\n")
        folder.joinpath("tools.py").write_text("from __future__ import annotations\n")
    return directory


def settings_for(tmp_path: Path, llm: ScriptedLLM, **changes: Any) -> Settings:
    """Make the settings of a hub or worker that keeps everything below ``tmp_path``."""
    skills = tmp_path / "skills"
    return Settings(
        llm=LLMSettings(api_key=Secret(model.API_KEY), base_url=llm.url, model=model.MODEL, timeout=20.0, retries=0),
        data_dir=tmp_path / "data",
        skills_dir=skills if skills.exists() else make_skills(skills),
        workspace_dir=tmp_path / "workspace",
        soul=ROOT / "soul.md",
        hot_celsius=1000.0,  # a desktop may be hotter than a Pi may be
        min_memory_mb=0,
    ).replace(**changes)


@contextlib.contextmanager
def worker(worker_id: str, gate: Gate, settings: Settings) -> Iterator[WorkerAddress]:
    """Run a real worker whose agents are :class:`ObedientAgent`."""
    loop = BackgroundLoop()
    approvals = WorkerApprovals(60.0)
    executor = TaskExecutor(worker_id, lambda _: ObedientAgent(gate, approvals), loop, approvals=approvals)
    app = create_worker_app(executor, SkillLibrary(settings.skills_dir), settings)
    with serving(app) as port:
        yield WorkerAddress(worker_id, "127.0.0.1", port)
        executor.stop(0.0)
    loop.stop()


@contextlib.contextmanager
def hub(settings: Settings, *, port: int = 0) -> Iterator[tuple[HubService, int]]:
    """Run the real hub; 0 stands for any free port."""
    service = HubService(settings, poll_seconds=POLL_SECONDS)
    try:
        with serving(create_hub_app(service, settings), threads=hub_threads(service), port=port) as bound:
            service.start()
            yield service, bound
            service.stop()
    finally:
        service.close()


@contextlib.contextmanager
def fleet(
    tmp_path: Path,
    *,
    workers: int = 2,
    more_workers: Sequence[WorkerAddress] = (),
    key: str | None = None,
    **changes: Any,
) -> Iterator[Fleet]:
    """Run a hub and its workers in this process.

    Args:
        workers: how many workers to run.
        more_workers: further ones that the hub's settings name.
        key: the fleet's.
        changes: of the hub's settings.
    """
    gate = Gate()
    parts: list[contextlib.ExitStack] = []

    def begin(part: contextlib.AbstractContextManager[T]) -> T:
        parts.append(contextlib.ExitStack())
        return parts[-1].enter_context(part)

    with ScriptedLLM() as llm:
        settings = settings_for(tmp_path, llm, api_key=None if key is None else Secret(key))
        try:
            addresses = [begin(worker(f"worker-{n + 1}", gate, settings)) for n in range(workers)]
            settings = replace(settings, workers=(*addresses, *more_workers)).replace(**changes)
            service, port = begin(hub(settings))
            yield Fleet(port, llm, key, Changes(), service=service, gate=gate)
        finally:
            gate.open()
            with ThreadPoolExecutor() as threads:  # in parallel, since each server takes up to half a second to stop
                list(threads.map(contextlib.ExitStack.close, reversed(parts)))
