"""Tools out of typed functions, and the skills that hold them: only those that a task names are imported."""

from __future__ import annotations

from pibot.tool_registry.library import SkillInfo, SkillLibrary
from pibot.tool_registry.policy import Policy
from pibot.tool_registry.toolbox import Toolbox

__all__ = ["Policy", "SkillInfo", "SkillLibrary", "Toolbox"]
