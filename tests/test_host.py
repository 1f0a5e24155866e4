from __future__ import annotations

from pathlib import Path

from pibot.host import processors, read_host


def test_this_machine_has_memory_and_a_load() -> None:
    reading = read_host()
    assert reading.memory_total is not None
    assert reading.memory_available is not None
    assert 0 < reading.memory_available <= reading.memory_total
    assert reading.process_memory is not None
    assert reading.process_memory > 1_000_000
    assert reading.load_1m is not None
    assert reading.uptime is not None
    assert processors() >= 1


def test_a_pis_readings_are_in_plain_units(tmp_path: Path) -> None:
    for name, text in {
        "proc/meminfo": "MemTotal:  437000 kB\nMemAvailable: 210000 kB\nHugePages_Total: 0\n",
        "proc/self/smaps_rollup": "00400000-7ffc ---p 00000000 00:00 0 [rollup]\nRss: 40000 kB\nPss: 31000 kB\n",
        "proc/loadavg": "0.52 0.58 0.59 1/123 4567\n",
        "proc/uptime": "350735.47 234388.90\n",
        "sys/class/thermal/thermal_zone0/temp": "48312\n",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert read_host(tmp_path).to_json() == {
        "memory_total_bytes": 437000 * 1024,
        "memory_available_bytes": 210000 * 1024,
        "process_memory_bytes": 31000 * 1024,
        "load_1m": 0.52,
        "temperature_celsius": 48.312,
        "uptime_seconds": 350735.47,
        "processors": processors(),
        "throttled": ["under-voltage", "throttled"],
    }


def test_a_missing_reading_is_none(tmp_path: Path) -> None:
    reading = read_host(tmp_path).to_json()
    assert reading.pop("processors") == processors()
    assert set(reading.values()) == {None}
