"""The types that cross a boundary between parts or machines: frozen dataclasses, enums and protocols.

A type that travels as JSON has ``to_json`` and ``from_json``, and both ends use them. Where the docstring of
``from_json`` does not call it lenient, it raises :class:`~pibot.errors.ContractError`, or for a caller's input
:class:`~pibot.errors.InvalidRequest`, and names the invalid field.
"""

from __future__ import annotations

from pibot.contracts.access import (
    Caller,
    Scope,
)
from pibot.contracts.addresses import WorkerAddress
from pibot.contracts.approvals import (
    ApprovalRequest,
    Decision,
    PendingCalls,
    digest_of,
)
from pibot.contracts.basics import (
    Clock,
    JsonObject,
    bounded_int,
)
from pibot.contracts.execution import (
    Agent,
    AgentOutcome,
    Budget,
    CommandResult,
    CommandRunner,
    ToolContext,
)
from pibot.contracts.faults import Fault, fault_of, rest_of
from pibot.contracts.model import (
    Completion,
    LLMClient,
    Message,
    ToolCall,
    ToolResult,
    ToolSpec,
    Usage,
)
from pibot.contracts.plans import SubTask, TaskComplexity, TaskPlan
from pibot.contracts.refusals import Refusal
from pibot.contracts.tasks import (
    TaskRequest,
    TaskResult,
    TaskResultDict,
    TaskState,
    UnfinishedTask,
)
from pibot.contracts.validation import (
    MAX_DESCRIPTION_CHARS,
    MAX_SKILLS_PER_TASK,
    MAX_TASK_TIMEOUT,
    valid_description,
    valid_id,
    valid_skills,
    valid_timeout,
)
from pibot.contracts.workers import (
    HostReading,
    NoWorkerKind,
    NoWorkerReason,
    WorkerHealth,
    WorkerReport,
    WorkerState,
    WorkerStatus,
)

__all__ = [
    "MAX_DESCRIPTION_CHARS",
    "MAX_SKILLS_PER_TASK",
    "MAX_TASK_TIMEOUT",
    "Agent",
    "AgentOutcome",
    "ApprovalRequest",
    "Budget",
    "Caller",
    "Clock",
    "CommandResult",
    "CommandRunner",
    "Completion",
    "Decision",
    "Fault",
    "HostReading",
    "JsonObject",
    "LLMClient",
    "Message",
    "NoWorkerKind",
    "NoWorkerReason",
    "PendingCalls",
    "Refusal",
    "Scope",
    "SubTask",
    "TaskComplexity",
    "TaskPlan",
    "TaskRequest",
    "TaskResult",
    "TaskResultDict",
    "TaskState",
    "ToolCall",
    "ToolContext",
    "ToolResult",
    "ToolSpec",
    "UnfinishedTask",
    "Usage",
    "WorkerAddress",
    "WorkerHealth",
    "WorkerReport",
    "WorkerState",
    "WorkerStatus",
    "bounded_int",
    "digest_of",
    "fault_of",
    "rest_of",
    "valid_description",
    "valid_id",
    "valid_skills",
    "valid_timeout",
]
