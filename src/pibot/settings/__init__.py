"""Typed settings, and the only reader of the environment and of ``.env``.

A variable in the environment wins over the same name in ``.env`` in the working directory. A command-line flag wins
over both: the caller applies it with :meth:`Settings.replace`. :mod:`pibot.settings.catalog` lists every name.
"""

from __future__ import annotations

from pibot.settings.everything import MIN_LEASE, Settings
from pibot.settings.values import (
    DEFAULT_PORT,
    OPENAI_BASE_URL,
    SHORTEST_KEY,
    VOLC_BASE_URL,
    VOLC_MODEL,
    AccessKey,
    GatewaySettings,
    LLMSettings,
    Price,
    Secret,
    is_loopback,
    is_placeholder,
)

__all__ = [
    "DEFAULT_PORT",
    "MIN_LEASE",
    "OPENAI_BASE_URL",
    "SHORTEST_KEY",
    "VOLC_BASE_URL",
    "VOLC_MODEL",
    "AccessKey",
    "GatewaySettings",
    "LLMSettings",
    "Price",
    "Secret",
    "Settings",
    "is_loopback",
    "is_placeholder",
]
