"""Report the state of the worker's machine, read from ``/proc`` and ``/sys``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from pibot.contracts import ToolContext

Part = dict[str, Any]

VCGENCMD_SECONDS = 3.0
"""Seconds to wait for the firmware's answer, which normally takes some milliseconds."""

# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled: bits 0 to 3 for now, 16 to 19 for before.
_BITS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
_EARLIER = 16


def system_info(context: ToolContext) -> dict[str, Any]:
    """Report this machine's temperature, power and throttling (Raspberry Pi), memory, swap, disk, load, uptime, model,
    operating system and kernel. A reading that the machine does not have says so.
    """
    return _report(Path("/"), context.workspace, shutil.which("vcgencmd"))


def _report(root: Path, workspace: Path, vcgencmd: Optional[str]) -> dict[str, Any]:
    """Return all readings.

    Args:
        root: the folder that holds ``/proc``, ``/sys`` and ``/etc``.
        workspace: a folder on the disk to report.
        vcgencmd: the path of the Raspberry Pi's own tool; None if it is not installed.
    """
    return {
        "temperature": _temperature(root),
        "power": _power(root, vcgencmd),
        **_memory(root),
        "disk": _disk(workspace),
        "load": _load(root),
        "uptime": _uptime(root),
        "machine": _machine(root),
    }


def _missing(why: str) -> Part:
    return {"summary": f"not available: {why}"}


# --- heat and power ---------------------------------------------------------


def _temperature(root: Path) -> Part:
    sensors: dict[str, float] = {}
    for zone in _matching(root, "sys/class/thermal", "thermal_zone*"):
        _add(sensors, _text(zone / "type") or zone.name, zone / "temp")
    if not sensors:
        for chip in _matching(root, "sys/class/hwmon", "hwmon*"):
            for reading in sorted(chip.glob("temp*_input")):
                _add(sensors, _text(chip / "name") or chip.name, reading)
    if not sensors:
        return _missing("no thermal zone and no sensor on this machine")
    main = next((name for name in sensors if re.search(r"cpu|soc|pkg|core", name)), next(iter(sensors)))
    return {"summary": f"{sensors[main]:.1f} °C ({main})", "celsius": sensors[main], "sensors": sensors}


def _add(sensors: dict[str, float], name: str, path: Path) -> None:
    """Add a reading in thousandths of a degree; leave out a sensor that is switched off, which gives an error."""
    value = _number(path)
    if value is not None:
        sensors.setdefault(name, round(value / 1000, 1))


def _power(root: Path, vcgencmd: Optional[str]) -> Part:
    """Return throttling and under-voltage, from the best source of this machine.

    Only ``vcgencmd`` covers the time since boot. The Raspberry Pi kernel's file holds the last reading of its driver,
    which reads every 2 seconds and clears the bits for the past each time (raspberrypi/linux,
    ``drivers/hwmon/raspberrypi-hwmon.c`` and ``drivers/firmware/raspberrypi.c``). Other kernels have one voltage alarm.
    """
    word = _ask_vcgencmd(vcgencmd)
    if word is not None:
        return _decoded(word, "since boot", "vcgencmd")
    for path in _matching(root, "sys/devices/platform", "soc*/soc*:firmware/get_throttled"):
        word = _hexadecimal(_text(path))
        if word is not None:
            return _decoded(word, "in the last 2 seconds", "the kernel's get_throttled")
    for chip in _matching(root, "sys/class/hwmon", "hwmon*"):
        alarm = _number(chip / "in0_lcrit_alarm") if _text(chip / "name") == "rpi_volt" else None
        if alarm is not None:
            said = "under-voltage" if alarm else "no under-voltage"
            lacking = "throttling and the time before: not available, this kernel only reports the voltage"
            return {
                "summary": f"in the last 2 seconds: {said}; {lacking}",
                "lately": ["under-voltage"] if alarm else [],
            }
    if "raspberry" in _model(root).lower():
        return _missing("neither vcgencmd nor the kernel reports it; put the worker's user into the group 'video'")
    return _missing("only a Raspberry Pi's firmware reports it, and this is not one")


