"""Whose fault a failed task is: the worker's, the provider's, or its own."""

from __future__ import annotations

from enum import Enum

from pibot.errors import LLMAway, LLMConfigurationError, LLMRejected, LLMUnpaid, LLMUnreachable, SandboxUnavailable

_REFUSES_SETTING = frozenset({401, 403, 404, 407})
"""Statuses with which a model's server refuses a worker's key, model or address, and not the request."""


class Fault(Enum):
    """What kept a worker from doing its task, where that was not the task itself."""

    WORKER = "worker"
    """The worker can't work now: its workspace can't be written, commands can't be confined, no way to the model."""

    SETTING = "setting"
    """The model's server refuses what this worker is set to, such as its key or its model's name, and would again; or
    the account of its key has no balance."""

    MODEL = "model"
    """The model's provider is away or overloaded."""

    @classmethod
    def read(cls, value: object) -> Fault | None:
        """Read a worker's word for it; None for a word that this version does not know."""
        return next((fault for fault in cls if fault.value == value), None)


def fault_of(exc: BaseException) -> Fault | None:
    """Return whose fault the error is that ended a task; None where it may be the task's own."""
    if isinstance(exc, (LLMUnreachable, SandboxUnavailable)):
        return Fault.WORKER
    if isinstance(exc, LLMAway):
        return Fault.MODEL
    if isinstance(exc, (LLMConfigurationError, LLMUnpaid)):
        return Fault.SETTING
    if isinstance(exc, LLMRejected) and (exc.status in _REFUSES_SETTING or 300 <= exc.status < 400):
        return Fault.SETTING
    return None


def rest_of(exc: BaseException) -> float | None:
    """Return the seconds after which the model may be asked again, if the error that ended a task names them."""
    return exc.rest if isinstance(exc, LLMAway) else None
