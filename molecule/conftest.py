"""Fixtures of every scenario's tests: hosts by name, real connections and requests; a skipped test fails the run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import testinfra

if TYPE_CHECKING:
    from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[1]
INVENTORY = ROOT / "molecule" / "lab" / "inventory.py"

# Connects with the standard library alone and prints the result. A closed firewall drops the packet; a port that no
# program listens on refuses it.
PROBE = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2).close()
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


class Answer(NamedTuple):
    """An HTTP response: its status and its decoded JSON."""

    status: int
    body: Any


class Lab:
    """Access to the lab from this computer: its keys, a shell on a host, a playbook, a request.

    Attributes:
        state: the lab's folder on this computer.
        hosts: the inventory's variables of each host.
        ports: the SSH ports that a test has changed.
    """

    def __init__(self) -> None:
        listed = json.loads(subprocess.run([INVENTORY], capture_output=True, text=True, check=True).stdout)  # nosec B603 # the lab's own script
        self.state = Path(listed["all"]["vars"]["lab_state"])
        self.hosts: dict[str, Any] = listed["_meta"]["hostvars"]
        self.ports: dict[str, int] = {}

    @property
    def key(self) -> str:
        """The fleet's key, which the first run of the playbook made."""
        return (self.state / "secrets" / "api_key").read_text().strip()

    def key_of(self, name: str) -> str:
        """Return the key that the host asks its callers for: each worker has its own."""
        if not name.startswith("worker-"):
            return self.key
        return (self.state / "secrets" / f"worker_token_{name.rpartition('-')[2]}").read_text().strip()

    def url(self, name: str, path: str = "") -> str:
        """Return the URL of `path` on that host."""
        return f"http://{self.hosts[name]['ansible_host']}:5000{path}"

    def shell(self, name: str, command: str, stdin: str = "", check: bool = True) -> str:
        """Run a command as `pi` over SSH and return its output."""
        port = str(self.ports.get(name, 22))
        ssh = ["ssh", "-F", str(self.state / "ssh_config"), "-p", port, name, command]
        done = subprocess.run(ssh, input=stdin, capture_output=True, text=True, check=False)  # nosec B603 # no shell here; a test's own command
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def playbook(self, *arguments: str, fails: bool = False, checkout: Path = ROOT) -> str:
        """Run ansible-playbook as an owner does, in a checkout's folder ansible/, and return its output."""
        command = ["ansible-playbook", "--inventory", str(INVENTORY), *arguments]
        # molecule names this checkout's configuration, and with it this checkout's roles.
        environ = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CONFIG": str(checkout / "ansible" / "ansible.cfg")}
        done = subprocess.run(
            command, cwd=checkout / "ansible", env=environ, capture_output=True, text=True, check=False
        )  # nosec B603 # no shell; ansible-playbook
        if (done.returncode != 0) is not fails:
            pytest.fail(f"{' '.join(arguments)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-8000:]}")
        return done.stdout

    def ask(self, name: str, path: str, body: object = None, *, key: str | None = None, wait: int = 0) -> Answer:
        """Send one request from this computer."""
        request = urllib.request.Request(self.url(name, path), None if body is None else json.dumps(body).encode())
        if key is not None:
            request.add_header("Authorization", f"Bearer {key}")
        if wait:
            request.add_header("Prefer", f"wait={wait}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=wait + 15) as response:
                return Answer(response.status, json.load(response))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, json.load(error))

    def curl(self, source: str, url: str, *arguments: str) -> Any:
        """Run curl on the host `source` and return the decoded JSON."""
        quoted = " ".join(f"'{argument}'" for argument in ("curl", "-sS", "--max-time", "90", *arguments, url))
        return json.loads(self.shell(source, quoted))


@pytest.fixture(scope="session")
def lab() -> Lab:
    """Return the lab."""
    return Lab()


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

    A new boot shows in the start time of PID 1; all containers show the same boot_id.
    """
    booted = "cut -d ' ' -f 22 /proc/1/stat && systemctl is-system-running --wait"

    def get(name: str) -> None:
        before = on(name).run(booted).stdout
        deadline = time.monotonic() + 60
        with contextlib.suppress(RuntimeError):  # testinfra raises it when the connection breaks
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


@pytest.fixture(scope="session")
def healthy(lab: Lab) -> Callable[[str], Any]:
    """Wait until a host is healthy, asked from the host itself, and return its health: `healthy("worker-1")`."""

    def get(name: str) -> Any:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            printed = lab.shell(name, "curl -s --max-time 5 http://127.0.0.1:5000/health", check=False)
            if printed and json.loads(printed).get("status") == "healthy":
                return json.loads(printed)
            time.sleep(0.3)
        pytest.fail(f"{name} was not healthy within 60 s:\n{lab.shell(name, 'journalctl -n 40 -u pibot-*')}")

    return get


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the outcomes."""
    if report.when == "call" or report.skipped:
        _outcomes[report.outcome] += 1


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run in which a test was skipped or none ran.

    A mistyped group in `testinfra_hosts` skips its tests, and pytest counts that as a success.
    """
    if session.config.option.collectonly or exitstatus != pytest.ExitCode.OK:
        return
    if _outcomes["skipped"] or not _outcomes["passed"]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Explain why a run without failed tests failed."""
    if _outcomes["skipped"]:
        terminalreporter.write_line(
            f"{_outcomes['skipped']} skipped, but in the lab every test must run: check that each group "
            f"in testinfra_hosts is a group of molecule/lab/inventory.py",
            red=True,
        )