def _ask_vcgencmd(program: Optional[str]) -> Optional[int]:
    if program is None:
        return None
    try:
        done = subprocess.run(  # nosec B603 # no shell, and nothing of the task in it
            [program, "get_throttled"], capture_output=True, text=True, errors="replace", timeout=VCGENCMD_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None  # it may lack the right to use /dev/vcio; there are other sources
    match = re.search(r"throttled=(0x[0-9a-fA-F]+)", done.stdout)
    return int(match.group(1), 16) if match and done.returncode == 0 else None


def _decoded(word: int, before: str, source: str) -> Part:
    now = [name for bit, name in enumerate(_BITS) if word >> bit & 1]
    earlier = [name for bit, name in enumerate(_BITS) if word >> bit + _EARLIER & 1]
    if not now and not earlier:
        summary = f"neither throttled nor under-voltage, now or {before}"
    else:
        summary = f"now: {', '.join(now) or 'nothing'}; {before}: {', '.join(earlier) or 'nothing'}"
    return {"summary": summary, "now": now, "earlier": earlier, "earlier_means": before, "source": source}


# --- memory, disk, load -----------------------------------------------------


def _memory(root: Path) -> dict[str, Part]:
    lines = re.findall(r"^(\w+):\s+(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    found = {name: int(kilobytes) * 1024 for name, kilobytes in lines}
    total, free = found.get("MemTotal", 0), found.get("MemAvailable")
    if not total or free is None:
        memory = _missing("/proc/meminfo has no MemTotal and MemAvailable")
    else:
        memory = {"summary": _of(free, total), "total_bytes": total, "available_bytes": free}
    swap_total = found.get("SwapTotal")
    if swap_total is None:
        swap = _missing("/proc/meminfo has no SwapTotal")
    elif swap_total == 0:
        swap = {"summary": "none", "total_bytes": 0, "free_bytes": 0}
    else:
        swap_free = found.get("SwapFree", 0)
        swap = {"summary": _of(swap_free, swap_total), "total_bytes": swap_total, "free_bytes": swap_free}
    return {"memory": memory, "swap": swap}


def _disk(folder: Path) -> Part:
    try:
        usage = shutil.disk_usage(folder)
    except OSError as exc:
        return _missing(f"the task's folder can't be read: {exc.strerror}")
    return {
        "summary": f"{_of(usage.free, usage.total)}, where tasks work",
        "total_bytes": usage.total,
        "free_bytes": usage.free,
    }


def _load(root: Path) -> Part:
    words = _text(root / "proc/loadavg").split()
    try:
        one, five, fifteen = (float(word) for word in words[:3])
    except ValueError:
        return _missing("/proc/loadavg can't be read")
    part: Part = {"load_1m": one, "load_5m": five, "load_15m": fifteen}
    cpus = _counted(_text(root / "sys/devices/system/cpu/online"))
    on = f" on {cpus} processors" if cpus else ""
    part["summary"] = f"{one:g} in the last minute, {five:g} in 5, {fifteen:g} in 15{on}"
    part["processors"] = cpus
    kilohertz = _number(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if kilohertz is not None:
        part["clock_mhz"] = round(kilohertz / 1000)
    return part


def _uptime(root: Path) -> Part:
    words = _text(root / "proc/uptime").split()
    try:
        seconds = float(words[0])
    except (IndexError, ValueError):
        return _missing("/proc/uptime can't be read")
    minutes = int(seconds) // 60
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    return {"summary": f"{days} d {hours} h {minutes} min" if days else f"{hours} h {minutes} min", "seconds": seconds}


# --- the machine ------------------------------------------------------------


def _machine(root: Path) -> Part:
    name = re.search(r'^PRETTY_NAME="?(.*?)"?$', _text(root / "etc/os-release"), re.MULTILINE)
    part = {
        "model": _model(root) or "not available: no device tree and no DMI on this machine",
        "system": name.group(1) if name else "not available: no /etc/os-release",
        "kernel": _text(root / "proc/sys/kernel/osrelease") or "not available: no /proc/sys/kernel/osrelease",
        "architecture": os.uname().machine,
    }
    return {"summary": ", ".join(text for text in part.values() if not text.startswith("not available")), **part}


def _model(root: Path) -> str:
    return _text(root / "proc/device-tree/model") or _text(root / "sys/class/dmi/id/product_name")


# --- reading ----------------------------------------------------------------


def _matching(root: Path, folder: str, pattern: str) -> Iterable[Path]:
    return sorted((root / folder).glob(pattern))


def _text(path: Path) -> str:
    """Return a file's text without the NUL that ends device-tree texts; an empty one if there is no such file."""
    try:
        return path.read_text("utf-8", "replace").strip().strip("\0")
    except OSError:
        return ""


def _number(path: Path) -> Optional[int]:
    text = _text(path)
    return int(text) if re.fullmatch(r"-?\d{1,12}", text) else None


def _hexadecimal(text: str) -> Optional[int]:
    return int(text, 16) if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", text) else None


def _counted(ranges: str) -> Optional[int]:
    """Count the numbers in a list such as ``0-3,5``."""
    if not re.fullmatch(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*", ranges):
        return None
    pairs = [part.partition("-") for part in ranges.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in pairs)


def _of(free: int, total: int) -> str:
    return f"{_bytes(free)} of {_bytes(total)} free ({100 * free // total} %)"


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
