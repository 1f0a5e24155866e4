"""What runs a task: commands, tools, agents, and how far they may go."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pibot.contracts.model import Usage
from pibot.contracts.tasks import TaskRequest, TaskState


@dataclass(frozen=True)
class CommandResult:
    """What a confined command came to.

    Args:
        exit_code: the program's; negative for the signal that ended it.
        output: stdout and stderr as they were interleaved, decoded, cut to the limit.
        truncated: output went beyond the limit and the rest was dropped.
        timed_out: it was ended at its deadline, with every process that it had started.
    """

    exit_code: int
    output: str
    truncated: bool = False
    timed_out: bool = False


class CommandRunner(Protocol):
    """Runs a command that nobody vouches for."""

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
            workspace: the one folder that it can write, its working directory and its ``HOME``.
            timeout: seconds until it is ended.
            stdin: what it can read.
            network: whether it may use the network.

        Raises:
            SandboxUnavailable: it cannot be confined here; it was not run.
            ToolError: the program could not be started.
        """
        ...


@dataclass(frozen=True)
class ToolContext:
    """What a tool is handed beside its arguments: a parameter annotated with this type is filled in, never asked
    of the model.

    Args:
        task_id: the task it works for.
        workspace: the task's own folder; it exists, and goes with the task.
        commands: how to run a command.
        options: the owner's settings for skills, such as ``web_allow``, ``read_paths``; read-only.
        network: whether ``commands`` may give the network to this tool's commands: its skill's ``SKILL.md`` and the
            owner both say so.
    """

    task_id: str
    workspace: Path
    commands: CommandRunner
    options: Mapping[str, Any] = field(default_factory=dict)
    network: bool = False


@dataclass(frozen=True)
class Budget:
    """How far one task may go. Each is checked before a model is asked.

    Args:
        max_steps: model calls.
        max_seconds: wall-clock seconds from the start, the task's timeout.
        max_tokens: prompt and completion together, over all calls.
        max_output_chars: characters of the final output; the rest is cut, and said to be.
    """

    max_steps: int = 20
    max_seconds: float = 300.0
    max_tokens: int = 200_000
    max_output_chars: int = 50_000


@dataclass(frozen=True)
class AgentOutcome:
    """What a run of an agent came to; the executor makes a :class:`TaskResult` of it.

    Args:
        state: ``COMPLETED``, ``FAILED`` or ``TIMEOUT``.
        output: the summary for a person.
        data: the structured result.
        error: one sentence where it did not succeed.
        usage: what the model was asked for.
        steps: how many times it was asked.
    """

    state: TaskState
    output: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    usage: Usage = field(default_factory=Usage)
    steps: int = 0


class Agent(Protocol):
    """Runs one task, then is thrown away."""

    def run(self, request: TaskRequest) -> Awaitable[AgentOutcome]:
        """Run the task to its end. Cancelling the awaiting task ends it, with all it had started."""
        ...
