"""Read the machine's memory, load and temperature. A reading that doesn't exist is None."""

from __future__ import annotations

import os
from pathlib import Path

from pibot.contracts import HostReading

# The bits of get_throttled for the present. The higher bits are for any time since the start.
# Source: raspberrypi.com/documentation/computers/os.html, vcgencmd get_throttled.
_THROTTLED = ((0, "under-voltage"), (1, "frequency capped"), (2, "throttled"), (3, "soft temperature limit"))
_THROTTLED_FILE = "sys/devices/platform/soc/soc:firmware/get_throttled"


def read_host(root: Path = Path("/")) -> HostReading:
    """Read the machine's state from ``/proc`` and ``/sys``.

    Args:
        root: the folder that holds both, for the files of another machine.
    """
    memory = _kilobytes(root / "proc/meminfo")
    process = _kilobytes(root / "proc/self/smaps_rollup")
    uptime = _first_number(root / "proc/uptime")
    millidegrees = _first_number(root / "sys/class/thermal/thermal_zone0/temp")
    return HostReading(
        memory_total=memory.get("MemTotal"),
        memory_available=memory.get("MemAvailable"),
        process_memory=process.get("Pss"),
        load_1m=_first_number(root / "proc/loadavg"),
        temperature=None if millidegrees is None else millidegrees / 1000,
        uptime=uptime,
        processors=processors(),
        throttled=_throttled(root / _THROTTLED_FILE),
    )


def _read(path: Path) -> str:
    """Return the file's text; an empty one if this machine does not have it."""
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""


def _kilobytes(path: Path) -> dict[str, int]:
    """Return the values of the ``Name: n kB`` lines of a file in ``/proc``, in bytes."""
    found = {}
    for line in _read(path).splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            found[name] = int(words[0]) * 1024
    return found


def _first_number(path: Path) -> float | None:
    words = _read(path).split()
    try:
        return float(words[0]) if words else None
    except ValueError:
        return None


def _throttled(path: Path) -> tuple[str, ...] | None:
    try:
        bits = int(_read(path).strip(), 16)
    except ValueError:
        return None
    return tuple(name for bit, name in _THROTTLED if bits >> bit & 1)


def processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0))
