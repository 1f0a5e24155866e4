"""The master's parts: the planner, and the rooms ``store``, ``workers`` and ``dispatch``.

The names below are those that the guide's scripts import. Start reading at
:mod:`pibot.master_components.dispatch.dispatcher`.
"""

from __future__ import annotations

from pibot.contracts import SubTask, TaskComplexity, TaskPlan
from pibot.master_components.dispatch.dispatcher import Dispatcher
from pibot.master_components.planner import TaskPlanner
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.workers.guide import GuidePool as WorkerPool
from pibot.master_components.workers.guide import create_default_worker_pool

__all__ = [
    "Dispatcher",
    "JobStore",
    "SubTask",
    "TaskComplexity",
    "TaskPlan",
    "TaskPlanner",
    "WorkerPool",
    "create_default_worker_pool",
]
