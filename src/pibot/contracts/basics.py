"""Names for what is used everywhere."""

from __future__ import annotations

from typing import Any, Callable

JsonObject = dict[str, Any]

Clock = Callable[[], float]
"""Seconds as a float: ``time.time`` for dates that are shown or stored, ``time.monotonic`` for durations."""
