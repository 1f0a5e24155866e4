"""Planners that need no model."""

from __future__ import annotations

from collections.abc import Sequence

from pibot.contracts import SubTask, TaskComplexity, TaskPlan, TaskResult, Usage


def plan(**needs: tuple[str, ...]) -> TaskPlan:
    steps = tuple(SubTask(name, name, ("shell_exec",), needed) for name, needed in needs.items())
    return TaskPlan(TaskComplexity.COMPLEX, False, steps)


class FakePlanner:
    """Returns the test's plan or raises its error, and answers with a list of the results."""

    def __init__(self, plan: TaskPlan | Exception) -> None:
        self.plan = plan
        self.planned = 0

    async def analyze(self, description: str) -> tuple[TaskPlan, Usage]:
        self.planned += 1
        if isinstance(self.plan, Exception):
            raise self.plan
        return self.plan, Usage(1, 1, 1)

    async def compose(self, description: str, results: Sequence[tuple[SubTask, TaskResult]]) -> tuple[str, Usage]:
        return "; ".join(f"{step.task_id}={result.output or result.error}" for step, result in results), Usage(2, 2, 1)
