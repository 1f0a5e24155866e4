"""Planners that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

from pibot.contracts import SubTask, TaskComplexity, TaskPlan, TaskResult, Usage


def plan(**needs: tuple[str, ...]) -> TaskPlan:
    steps = tuple(SubTask(name, name, ("shell_exec",), needed) for name, needed in needs.items())
    return TaskPlan(TaskComplexity.COMPLEX, False, steps)


Further = Union[TaskPlan, Exception, None]


class FakePlanner:
    """Returns the test's plan or raises its error, and answers with a list of the results.

    Args:
        further: what it says to do instead, one for each time that it is asked.
        missing: what each answer lacks; nothing once they are used up.
    """

    def __init__(
        self, plan: TaskPlan | Exception, further: Sequence[Further] = (), missing: Sequence[str] = ()
    ) -> None:
        self.plan = plan
        self.planned = 0
        self.further = list(further)
        self.missing = list(missing)
        self.replanned: list[tuple[str, dict[str, str | None]]] = []
        self.composed = 0

    async def replan(
        self, description: str, results: Sequence[tuple[SubTask, TaskResult]], missing: str = ""
    ) -> tuple[TaskPlan | None, Usage]:
        self.replanned.append((missing, {step.task_id: result.error or result.output for step, result in results}))
        further = self.further.pop(0)
        if isinstance(further, Exception):
            raise further
        return further, Usage(4, 4, 1)

    async def judge(self, description: str, results: Sequence[tuple[SubTask, TaskResult]]) -> tuple[str, str, Usage]:
        answer, usage = await self.compose(description, results)
        return answer, self.missing.pop(0) if self.missing else "", usage

    async def analyze(self, description: str) -> tuple[TaskPlan, Usage]:
        self.planned += 1
        if isinstance(self.plan, Exception):
            raise self.plan
        return self.plan, Usage(1, 1, 1)

    async def compose(self, description: str, results: Sequence[tuple[SubTask, TaskResult]]) -> tuple[str, Usage]:
        self.composed += 1
        return "; ".join(f"{step.task_id}={result.output or result.error}" for step, result in results), Usage(2, 2, 1)
