"""Find the tool that a model means, where it writes the name in another case, with a prefix or with leftovers."""

from __future__ import annotations

import re
from collections.abc import Collection

_LEFTOVERS = re.compile(r"(<\||<｜|\(|:\d+$|\s*$).*", re.DOTALL)
"""Tokens of the model's template behind the name, such as ``<|channel|>commentary``; ``()``; Kimi's ``:0``."""

_SEPARATOR = re.compile(r"\.|:+|/|__")

_PREFIXES = ("functions_", "function_", "tools_", "tool_", "default_api_", "default_", "api_")
"""What models put in front of a name with the separator of names themselves."""


def resolve(written: str, tools: Collection[str]) -> str | None:
    """Return the tool of which a model wrote the name, or None where none or more than one may be meant.

    Args:
        written: the name as the model wrote it.
        tools: the names of the task's tools.
    """
    if written in tools:
        return written
    name = _LEFTOVERS.sub("", written.strip().strip("\"'`*"), count=1).strip().strip("\"'`*")
    candidates = [name, *(name[found.end() :] for found in _SEPARATOR.finditer(name))]
    lower = name.lower().replace("-", "_")
    candidates += [name[len(prefix) :] for prefix in _PREFIXES if lower.startswith(prefix)]
    for candidate in candidates:  # the longest first: a tool may have another's name at its end
        if candidate in tools:
            return candidate
        meant = [tool for tool in tools if _plain(tool) == _plain(candidate)]
        if meant:
            return meant[0] if len(meant) == 1 else None
    return None


def _plain(name: str) -> str:
    """Return the letters and digits of a name, in lower case: ``ShellExec`` and ``shell-exec`` are ``shell_exec``."""
    return re.sub(r"[\W_]", "", name).lower()
