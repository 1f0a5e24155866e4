"""What the owner adds to every request to a model, and says of its provider."""

from __future__ import annotations

import json
from typing import Any

from pibot.errors import SettingsError

_OWN = frozenset({"model", "messages", "tools", "stream", "stream_options", "n", "functions", "tool_choice"})
"""Fields that PiBot itself decides."""


def extra(value: str | None, name: str) -> dict[str, Any] | None:
    """Read the further fields of every request; None where there are none.

    Raises:
        SettingsError: it is no JSON object, or has a field that is not the owner's to set.
    """
    if value is None:
        return None
    fields = _object(value, name, '{"temperature": 0.2, "thinking": {"type": "disabled"}}')
    for field in fields:
        if field.casefold() in _OWN:
            raise SettingsError(f"{name} can't set {field!r}: PiBot decides that field by itself; leave it out")
    return fields


def profile(value: str | None, name: str) -> dict[str, Any] | None:
    """Read what the owner says of the provider: a profile's name, or a JSON object of its fields.

    Raises:
        SettingsError: it is no JSON object.
    """
    if value is None or not value.startswith("{"):
        return None if value is None else {"like": value}
    return _object(value, name, '{"like": "mistral", "window": 32768}')


def _object(value: str, name: str, example: str) -> dict[str, Any]:
    """Read a JSON object. The error does not repeat the value, which may hold a key."""
    try:
        data = json.loads(value)
        json.dumps(data, allow_nan=False, ensure_ascii=False).encode()  # what can't be sent is refused here
    except (ValueError, RecursionError) as exc:
        reason = f"; it is no JSON ({exc.msg} at character {exc.pos})" if isinstance(exc, json.JSONDecodeError) else ""
        raise SettingsError(f"{name} must be a JSON object such as {example}{reason}") from None
    if not isinstance(data, dict):
        raise SettingsError(f"{name} must be a JSON object such as {example}")
    return data
