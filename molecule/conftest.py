"""What every scenario's tests share: any host by its name, a real connection as a probe, and no silent skipping."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import testinfra

if TYPE_CHECKING:
    from testinfra.host import Host

INVENTORY = Path(__file__).resolve().parent / "lab" / "inventory.py"

# Tries to connect with the standard library alone and says how it ended. A closed firewall drops the packet, so
# there is no answer; a port where nobody listens answers with a refusal.
PROBE = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()
except socket.timeout:
    print("dropped")
except ConnectionRefusedError:
    print("refused")
except OSError as error:
    print(error)
else:
    print("open")
"""

_outcomes: Counter[str] = Counter()


@pytest.fixture(scope="session")
def on() -> Callable[[str], Host]:
    """Return the host of that inventory name: `on("worker-1").run("uptime")`."""

    def get(name: str) -> Host:
        return testinfra.get_host(f"ansible://{name}?ansible_inventory={INVENTORY}")

    return get


@pytest.fixture(scope="session")
def address(on: Callable[[str], Host]) -> Callable[[str], str]:
    """Return the IPv4 address of that inventory name."""

    def get(name: str) -> str:
        return str(on(name).ansible.get_variables()["ansible_host"])

    return get


@pytest.fixture(scope="session")
def connect(on: Callable[[str], Host], address: Callable[[str], str]) -> Callable[[str, str, int], str]:
    """Try a TCP connection between two hosts: `connect("outside", "worker-1", 5000)` is open, refused or dropped."""

    def get(source: str, target: str, port: int) -> str:
        return str(on(source).check_output("python3 -c %s %s %s", PROBE, address(target), str(port)))

    return get


@pytest.fixture(scope="session")
def reboot(on: Callable[[str], Host]) -> Callable[[str], None]:
    """Reboot a host from inside and return when it has booted: `reboot("worker-1")`.

    The boot is recognised by the start of PID 1, since all containers show the same boot_id.
    """
    booted = "cut -d ' ' -f 22 /proc/1/stat && systemctl is-system-running --wait"

    def get(name: str) -> None:
        before = on(name).run(booted).stdout
        deadline = time.monotonic() + 60
        with contextlib.suppress(RuntimeError):  # how testinfra says that the connection broke
            on(name).run("sudo systemctl --no-block reboot")
        while time.monotonic() < deadline:
            try:
                now = on(name).run(booted)
            except RuntimeError:
                time.sleep(0.2)
                continue
            if now.rc == 0 and now.stdout != before:
                return
        pytest.fail(f"{name} did not come back within 60 s of its reboot")

    return get


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count how the tests ended."""
    if report.when == "call" or report.skipped:
        _outcomes[report.outcome] += 1


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run in which a test was skipped or none ran.

    A mistyped group in `testinfra_hosts` skips its tests, and pytest calls that a success.
    """
    if session.config.option.collectonly or exitstatus != pytest.ExitCode.OK:
        return
    if _outcomes["skipped"] or not _outcomes["passed"]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say why a run without failures is none that counts."""
    if _outcomes["skipped"]:
        terminalreporter.write_line(
            f"{_outcomes['skipped']} skipped: on the lab every test runs. Is each group in testinfra_hosts "
            f"a group of molecule/lab/inventory.py?",
            red=True,
        )
