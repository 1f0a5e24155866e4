"""A whole fleet in one process for the hub's tests: the real hub and real workers over HTTP, a scripted model, and
agents that do what a task's description says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

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
from tests.support.scripted_llm import ScriptedLLM
from tests.support.serving import Answer, ask, serving

T = TypeVar("T")

CHECK_EVERY = 0.05


class Gate:
    """What the agents of tasks called ``hold …`` wait for. Works across threads and loops."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._held = threading.Semaphore(0)
        self._ended = False

    def open(self) -> None:
        self._open.set()

    def wait_for_a_task(self) -> None:
        assert self._held.acquire(timeout=20), "no task came to the gate"

    async def pass_through(self) -> None:
        self._held.release()
        while not await asyncio.to_thread(self._open.wait, 0.05):
            pass


class ObedientAgent:
    """Does what the description says: ``fail …`` fails, ``hold …`` waits for the gate, ``ask …`` for the owner's
    approval of the rest as a command, anything else is done."""

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
        return AgentOutcome(TaskState.COMPLETED, output=f"did: {request.description}", usage=usage, steps=1)


@dataclass
class Fleet:
    """The running parts.

    Args:
        port: the hub's.
        service: the hub's.
        llm: what the hub asks for plans.
        gate: what ``hold`` tasks wait for.
        key: the fleet's key, if there is one.
    """

    port: int
    service: HubService
    llm: ScriptedLLM
    gate: Gate
    key: str | None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """One request with the fleet's key; ``_`` in a header's name stands for ``-``."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(self.port, method, path, body, key=self.key, headers=sent)

    def submit(self, description: str, **more: Any) -> str:
        """Submit a job that needs no plan; its id."""
        answer = self.ask("POST", "/task", {"description": description, "skills": [], **more})
        assert answer.status == 202, answer.body
        return str(answer.json()["job_id"])

    def waiting(self, job_id: str) -> Any:
        """The job's call that waits for the owner, once there is one."""
        while True:
            job = self.ask("GET", f"/task/{job_id}").json()["job"]
            if job["waiting_for_approval"]:
                return next(a for a in job["approvals"] if a["status"] == "waiting")

    def result(self, job_id: str) -> Any:
        """The job's result, waited for."""
        answer = self.ask("GET", f"/task/{job_id}/result", Prefer="wait=30")
        assert answer.status == 200, answer.body
        return answer.json()


def plan(*steps: dict[str, Any], **more: Any) -> model.Reply:
    """The scripted model's plan."""
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
    """One step of :func:`plan`."""
    return {"task_id": task_id, "description": description, "depends_on": list(needed)}


def make_skills(directory: Path, names: Sequence[str] = ("shell_exec", "web_fetch")) -> Path:
    """A folder of skills that do nothing."""
    for name in names:
        folder = directory / name
        folder.mkdir(parents=True)
        folder.joinpath("SKILL.md").write_text(f"---\nname: {name}\ndescription: The skill {name}.\n---\nUse it.\n")
        folder.joinpath("tools.py").write_text("from __future__ import annotations\n")
    return directory


def settings_for(tmp_path: Path, llm: ScriptedLLM, **changes: Any) -> Settings:
    """Settings that keep everything below ``tmp_path``."""
    skills = tmp_path / "skills"
    return Settings(
        llm=LLMSettings(api_key=Secret(model.API_KEY), base_url=llm.url, model=model.MODEL, timeout=20.0, retries=0),
        data_dir=tmp_path / "data",
        skills_dir=skills if skills.exists() else make_skills(skills),
        workspace_dir=tmp_path / "workspace",
        soul=Path(__file__).resolve().parents[2] / "soul.md",
        hot_celsius=1000.0,  # this computer is no Pi
        min_memory_mb=0,
    ).replace(**changes)


@contextlib.contextmanager
def worker(worker_id: str, gate: Gate, settings: Settings) -> Iterator[WorkerAddress]:
    """A real worker whose agents are :class:`ObedientAgent`."""
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
    """The real hub; 0 for any free port."""
    service = HubService(settings, check_every=CHECK_EVERY)
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
    """A hub and workers.

    Args:
        workers: how many are made and run.
        more_workers: others that the hub is told of.
        key: the fleet's.
        changes: for the hub's settings.
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
            yield Fleet(port, service, llm, gate, key)
        finally:
            gate.open()
            with ThreadPoolExecutor() as threads:  # at once, because a server takes up to half a second to end
                list(threads.map(contextlib.ExitStack.close, reversed(parts)))
