"""How a command that nobody vouches for is run: confined by bubblewrap, or unconfined where the owner chose so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

from pibot.errors import SettingsError
from pibot.sandbox.limits import DEFAULT_COMMAND_LIMITS, CommandLimits, ReadablePath

if TYPE_CHECKING:
    from pibot.sandbox.bubblewrap import Bubblewrap
    from pibot.sandbox.unconfined import Unconfined

__all__ = ["CommandLimits", "ReadablePath", "create_command_runner"]


def create_command_runner(
    mode: str, limits: CommandLimits = DEFAULT_COMMAND_LIMITS, readable: Sequence[ReadablePath] = ()
) -> Union[Bubblewrap, Unconfined]:
    """Make what runs commands. Nothing is run yet, and one mode never falls back to the other.

    Args:
        mode: ``bwrap`` or ``off``.
        limits: of each command.
        readable: what commands may read beside the system, where they are confined.

    Raises:
        SettingsError: there is no such mode.
    """
    # Imported here: a worker that runs no command does without.
    if mode == "bwrap":
        from pibot.sandbox.bubblewrap import Bubblewrap

        return Bubblewrap(limits, readable)
    if mode == "off":
        from pibot.sandbox.unconfined import Unconfined

        return Unconfined(limits)
    raise SettingsError(f"PIBOT_SANDBOX must be bwrap or off, not {mode!r}")
