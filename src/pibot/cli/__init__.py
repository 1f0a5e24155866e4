"""The ``pibot`` command."""

from __future__ import annotations

from pibot.cli.commands import main

__all__ = ["main"]
