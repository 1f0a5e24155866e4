"""Names of types that are used everywhere."""

from __future__ import annotations

from typing import Any, Callable

JsonObject = dict[str, Any]

Clock = Callable[[], float]
"""Returns seconds: ``time.time`` for dates that are shown or stored, ``time.monotonic`` for durations."""
