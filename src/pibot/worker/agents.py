"""Make the agent of each task, with what a worker's tasks need."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional

from pibot.contracts import (
    Agent,
    AgentOutcome,
    Budget,
    CommandRunner,
    Fault,
    LLMClient,
    TaskRequest,
    TaskState,
    ToolContext,
)
from pibot.errors import SettingsError, ToolError
from pibot.settings import Settings
from pibot.tls import client_tls
from pibot.worker.approvals import WorkerApprovals
from pibot.worker.workspace import left_behind, made, workspace_problem

if TYPE_CHECKING:
    from pibot.conversation.windows import ModelWindows
    from pibot.tool_registry import SkillLibrary

log = logging.getLogger("pibot.worker")

Clear = Callable[[Path], Awaitable[None]]


class TaskAgents:
    """Makes an agent for each task, with a workspace, freshly imported skills and a conversation of its own.

    Args:
        library: the skills of this machine.
        commands: runs the skills' commands.
        create_llm: makes the model's client; called on the first task.
        system_prompt: the text of ``worker_soul.md``.
        workspaces: the folder in which each task gets its workspace for as long as it runs.
        budget: the limits of a task; a task's own timeout replaces ``max_seconds``.
        options: the owner's settings for skills.
        clear: removes what another user left in a workspace; None where commands run as this user.
        approvals: keeps the tool calls that wait for the owner's approval.
        worker_id: this worker's name, for the model; None to tell it nothing.
        windows: makes what is known of the model's window; called on the first task.
        show_reasoning: whether results have what the model thought.
    """

    def __init__(
        self,
        library: SkillLibrary,
        commands: CommandRunner,
        create_llm: Callable[[], LLMClient],
        system_prompt: str,
        workspaces: Path,
        budget: Budget,
        options: Mapping[str, Any],
        clear: Optional[Clear] = None,
        approvals: WorkerApprovals | None = None,
        *,
        worker_id: str | None = None,
        windows: Callable[[], ModelWindows] | None = None,
        show_reasoning: bool = False,
    ) -> None:
        self._library = library
        self._commands = commands
        self._create_llm = create_llm
        self._system_prompt = system_prompt
        self._workspaces = workspaces
        self._budget = budget
        self._options = options
        self._clear = clear
        self._approvals = approvals or WorkerApprovals(Settings.approval_seconds)
        self._worker_id = worker_id
        self._know_windows = windows
        self._show_reasoning = show_reasoning
        self._windows: ModelWindows | None = None
        self._llm: LLMClient | None = None

    def __call__(self, request: TaskRequest) -> Agent:
        """Make the agent of ``request``.

        Raises:
            LLMConfigurationError: the model's key or name is missing.
        """
        if self._llm is None:
            self._llm = self._create_llm()
        return _TaskAgent(self, self._llm)

    async def close(self) -> None:
        """Close the model client's connections."""
        if self._llm is not None:
            await self._llm.close()

    async def run(self, request: TaskRequest, llm: LLMClient) -> AgentOutcome:
        """Run one task in a workspace that exists only for it."""
        workspace = self._workspaces / request.task_id
        sick = await self._prepare(workspace)
        if sick is not None:
            return AgentOutcome(TaskState.FAILED, error=sick, fault=Fault.WORKER)
        outcome = await self._run_in(workspace, request, llm)
        if outcome.state is TaskState.FAILED and outcome.fault is None:
            # Its own files are gone by now: what is full now was not filled by this task.
            sick = workspace_problem(self._workspaces)
            if sick is not None:
                return replace(outcome, error=f"{outcome.error}; {sick}", fault=Fault.WORKER)
        return outcome

    async def _prepare(self, workspace: Path) -> str | None:
        """Make a task's workspace; return why it can't be made or written."""
        sick = workspace_problem(self._workspaces)
        if sick is not None:
            return sick
        if left_behind(workspace):
            await self._remove(workspace)
        # Where commands run as another user, the parent folder gives the workspace the group that both users share.
        return made(workspace, 0o700 if self._clear is None else 0o770)

    async def _run_in(self, workspace: Path, request: TaskRequest, llm: LLMClient) -> AgentOutcome:
        from pibot.agent_core import ToolAgent
        from pibot.conversation.briefing import Machine
        from pibot.conversation.windows import ModelWindows
        from pibot.tool_registry.kept_outputs import READERS, KeptOutputs
        from pibot.worker.timed_model import TimedModel

        if self._windows is None:
            self._windows = ModelWindows() if self._know_windows is None else self._know_windows()
        approvals = self._approvals.for_task(request.task_id)
        try:
            context = ToolContext(request.task_id, workspace, self._commands, self._options)
            outputs = KeptOutputs(workspace) if READERS.intersection(request.skills) else None
            tools = self._library.load(request.skills, context, approvals, outputs)
            budget = self._budget if request.timeout is None else replace(self._budget, max_seconds=request.timeout)
            agent = ToolAgent(
                TimedModel(llm, budget.max_seconds, approvals.waited),
                tools,
                self._system_prompt,
                budget,
                approvals,
                machine=Machine(self._worker_id) if self._worker_id else None,
                windows=self._windows,
                outputs=outputs,
                show_reasoning=self._show_reasoning,
            )
            return await agent.run(request)
        finally:
            approvals.close()
            await self._remove(workspace)

    async def _remove(self, folder: Path) -> None:
        """Remove a workspace, whatever its task did to it. What can't be removed is logged and stays."""
        import asyncio

        try:
            shutil.rmtree(folder)
        except (OSError, RecursionError):  # folders nested a thousand deep, or closed ones
            if self._clear is not None:
                try:
                    await self._clear(folder)
                except ToolError as exc:
                    log.warning("workspace_not_cleared folder=%s: %s", folder, exc)
            await asyncio.get_running_loop().run_in_executor(None, _remove_by_force, folder)


