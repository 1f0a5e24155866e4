"""What a skill may do beyond what every skill may: its ``SKILL.md`` asks for it, and the owner allows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

from pibot.contracts import CommandResult, CommandRunner, ToolContext
from pibot.errors import ToolError

_BOOLEANS: Mapping[Any, bool] = {True: True, False: False, "true": True, "false": False}
"""The Agent Skills format has texts as the values of ``metadata``; YAML makes booleans of them."""


@dataclass(frozen=True)
class Policy:
    """What the owner of this machine says of its skills.

    Args:
        network_skills: the skills whose commands may have the network, where their ``SKILL.md`` asks for it too.
        approve: the skills, and the single tools, whose calls wait for the owner.
    """

    network_skills: frozenset[str] = field(default_factory=frozenset)
    approve: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class SkillRules:
    """What a skill's ``SKILL.md`` says of it.

    Args:
        network: its commands want the network.
        approval: each call of its tools waits for the owner.
    """

    network: bool = False
    approval: bool = False


def read_rules(front: Mapping[str, Any]) -> SkillRules:
    """Read ``metadata`` of a ``SKILL.md``'s front matter.

    Raises:
        ValueError: something in it does not fit; the text says what.
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


def context_for(skill: str, rules: SkillRules, policy: Policy, context: ToolContext) -> ToolContext:
    """The context that the tools of ``skill`` get."""
    refusal = _no_network(skill, rules, policy)
    return replace(context, commands=_Commands(context.commands, refusal), network=refusal is None)


def _no_network(skill: str, rules: SkillRules, policy: Policy) -> Optional[str]:
    """Why the skill's commands may not have the network; None where they may."""
    missing = []
    if not rules.network:
        missing.append("its SKILL.md does not ask for it (metadata: network: true)")
    if skill not in policy.network_skills:
        missing.append("the owner did not allow it (PIBOT_NETWORK_SKILLS on this worker)")
    return f"the skill {skill!r} may not use the network: {' and '.join(missing)}" if missing else None


class _Commands:
    """Runs commands for one skill, and none with the network where it may not have that."""

    def __init__(self, commands: CommandRunner, refusal: Optional[str]) -> None:
        self._commands = commands
        self._refusal = refusal

    async def run(
        self, argv: Sequence[str], *, workspace: Path, timeout: float, stdin: bytes = b"", network: bool = False
    ) -> CommandResult:
        if network and self._refusal is not None:
            raise ToolError(self._refusal)
        return await self._commands.run(argv, workspace=workspace, timeout=timeout, stdin=stdin, network=network)
