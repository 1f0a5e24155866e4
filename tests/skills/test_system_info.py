"""The skill system_info, on file trees copied from different machines, and on this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from skills.system_info.tools import _report

from pibot.contracts import CommandResult, ToolCall, ToolContext
from pibot.tool_registry import SkillLibrary

SKILLS = Path(__file__).resolve().parents[2] / "skills"

ZERO_2W = {
    "proc/device-tree/model": "Raspberry Pi Zero 2 W Rev 1.0\0",
    "proc/meminfo": "MemTotal:         424000 kB\nMemFree:           50000 kB\nMemAvailable:     212000 kB\n"
    "SwapTotal:        102396 kB\nSwapFree:          51198 kB\nHugePages_Total:       0\n",
    "proc/loadavg": "0.52 0.38 0.21 1/123 4567\n",
    "proc/uptime": "273906.12 1000000.00\n",
    "proc/sys/kernel/osrelease": "6.12.47+rpt-rpi-v8\n",
    "etc/os-release": 'NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\n',
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48312\n",
    "sys/devices/system/cpu/online": "0-3\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1000000\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
}


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def without(*names: str) -> dict[str, str]:
    return {path: text for path, text in ZERO_2W.items() if not path.startswith(names)}


def vcgencmd(folder: Path, script: str) -> str:
    path = folder / "vcgencmd"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def report(root: Path, program: str | None = None) -> dict[str, Any]:
    return _report(root, root, program)


# --- a Raspberry Pi ---


def test_a_pi_reports_everything_in_words_and_figures(tmp_path: Path) -> None:
    got = report(machine(tmp_path, ZERO_2W))
    assert got["temperature"]["summary"] == "48.3 °C (cpu-thermal)"
    assert got["temperature"]["celsius"] == 48.3
    assert got["memory"] == {
        "summary": "207 MiB of 414 MiB free (50 %)",
        "total_bytes": 424000 * 1024,
        "available_bytes": 212000 * 1024,
    }
    assert got["swap"]["summary"] == "50 MiB of 100 MiB free (50 %)"
    assert got["load"]["summary"] == "0.52 in the last minute, 0.38 in 5, 0.21 in 15 on 4 processors"
    assert (got["load"]["processors"], got["load"]["clock_mhz"]) == (4, 1000)
    assert got["uptime"] == {"summary": "3 d 4 h 5 min", "seconds": 273906.12}
    assert got["machine"]["model"] == "Raspberry Pi Zero 2 W Rev 1.0"
    assert got["machine"]["system"] == "Debian GNU/Linux 13 (trixie)"
    assert got["machine"]["kernel"] == "6.12.47+rpt-rpi-v8"
    assert got["disk"]["free_bytes"] <= got["disk"]["total_bytes"]


@pytest.mark.parametrize(
    ("word", "now", "earlier"),
    [
        ("0", [], []),
        ("1", ["under-voltage"], []),
        ("2", ["frequency capped"], []),
        ("4", ["throttled"], []),
        ("8", ["soft temperature limit"], []),
        ("10000", [], ["under-voltage"]),
        ("20000", [], ["frequency capped"]),
        ("40000", [], ["throttled"]),
        ("80000", [], ["soft temperature limit"]),
        ("50005", ["under-voltage", "throttled"], ["under-voltage", "throttled"]),
        ("0xe0008", ["soft temperature limit"], ["frequency capped", "throttled", "soft temperature limit"]),
    ],
)
def test_each_bit_of_the_throttling_word_has_its_meaning(
    tmp_path: Path, word: str, now: list[str], earlier: list[str]
) -> None:
    path = "sys/devices/platform/soc/soc:firmware/get_throttled"
    got = report(machine(tmp_path, {path: word + "\n"}))["power"]
    assert (got["now"], got["earlier"]) == (now, earlier)


def test_the_kernels_reading_is_not_reported_as_covering_the_time_since_boot(tmp_path: Path) -> None:
    got = report(machine(tmp_path, ZERO_2W))["power"]
    assert got["summary"] == "now: under-voltage, throttled; in the last 2 seconds: under-voltage, throttled"
    assert got["earlier_means"] == "in the last 2 seconds"


def test_vcgencmd_covers_the_time_since_boot_and_is_preferred(tmp_path: Path) -> None:
    program = vcgencmd(tmp_path, 'test "$*" = get_throttled && echo throttled=0x50000')
    got = report(machine(tmp_path, ZERO_2W), program)["power"]
    assert got["summary"] == "now: nothing; since boot: under-voltage, throttled"
    assert got["source"] == "vcgencmd"


def test_a_pi_with_a_good_power_supply_says_so(tmp_path: Path) -> None:
    program = vcgencmd(tmp_path, "echo throttled=0x0")
    assert report(tmp_path, program)["power"]["summary"] == "neither throttled nor under-voltage, now or since boot"


@pytest.mark.parametrize("script", ["echo 'VCHI initialization failed'; exit 255", "exit 1", "echo nonsense"])
def test_if_vcgencmd_fails_the_kernels_reading_is_used(tmp_path: Path, script: str) -> None:
    got = report(machine(tmp_path, ZERO_2W), vcgencmd(tmp_path, script))["power"]
    assert got["source"] == "the kernel's get_throttled"


def test_if_vcgencmd_cannot_be_run_the_kernels_reading_is_used(tmp_path: Path) -> None:
    got = report(machine(tmp_path, ZERO_2W), str(tmp_path / "missing"))["power"]
    assert got["source"] == "the kernel's get_throttled"


@pytest.mark.parametrize(("alarm", "lately"), [("1", ["under-voltage"]), ("0", [])])
def test_a_kernel_with_only_the_voltage_alarm_reports_the_voltage(
    tmp_path: Path, alarm: str, lately: list[str]
) -> None:
    files = {
        **without("sys/devices/platform"),
        "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
        "sys/class/hwmon/hwmon1/in0_lcrit_alarm": alarm,
    }
    got = report(machine(tmp_path, files))["power"]
    assert got["lately"] == lately
    assert "throttling and the time before: not available" in got["summary"]


def test_a_pi_whose_firmware_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    got = report(machine(tmp_path, without("sys/devices/platform")))["power"]
    why = "neither vcgencmd nor the kernel reports it; put the worker's user into the group 'video'"
    assert got == {"summary": f"not available: {why}"}


# --- machines that lack things ---


def test_a_machine_without_readings_says_so_for_each(tmp_path: Path) -> None:
    got = report(tmp_path)
    assert got["temperature"] == {"summary": "not available: no thermal zone and no sensor on this machine"}
    assert got["power"] == {"summary": "not available: only a Raspberry Pi's firmware reports it, and this is not one"}
    for part in ("memory", "swap", "load", "uptime"):
        assert got[part]["summary"].startswith("not available: /proc/"), part
    for part in ("model", "system", "kernel"):
        assert got["machine"][part].startswith("not available: no "), part


def test_a_machine_with_sensors_but_no_thermal_zone_has_a_temperature(tmp_path: Path) -> None:
    files = {"sys/class/hwmon/hwmon0/name": "coretemp\n", "sys/class/hwmon/hwmon0/temp1_input": "39000\n"}
    assert report(machine(tmp_path, files))["temperature"]["summary"] == "39.0 °C (coretemp)"


def test_the_summary_has_the_processors_temperature(tmp_path: Path) -> None:
    files = {
        "sys/class/thermal/thermal_zone0/type": "acpitz",
        "sys/class/thermal/thermal_zone0/temp": "27800",
        "sys/class/thermal/thermal_zone1/type": "x86_pkg_temp",
        "sys/class/thermal/thermal_zone1/temp": "55000",
    }
    got = report(machine(tmp_path, files))["temperature"]
    assert got["celsius"] == 55.0
    assert got["sensors"] == {"acpitz": 27.8, "x86_pkg_temp": 55.0}


def test_a_sensor_below_zero_or_out_of_order_does_not_raise(tmp_path: Path) -> None:
    files = {
        "sys/class/thermal/thermal_zone0/type": "soc",
        "sys/class/thermal/thermal_zone0/temp": "-12500",
        "sys/class/thermal/thermal_zone1/type": "off",
        "sys/class/thermal/thermal_zone1/temp": "",
        "sys/class/thermal/thermal_zone2/temp": "garbage",
    }
    assert report(machine(tmp_path, files))["temperature"]["sensors"] == {"soc": -12.5}


@pytest.mark.parametrize("path", sorted(ZERO_2W))
@pytest.mark.parametrize("text", ["", "garbage", "-", "\0", "9" * 50, "0x", "PRETTY_NAME", "MemTotal: x kB"])
def test_no_odd_content_of_a_file_breaks_the_report(tmp_path: Path, path: str, text: str) -> None:
    assert json.dumps(report(machine(tmp_path, {**ZERO_2W, path: text})))


def test_a_machine_without_swap_has_none(tmp_path: Path) -> None:
    files = {**ZERO_2W, "proc/meminfo": "MemTotal: 8 kB\nMemAvailable: 4 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"}
    assert report(machine(tmp_path, files))["swap"]["summary"] == "none"


def test_a_missing_folder_has_no_disk_reading(tmp_path: Path) -> None:
    got = _report(tmp_path, tmp_path / "gone", None)["disk"]["summary"]
    assert got == "not available: the task's folder can't be read: No such file or directory"


# --- this machine, as a skill ---


class NoCommands:
    async def run(self, argv: object, **options: object) -> CommandResult:
        raise AssertionError("system_info confines no command")


async def test_this_machine_reports_itself(tmp_path: Path) -> None:
    box = SkillLibrary(SKILLS).load(["system_info"], ToolContext("t1", tmp_path, NoCommands()))
    result = await box.execute(ToolCall("c1", "system_info", {}))
    assert not result.is_error
    got = json.loads(result.content)
    assert set(got) == {"temperature", "power", "memory", "swap", "disk", "load", "uptime", "machine"}
    assert all(part["summary"] for part in got.values())
    assert got["memory"]["total_bytes"] > got["memory"]["available_bytes"] > 0
    assert got["machine"]["kernel"] == os.uname().release
    assert got["load"]["load_1m"] >= 0
