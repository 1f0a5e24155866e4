"""Plans and their steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from pibot.contracts.basics import JsonObject
from pibot.contracts.tasks import TaskRequest
from pibot.contracts.validation import valid_description, valid_id, valid_skills, valid_timeout
from pibot.errors import InvalidRequest


class TaskComplexity(Enum):
    """How much work the planner expects of a job."""

    SIMPLE = "simple"
    MODERATE = "moderate"
    COMPLEX = "complex"


@dataclass(frozen=True)
class SubTask:
    """One step of a plan, which one worker runs.

    Args:
        task_id: the step's id, unique within its plan.
        description: what to do, in words.
        skills: the only skills that the step may use.
        depends_on: the ``task_id`` of each step whose result it needs.
        timeout: seconds; None for the worker's own default.
    """

    task_id: str
    description: str
    skills: Sequence[str] = ()
    depends_on: Sequence[str] = ()
    timeout: float | None = None

    def to_json(self) -> JsonObject:
        return {
            "task_id": self.task_id,
            "description": self.description,
            "skills": list(self.skills),
            "depends_on": list(self.depends_on),
            "timeout": self.timeout,
        }

    def to_request(self, task_id: str) -> TaskRequest:
        """Make the task that runs this step on a worker.

        Args:
            task_id: the task's id on the worker. The step's own id is unique only within its plan.
        """
        return TaskRequest(task_id, self.description, tuple(self.skills), self.timeout)

    @classmethod
    def from_json(cls, data: object) -> SubTask:
        """Read one step of a plan, from a model, a caller or the store.

        Raises:
            InvalidRequest: a field is invalid; it is named.
        """
        if not isinstance(data, dict):
            raise InvalidRequest("each subtask must be a JSON object", field="subtasks")
        depends_on = data.get("depends_on") or []
        if not isinstance(depends_on, (list, tuple)):
            raise InvalidRequest("depends_on must be a list of task_ids", field="depends_on")
        return cls(
            task_id=valid_id(data.get("task_id"), "task_id"),
            description=valid_description(data.get("description")),
            skills=valid_skills(data.get("skills") or []),
            depends_on=tuple(dict.fromkeys(valid_id(d, "depends_on") for d in depends_on)),
            timeout=valid_timeout(data.get("timeout")),
        )


@dataclass(frozen=True)
class TaskPlan:
    """The plan of a job.

    Args:
        complexity: how much work the planner expects.
        handle_locally: the master answers the job itself, with ``answer``, and there are no steps.
        subtasks: the steps, a directed acyclic graph by their ``depends_on``.
        answer: the master's own answer, if it handles the job locally.
        reasoning: one sentence on why the plan is so, for the dashboard.
        note: what the owner should know about the planning, such as that the model's plan was unusable.
    """

    complexity: TaskComplexity
    handle_locally: bool
    subtasks: Sequence[SubTask] = ()
    answer: str | None = None
    reasoning: str = ""
    note: str = ""

    def to_json(self) -> JsonObject:
        return {
            "complexity": self.complexity.value,
            "handle_locally": self.handle_locally,
            "subtasks": [s.to_json() for s in self.subtasks],
            "answer": self.answer,
            "reasoning": self.reasoning,
            "note": self.note,
        }

    @classmethod
    def from_json(cls, data: JsonObject) -> TaskPlan:
        """Read a plan from the store. The planner itself reads the plan that a model wrote."""
        return cls(
            complexity=TaskComplexity(data["complexity"]),
            handle_locally=bool(data["handle_locally"]),
            subtasks=tuple(SubTask.from_json(s) for s in data["subtasks"]),
            answer=data.get("answer"),
            reasoning=data.get("reasoning", ""),
            note=data.get("note", ""),
        )
