"""Every exception that PiBot raises on purpose. One root, one sentence a class.

A message says what was wrong, where, and what to do about it; it never holds a key.
"""

from __future__ import annotations


class PibotError(Exception):
    """The root: catch this to catch everything that PiBot raises on purpose."""


class SettingsError(PibotError):
    """A setting is missing or wrong; the message names the variable to change."""


class InvalidRequest(PibotError):
    """A caller sent something that does not fit; the message names the field."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class OutOfScope(PibotError):
    """The caller's key is not good for what was asked."""


class WrongFormToken(PibotError):
    """A form does not carry the token of a page that this caller loaded."""


class TooManyRequests(PibotError):
    """The caller asks too often; the message says how often it may."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ContractError(PibotError):
    """A peer's JSON does not have the agreed form."""


# --- skills and tools -------------------------------------------------------


class SkillError(PibotError):
    """A skill's folder is not usable: no SKILL.md, a broken front matter, a tools.py that fails."""


class UnknownSkill(SkillError):
    """A task names a skill that this machine does not have."""

    def __init__(self, name: str, available: tuple[str, ...]) -> None:
        there_are = ", ".join(available) or "none"
        super().__init__(f"unknown skill {name!r}; the skills here are: {there_are}")
        self.name = name
        self.available = available


class ToolError(PibotError):
    """A tool could not do what was asked; the text goes back to the model, which may try otherwise."""


class SandboxUnavailable(ToolError):
    """Commands cannot be confined on this machine, so they are not run at all."""


# --- the model --------------------------------------------------------------


class LLMError(PibotError):
    """A chat completion could not be had."""


class LLMConfigurationError(LLMError, SettingsError):
    """The model's key, address or name is missing or a placeholder; the message says where to put it."""


class LLMRejected(LLMError):
    """The model's server refused the request for good: a wrong key, an unknown model, a bad request."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class LLMUnavailable(LLMError):
    """The model's server could not be reached, or kept failing until the retries were used up."""


class LLMProtocolError(LLMError):
    """The model's server answered with something that is no chat completion."""


# --- the worker -------------------------------------------------------------


class WorkerBusy(PibotError):
    """The worker runs another task; ask again when it has ended."""

    def __init__(self, current_task: str | None) -> None:
        super().__init__(f"busy with task {current_task!r}")
        self.current_task = current_task


class TaskConflict(PibotError):
    """The same task id came again with another body."""


class TaskNotFound(PibotError):
    """No task of that id is known here, or its result was dropped to make room."""


class ShuttingDown(PibotError):
    """The process is stopping and takes no new work."""


# --- a call that waits for the owner ----------------------------------------


class ApprovalNotFound(PibotError):
    """No call of that id waits or waited."""


class ApprovalConflict(PibotError):
    """The call is another than the one that was shown, or it was decided otherwise before."""


class ApprovalOver(PibotError):
    """The call does not wait any more: its task or its time has ended."""


# --- the master's view of its workers --------------------------------------


class WorkerError(PibotError):
    """Something between the master and one worker went wrong."""

    def __init__(self, worker_id: str, problem: str) -> None:
        super().__init__(f"{worker_id}: {problem}")
        self.worker_id = worker_id
        self.problem = problem


class WorkerUnreachable(WorkerError):
    """The worker did not answer at all, or the connection broke before its answer was whole."""


class WorkerNotReached(WorkerUnreachable):
    """No connection to the worker came about, so nothing of the request got there."""


class WorkerRejected(WorkerError):
    """The worker refused the task for good (a wrong key, an unknown skill, a malformed field)."""

    def __init__(self, worker_id: str, problem: str, *, status: int | None = None) -> None:
        super().__init__(worker_id, problem)
        self.status = status


class UnknownWorker(PibotError):
    """The hub knows no worker of that id."""


class WorkerConflict(PibotError):
    """Another worker goes by that id already."""


class NoWorkers(PibotError):
    """The pool knows no worker at all."""


class PlanError(PibotError):
    """What the model gave as a plan does not fit the schema; the text is shown to the model once."""


# --- the job store ----------------------------------------------------------


class StoreError(PibotError):
    """The job database could not do what was asked."""


class StoreUnwritable(StoreError):
    """The job database can't be written now, as on a full disk; nothing was, and the same call may do later."""


class StoreUnreadable(StoreError):
    """The job database can't be read now, as after an error of the disk; the same call may do later."""


class QueueFull(StoreError):
    """So many jobs have not ended that no more are taken for now."""

    retry_after = 30
    """Seconds until it is worth asking again."""


class JobNotFound(StoreError):
    """No job of that id."""


class LeaseLost(StoreError):
    """The token is not the lease's any more: the subtask was taken over, finished or cancelled."""


class IllegalTransition(StoreError):
    """A job or subtask may not go from its state to the one asked for."""
