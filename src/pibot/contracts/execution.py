"""How a worker runs a task: agents, tools and commands, and their limits."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pibot.contracts.faults import Fault
from pibot.contracts.model import Usage
from pibot.contracts.tasks import TaskRequest, TaskState


@dataclass(frozen=True)
class CommandResult:
    """The result of a confined command.

    Args:
        exit_code: the program's exit code, or the negative number of the signal that ended it.
        output: stdout and stderr as they were interleaved, decoded, cut to the limit.
        truncated: the output exceeded the limit, and the rest was dropped.
        timed_out: the command and every process that it had started were killed at the deadline.
    """

    exit_code: int
    output: str
    truncated: bool = False
    timed_out: bool = False


class CommandRunner(Protocol):
    """Runs untrusted commands."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        workspace: Path,
        timeout: float,
        stdin: bytes = b"",
        network: bool = False,
    ) -> CommandResult:
        """Run ``argv`` confined to ``workspace`` and wait for it.

        When this returns, raises or is cancelled, no process of the command is left.

        Args:
            argv: the program and its arguments; no shell is added.
            workspace: the only folder that the command can write; also its working directory and its ``HOME``.
            timeout: seconds after which the command is killed.
            stdin: the command's standard input.
            network: whether the command may use the network.

        Raises:
            SandboxUnavailable: the command can't be confined here, so it was not run.
            ToolError: the program could not be started.
        """
        ...


@dataclass(frozen=True)
class ToolContext:
    """What a tool gets besides its arguments. The registry fills in a parameter of this type; the model never sees it.

    Args:
        task_id: the task that called the tool.
        workspace: the task's own folder. It exists, and is deleted with the task.
        commands: runs commands.
        options: the owner's settings for skills, such as ``web_allow``, ``read_paths``; read-only.
        network: whether ``commands`` may give this tool's commands the network. Both its skill's ``SKILL.md`` and the
            owner must allow it.
    """

    task_id: str
    workspace: Path
    commands: CommandRunner
    options: Mapping[str, Any] = field(default_factory=dict)
    network: bool = False


@dataclass(frozen=True)
class Budget:
    """The limits of one task. Each is checked before a model call.

    Args:
        max_steps: model calls; the last one is made without tools.
        max_seconds: wall-clock seconds from the start; the task's timeout.
        max_tokens: tokens of all answers, and of all prompts without what an earlier prompt of the task had already.
        max_output_chars: characters of the final output; the rest is cut, with a note that says so.
    """

    max_steps: int = 30
    max_seconds: float = 300.0
    max_tokens: int = 400_000
    max_output_chars: int = 50_000


@dataclass(frozen=True)
class AgentOutcome:
    """The outcome of an agent's run; the executor makes a :class:`TaskResult` of it.

    Args:
        state: ``COMPLETED``, ``FAILED`` or ``TIMEOUT``.
        output: the summary for a person.
        data: the structured result.
        error: one sentence; None where it succeeded.
        usage: the tokens and model calls.
        steps: how many turns the loop took.
        fault: what kept the worker from doing the task, where that was not the task itself.
        model_rest: seconds after which the model may be asked again, where its provider named them.
        reasoning: what the model thought, for the owner alone; empty where the owner does not want it.
    """

    state: TaskState
    output: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    usage: Usage = field(default_factory=Usage)
    steps: int = 0
    fault: Fault | None = None
    model_rest: float | None = None
    reasoning: str = ""


class Agent(Protocol):
    """Runs one task. Each task gets an agent of its own."""

    def run(self, request: TaskRequest) -> Awaitable[AgentOutcome]:
        """Run the task to its end. Cancelling the awaitable ends the task and everything that it started."""
        ...
