"""Which job the running coroutine works on, for who counts what it asks of a model."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Optional

RUNNING_JOB: ContextVar[Optional[str]] = ContextVar("pibot_running_job", default=None)
"""The job's id; set by the job runner, and seen by all that it awaits."""
