"""The environment and ``.env`` as typed values."""

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
    """Converts variables to typed values. Each error is a SettingsError that names the variable.

    Args:
        values: names and their texts.
        directory: where relative paths start.
    """

    def __init__(self, values: Mapping[str, str], directory: Path) -> None:
        self._values = values
        self._directory = directory

    @classmethod
    def read(cls, environ: Mapping[str, str], directory: Path) -> Environment:
        """Join ``environ`` and the ``.env`` in ``directory``; ``environ`` wins.

        Raises:
            SettingsError: ``.env`` can't be read.
        """
        return cls({**_read_dotenv(directory / ".env"), **environ}, directory)

    def names(self) -> list[str]:
        return list(self._values)

    def get(self, name: str) -> str | None:
        """Return the variable without surrounding blanks; None where it is absent or empty."""
        value = self._values.get(name, "").strip()
        return value or None

    def text(self, name: str, default: str) -> str:
        return self.get(name) or default

    def secret(self, name: str) -> Secret | None:
        value = self.get(name)
        return None if value is None else Secret(value)

    def key(self, name: str, *, skip: int = 0, shortest: int = SHORTEST_KEY) -> Secret | None:
        """Read a key that callers must present; refuse a placeholder and a short one.

        Args:
            skip: characters before the key, such as a scope.
            shortest: characters that it must have.
        """
        value = self.get(name)
        if value is None:
            return None
        value = value[skip:].strip()
        # Neither message repeats the key: it may be a real one with its end cut off.
        # docs/decisions.md, D18
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
        """Read a limit as a whole number; None for no limit, which 0 means too."""
        return self.integer(name, 0, minimum=0) or None

    def seconds(self, name: str, default: float, *, minimum: float = 0.0, unit: str = "seconds") -> float:
        """Read a positive number; ``unit`` is its unit in the error."""
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
        """Read a path, relative to the directory; the type of ``default`` where it is absent."""
        value = self.get(name)
        return default if value is None else self._directory / Path(value).expanduser()

    def absolute(self, value: str, name: str) -> Path:
        """Return ``value``, a part of variable ``name``, as an absolute path."""
        path = Path(value).expanduser()
        if not path.is_absolute():
            raise SettingsError(f"{name} must hold absolute paths, not {value!r}")
        return path


def _read_dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        # Windows' editor begins a file with a byte order mark, which would become part of the first name.
        values = dotenv_values(path, interpolate=False, encoding="utf-8-sig")
        return {name: value for name, value in values.items() if value is not None}
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path} cannot be read: {exc}") from exc
