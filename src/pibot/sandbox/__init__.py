"""Run the commands that a model picks: confined by bubblewrap, or unconfined where the owner chose that.

Start reading at :mod:`pibot.sandbox.bubblewrap`. :mod:`pibot.sandbox.service` runs it as another user, for a worker
that uses :mod:`pibot.sandbox.remote`.
"""

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
    """Make the command runner of a mode. It runs nothing yet, and one mode never falls back to the other.

    Args:
        mode: ``bwrap`` or ``off``.
        limits: the limits of each command.
        readable: what confined commands may read besides the system.

    Raises:
        SettingsError: there is no such mode.
    """
    # Imported here: a worker that runs no command needs neither.
    if mode == "bwrap":
        from pibot.sandbox.bubblewrap import Bubblewrap

        return Bubblewrap(limits, readable)
    if mode == "off":
        from pibot.sandbox.unconfined import Unconfined

        return Unconfined(limits)
    raise SettingsError(f"PIBOT_SANDBOX must be bwrap or off, not {mode!r}")
