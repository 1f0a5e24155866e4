"""Ask the model for plans and answers.

It imports neither the store nor the workers. Start reading at
:mod:`~pibot.master_components.planner.task_planner`; :mod:`~pibot.master_components.planner.plan_reading` reads the
plans, in the forms in which models write them.
"""

from __future__ import annotations

from pibot.master_components.planner.prompts import (
    BUILT_IN_SKILLS,
    MAX_STEPS,
    PLAN_MARK,
    PLAN_SCHEMA,
    REPLAN_MARK,
    SUMMARY_MARK,
    NamedSkill,
)
from pibot.master_components.planner.results import EARLIER_HEADING, MAX_RESULT_CHARS, with_results
from pibot.master_components.planner.step_reading import MAX_ID_CHARS
from pibot.master_components.planner.task_planner import TaskPlanner

__all__ = [
    "BUILT_IN_SKILLS",
    "EARLIER_HEADING",
    "MAX_ID_CHARS",
    "MAX_RESULT_CHARS",
    "MAX_STEPS",
    "PLAN_MARK",
    "PLAN_SCHEMA",
    "REPLAN_MARK",
    "SUMMARY_MARK",
    "NamedSkill",
    "TaskPlanner",
    "with_results",
]
