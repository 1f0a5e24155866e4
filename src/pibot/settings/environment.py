"""The environment and ``.env``: names to values, with the conversions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from pibot.errors import SettingsError
from pibot.settings.values import DEFAULT_PORT, GUESSED_FIRST, MAKE_ONE, SHORTEST_KEY, Secret, is_placeholder

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


class Environment:
    """Names to values, with the conversions; each error names the variable."""

    def __init__(self, values: Mapping[str, str], directory: Path) -> None:
        self._values = values
        self._directory = directory

    def names(self) -> list[str]:
        return list(self._values)

    def get(self, name: str) -> str | None:
        value = self._values.get(name, "").strip()
        return value or None

    def text(self, name: str, default: str) -> str:
        return self.get(name) or default

    def secret(self, name: str) -> Secret | None:
        value = self.get(name)
        return None if value is None else Secret(value)

    def key(self, name: str, *, skip: int = 0, shortest: int = SHORTEST_KEY) -> Secret | None:
        """A key that callers show: of a decent length and no placeholder; the first ``skip`` are no part of it."""
        value = self.get(name)
        if value is None:
            return None
        value = value[skip:].strip()
        # Neither message holds the key: it may be a good one with its end cut off.
        if is_placeholder(value) or GUESSED_FIRST.match(value):
            raise SettingsError(f"the key in {name} is a placeholder, which anyone would try first; {MAKE_ONE}")
        if len(value) < shortest:
            raise SettingsError(f"the key in {name} must have at least {shortest} characters; {MAKE_ONE}")
        return Secret(value)

    def flag(self, name: str) -> bool:
        value = (self.get(name) or "").lower()
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise SettingsError(f"{name} must be 1 or 0, not {value!r}")

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise SettingsError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        return value

    def integer(self, name: str, default: int, *, minimum: int) -> int:
        value = self.get(name)
        if value is None:
            return default
        if not value.isascii() or not value.isdigit() or int(value) < minimum:
            raise SettingsError(f"{name} must be a whole number from {minimum} up, not {value!r}")
        return int(value)

    def limit(self, name: str) -> int | None:
        """A whole number; None for none, which 0 says too."""
        return self.integer(name, 0, minimum=0) or None

    def seconds(self, name: str, default: float, *, minimum: float = 0.0, unit: str = "seconds") -> float:
        value = self.get(name)
        if value is None:
            return default
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 < number < float("inf") or number < minimum:
            wanted = f"from {minimum:g} up" if minimum else "above 0"
            raise SettingsError(f"{name} must be a number of {unit} {wanted}, not {value!r}")
        return number

    def port(self, name: str) -> int:
        number = self.integer(name, DEFAULT_PORT, minimum=1)
        if number > 65535:
            raise SettingsError(f"{name} must be a port from 1 to 65535, not {number}")
        return number

    def words(self, name: str) -> tuple[str, ...]:
        return tuple(word for word in re.split(r"[,\s]+", self.get(name) or "") if word)

    def path(self, name: str, default: Any) -> Any:
        value = self.get(name)
        return default if value is None else self._directory / Path(value).expanduser()

    def absolute(self, value: str, name: str) -> Path:
        path = Path(value).expanduser()
        if not path.is_absolute():
            raise SettingsError(f"{name} must hold absolute paths, not {value!r}")
        return path


def read_dotenv(path: Path) -> dict[str, str]:
    """The names and values of ``.env``; none where there is no such file.

    Raises:
        SettingsError: the file is there and cannot be read, or is not UTF-8.
    """
    if not path.is_file():
        return {}
    try:
        return {name: value for name, value in dotenv_values(path, interpolate=False).items() if value is not None}
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path} cannot be read: {exc}") from exc
