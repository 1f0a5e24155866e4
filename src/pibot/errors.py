"""The exceptions that PiBot raises on purpose, with one root.

A message says what is wrong, where, and what to do about it. It never holds a key.
"""

from __future__ import annotations


class PibotError(Exception):
    """The root of all exceptions that PiBot raises on purpose."""


class SettingsError(PibotError):
    """A setting is missing or wrong; the message names the variable to change."""


class InvalidRequest(PibotError):
    """A caller's request is malformed; the message names the field."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class OutOfScope(PibotError):
    """The caller's key does not have the scope that the request needs."""


class WrongFormToken(PibotError):
    """A form does not carry the token of a page that this caller loaded."""


class TooManyRequests(PibotError):
    """The caller sends requests too often; the message names the limit."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ContractError(PibotError):
    """JSON from another part of the fleet does not have the agreed form."""


# --- skills and tools -------------------------------------------------------


class SkillError(PibotError):
    """A skill is unusable: no SKILL.md, a malformed front matter, a tools.py that fails."""


class UnknownSkill(SkillError):
    """A task names a skill that this machine does not have."""

    def __init__(self, name: str, available: tuple[str, ...]) -> None:
        there_are = ", ".join(available) or "none"
        super().__init__(f"unknown skill {name!r}; the skills here are: {there_are}")
        self.name = name
        self.available = available


class ToolError(PibotError):
    """A tool could not do what the model asked. The message goes to the model, which may try something else."""


class SandboxUnavailable(ToolError):
    """This machine can't confine commands, so none is run."""


# --- the model --------------------------------------------------------------


class LLMError(PibotError):
    """A model call failed."""


class LLMConfigurationError(LLMError, SettingsError):
    """The model's key, address or name is missing or a placeholder; the message says where to set it."""


class LLMRejected(LLMError):
    """The model's server refused the request, and would again: a wrong key, an unknown model, a bad request."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class LLMTooLong(LLMRejected):
    """The model's server refused a prompt because it is longer than the model's window.

    Args:
        window: the window in tokens, if the server named it.
        sent: the prompt's tokens as the server counted them, if it named them.
    """

    def __init__(self, message: str, *, status: int, window: int | None = None, sent: int | None = None) -> None:
        super().__init__(message, status=status)
        self.window = window
        self.sent = sent


class LLMUnpaid(LLMRejected):
    """The account at the model's provider has no balance or quota left; the message says what to do about it."""


class LLMUnavailable(LLMError):
    """The model's server could not be reached, or failed until the retries were used up."""


class LLMUnreachable(LLMUnavailable):
    """No connection to the model's server could be made from this machine."""


class LLMAway(LLMUnavailable):
    """The model's provider is away or overloaded, as itself or the fleet's gateway says; it may answer later.

    Attributes:
        rest: seconds after which it wants to be asked again; None where it names no time.
    """

    rest: float | None = None


class LLMProtocolError(LLMError):
    """The model's server answered with something other than a chat completion."""


# --- the worker -------------------------------------------------------------


class WorkerBusy(PibotError):
    """The worker runs another task; try again when that has ended."""

    def __init__(self, current_task: str | None) -> None:
        super().__init__(f"busy with task {current_task!r}")
        self.current_task = current_task


class TaskConflict(PibotError):
    """A task's id arrived again with another body."""


class TaskNotFound(PibotError):
    """This worker does not know a task with that id, or has dropped its result to make room."""


class ShuttingDown(PibotError):
    """The process is stopping and accepts no new work."""


# --- approvals --------------------------------------------------------------


class ApprovalNotFound(PibotError):
    """No tool call with that id waits or waited for approval."""


class ApprovalConflict(PibotError):
    """The tool call differs from the one that the owner saw, or has the opposite decision already."""


class ApprovalOver(PibotError):
    """The tool call does not wait any more: its task or its time has ended."""


# --- the master's view of its workers --------------------------------------


class WorkerError(PibotError):
    """A request of the master to a worker failed."""

    def __init__(self, worker_id: str, problem: str) -> None:
        super().__init__(f"{worker_id}: {problem}")
        self.worker_id = worker_id
        self.problem = problem


class WorkerUnreachable(WorkerError):
    """The worker did not answer, or the connection broke before the whole answer had arrived."""


class WorkerNotReached(WorkerUnreachable):
    """No connection to the worker could be made, so the worker got nothing of the request."""


class ImpossibleAnswer(WorkerUnreachable):
    """The worker's answer arrived and can't be right: it is too long, no JSON, or what no worker says."""


class WorkerRejected(WorkerError):
    """The worker refused the task, and would again: a wrong key, an unknown skill, a malformed field."""

    def __init__(self, worker_id: str, problem: str, *, status: int | None = None) -> None:
        super().__init__(worker_id, problem)
        self.status = status


class UnknownWorker(PibotError):
    """The hub knows no worker with that id."""


class WorkerConflict(PibotError):
    """Another worker has that id already."""


class AddressNotProven(PibotError):
    """A worker registered an address that did not show that it knows the worker's token."""


class NoWorkers(PibotError):
    """The pool has no worker."""


class PlanError(PibotError):
    """The model's plan does not match the schema. The message goes to the model once, for a second try."""


# --- the job store ----------------------------------------------------------


class StoreError(PibotError):
    """An operation of the job database failed."""


class StoreUnwritable(StoreError):
    """The job database can't be written now, as with a full disk. Nothing was written; the call may succeed later."""


class StoreUnreadable(StoreError):
    """The job database can't be read now, as after a disk error; the call may succeed later."""


class QueueFull(StoreError):
    """Too many jobs have not ended, so no more are accepted for now."""

    retry_after = 30
    """Seconds after which another try makes sense."""


class JobNotFound(StoreError):
    """There is no job with that id."""


class LeaseLost(StoreError):
    """The token is no longer the lease's: the step was leased again, finished or cancelled."""


class IllegalTransition(StoreError):
    """A job or a step can't go from its state to the requested one."""
