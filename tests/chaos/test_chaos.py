"""The short version of ``make chaos``, with real processes and real faults. It takes half a minute."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, clean_environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "tmp").mkdir()
    return clean_environment(TMPDIR=str(tmp_path / "tmp"), PYTHONPATH=str(ROOT / "src"))


def left_over(environment: dict[str, str]) -> list[str]:
    """Return the files, mounts and processes that a run has left behind."""
    folder = environment["TMPDIR"]
    found = [path.name for path in Path(folder).iterdir()]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if folder in line]
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"TMPDIR={folder}".encode() in path.read_bytes().split(b"\0"):
                found.append((path.parent / "cmdline").read_text().replace("\0", " "))
    return found


def test_every_accepted_job_ends_once_whatever_dies_on_the_way(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--quick", "--seed", "1", "--deadline", "300"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SEED=1 JOBS=30" in done.stdout
    assert "accepted = ended                       30 = 30" in done.stdout
    assert re.search(r"^restarts +hub [1-9]", done.stdout, re.MULTILINE)  # the hub was killed and started again
    assert left_over(environment) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(environment: dict[str, str], number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "chaos", "--quick", "--seed", "1"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("The fleet is up"):
            break
    process.send_signal(number)
    process.send_signal(number)  # a second signal must not interrupt the clean-up
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors == "chaos: interrupted; all its processes have ended\n"
    assert left_over(environment) == []