class _TaskAgent:
    def __init__(self, agents: TaskAgents, llm: LLMClient) -> None:
        self._agents = agents
        self._llm = llm

    async def run(self, request: TaskRequest) -> AgentOutcome:
        return await self._agents.run(request, self._llm)


def _remove_by_force(folder: Path) -> None:
    import subprocess

    for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
        subprocess.run([*command, "--", str(folder)], stderr=subprocess.DEVNULL, check=False)  # nosec B603 # no shell; the worker's own folder
    if folder.exists():
        log.error("workspace_left folder=%s: it can't be removed", folder)


def create_task_agents(
    settings: Settings, library: SkillLibrary, approvals: WorkerApprovals | None = None
) -> TaskAgents:
    """Make a worker's :class:`TaskAgents` from its settings.

    Raises:
        SettingsError: ``worker_soul.md`` can't be read.
    """

    def create_llm() -> LLMClient:
        from pibot.llm_client import create_llm_client

        # Only the hub is checked against the fleet's CA and shown this worker's certificate; a provider is not.
        return create_llm_client(
            settings.llm, ssl_context=client_tls(settings) if settings.asks_hub_for_model else None
        )

    def windows() -> ModelWindows:
        from pibot.conversation.windows import ModelWindows
        from pibot.llm_client.profiles import for_endpoint

        llm = settings.llm
        known = for_endpoint(llm.base_url, llm.model, llm.profile).window
        return ModelWindows(known, llm.profile.get("window"))

    try:
        soul = settings.worker_soul.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{settings.worker_soul}, the worker's system prompt, can't be read: {exc}") from exc
    commands, clear = _commands(settings)
    return TaskAgents(
        library,
        commands,
        create_llm,
        soul,
        settings.workspace_dir,
        settings.budget,
        {"web_allow": settings.web_allow, "read_paths": settings.read_paths},
        clear,
        approvals,
        worker_id=settings.worker_id,
        windows=windows,
        show_reasoning=settings.show_reasoning,
    )


def _commands(settings: Settings) -> tuple[CommandRunner, Optional[Clear]]:
    """Choose what runs commands: the sandbox service if one is set, else this process."""
    if settings.sandbox != "off" and settings.sandbox_socket is not None:
        from pibot.sandbox.remote import RemoteSandbox

        remote = RemoteSandbox(settings.sandbox_socket, settings.workspace_dir)
        return remote, remote.clear
    from pibot.sandbox import ReadablePath, create_command_runner

    return create_command_runner(settings.sandbox, readable=[ReadablePath(path) for path in settings.read_paths]), None
