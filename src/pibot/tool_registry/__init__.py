"""The skills of a machine, and their typed functions as tools for a model. A task imports only the skills it names.

Start reading at :mod:`pibot.tool_registry.library`.
"""

from __future__ import annotations

from pibot.tool_registry.library import SkillInfo, SkillLibrary
from pibot.tool_registry.policy import Policy
from pibot.tool_registry.toolbox import Toolbox

__all__ = ["Policy", "SkillInfo", "SkillLibrary", "Toolbox"]
