"""What a skill may do beyond the ordinary: its ``SKILL.md`` must ask for it, and the owner must allow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

from pibot.contracts import CommandResult, CommandRunner, ToolContext
from pibot.errors import ToolError

APPROVED_ENVIRONMENT: Mapping[str, str] = {
    # Outside the task's folder: .gitconfig, .curlrc, .sqliterc, .local/lib/python3 and the like are not found there.
    "HOME": "/",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_PARAMETERS": "'core.hooksPath=/dev/null' 'core.fsmonitor=false'",
    "PYTHONNOUSERSITE": "1",
    "PYTHONSAFEPATH": "1",
}
"""What the environment of an approved command has besides: it keeps programs from running what a task may have left.

git reads GIT_CONFIG_PARAMETERS, with which ``git -c`` works, in Debian 11 too; GIT_CONFIG_COUNT came later. Python
reads PYTHONSAFEPATH from 3.11 on.
"""

_BOOLEANS: Mapping[Any, bool] = {True: True, False: False, "true": True, "false": False}
"""In the Agent Skills format the values of ``metadata`` are texts; YAML turns them into booleans."""


@dataclass(frozen=True)
class Policy:
    """What the owner of this machine allows its skills to do.

    Args:
        network_skills: skills whose commands may have the network, if their ``SKILL.md`` asks for it too.
        approve: skills and single tools whose calls need the owner's approval.
    """

    network_skills: frozenset[str] = field(default_factory=frozenset)
    approve: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class SkillRules:
    """What a skill's ``SKILL.md`` asks for.

    Args:
        network: its commands need the network.
        approval: each call of its tools needs the owner's approval.
    """

    network: bool = False
    approval: bool = False


def read_rules(front: Mapping[str, Any]) -> SkillRules:
    """Read ``metadata`` of a ``SKILL.md``'s front matter.

    Raises:
        ValueError: a value is wrong; the message says which.
    """
    metadata = front.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise ValueError("metadata must be names with values")
    network = metadata.get("network", False)
    if not isinstance(network, (bool, str)) or network not in _BOOLEANS:
        raise ValueError(f"metadata: network must be true or false, not {network!r}")
    approval = metadata.get("approval")
    if approval not in (None, "required"):
        raise ValueError(f"metadata: approval must be 'required' or be left out, not {approval!r}")
    return SkillRules(_BOOLEANS[network], approval == "required")


def context_for(
    skill: str, rules: SkillRules, policy: Policy, context: ToolContext, *, approved: bool = False
) -> ToolContext:
    """Return the context for tools of ``skill``: its command runner refuses the network unless it is allowed.

    Args:
        approved: the tools run only calls that the owner has approved.
    """
    refusal = _no_network(skill, rules, policy)
    commands = _ApprovedCommands(context.commands) if approved else context.commands
    return replace(context, commands=_Commands(commands, refusal), network=refusal is None)


def _no_network(skill: str, rules: SkillRules, policy: Policy) -> Optional[str]:
    """Return why the skill's commands may not have the network; None if they may."""
    missing = []
    if not rules.network:
        missing.append("its SKILL.md does not ask for it (metadata: network: true)")
    if skill not in policy.network_skills:
        missing.append("the owner did not allow it (PIBOT_NETWORK_SKILLS on this worker)")
    return f"the skill {skill!r} may not use the network: {' and '.join(missing)}" if missing else None


# docs/decisions.md, D111
class _ApprovedCommands:
    """Runs commands that the owner has approved, so that programs run no files which they find without being told.

    The owner has seen the command, not the files that the task has written before.
    """

    def __init__(self, commands: CommandRunner) -> None:
        self._commands = commands

    async def run(
        self, argv: Sequence[str], *, workspace: Path, timeout: float, stdin: bytes = b"", network: bool = False
    ) -> CommandResult:
        command = ["/usr/bin/env", *(f"{name}={value}" for name, value in APPROVED_ENVIRONMENT.items()), *argv]
        return await self._commands.run(command, workspace=workspace, timeout=timeout, stdin=stdin, network=network)


class _Commands:
    """Runs the commands of one skill, and refuses a command with the network if the skill may not have it."""

    def __init__(self, commands: CommandRunner, refusal: Optional[str]) -> None:
        self._commands = commands
        self._refusal = refusal

    async def run(
        self, argv: Sequence[str], *, workspace: Path, timeout: float, stdin: bytes = b"", network: bool = False
    ) -> CommandResult:
        if network and self._refusal is not None:
            raise ToolError(self._refusal)
        return await self._commands.run(argv, workspace=workspace, timeout=timeout, stdin=stdin, network=network)
