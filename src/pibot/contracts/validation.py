"""Checks a caller's input. Each function returns the usable value, or raises an error that names the field."""

from __future__ import annotations

import re

from pibot.errors import InvalidRequest

MAX_TASK_TIMEOUT = 24 * 3600.0
"""Seconds. A longer timeout is more likely a mistake in the unit than intended."""

MAX_DESCRIPTION_CHARS = 100_000
"""Characters, about 25,000 tokens: a longer description leaves a small model no room to work."""

MAX_SKILLS_PER_TASK = 32

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_SKILL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")


def valid_id(value: object, name: str) -> str:
    """Return ``value`` if it is an id that can be a path segment and the name of a folder.

    Raises:
        InvalidRequest: it is not 1 to 100 letters, digits, dots, underscores or hyphens, the first a letter or digit.
    """
    if isinstance(value, str) and _ID.match(value):
        return value
    raise InvalidRequest(
        f"{name} must be 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit",
        field=name,
    )


def valid_description(value: object) -> str:
    """Return ``value`` if it is a usable description of a task or job.

    Raises:
        InvalidRequest: it is no text, is blank, exceeds the limit, or can't be encoded.
    """
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest("description must be a text that says what to do", field="description")
    if len(value) > MAX_DESCRIPTION_CHARS:
        raise InvalidRequest(
            f"description has {len(value)} characters, {MAX_DESCRIPTION_CHARS} are allowed",
            field="description",
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("description contains a lone surrogate; send valid text", field="description") from None
    return value


def valid_skills(value: object) -> tuple[str, ...]:
    """Return ``value`` as a tuple of skill names in their order, without duplicates.

    Raises:
        InvalidRequest: it is not a list of valid names, or it is too long.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(x, str) and _SKILL_NAME.match(x) for x in value):
        raise InvalidRequest(
            "skills must be a list of skill names (lower-case letters, digits, '_' or '-'), [] for none",
            field="skills",
        )
    names = tuple(dict.fromkeys(value))
    if len(names) > MAX_SKILLS_PER_TASK:
        raise InvalidRequest(f"skills names {len(names)}, {MAX_SKILLS_PER_TASK} are allowed", field="skills")
    return names


def valid_timeout(value: object) -> float | None:
    """Return ``value`` in seconds, or None if no timeout was given.

    Raises:
        InvalidRequest: it is not a number above 0 and up to :data:`MAX_TASK_TIMEOUT`.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_TASK_TIMEOUT:
        raise InvalidRequest(
            f"timeout must be a number of seconds above 0 and up to {MAX_TASK_TIMEOUT:.0f}", field="timeout"
        )
    return float(value)
