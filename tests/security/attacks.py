"""Run each attack twice: without the control that stops it, where it must succeed, and with it, where it must fail.

A test that shows only the failure may have got its attack wrong.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest

from pibot.sandbox import CommandLimits
from pibot.sandbox.bubblewrap import Bubblewrap, Features, bubblewrap_options
from pibot.sandbox.limits import COMMAND_ENVIRONMENT, DEFAULT_COMMAND_LIMITS
from pibot.sandbox.unconfined import Unconfined

LONG = 60.0
"""A time limit that no attack reaches, in seconds."""

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can show that the attack succeeds without the control"
)


class Outcome(NamedTuple):
    """The output of one attack.

    Args:
        bare: without the sandbox.
        boxed: in the sandbox.
    """

    bare: str
    boxed: str


@cache
def sandbox() -> Bubblewrap:
    """Return the sandbox of tasks: one for all tests, so that it checks bubblewrap once."""
    return Bubblewrap()


async def bare(command: str, workspace: Path, *, limits: CommandLimits = DEFAULT_COMMAND_LIMITS) -> str:
    """Run a shell command without the sandbox, as the service's user; return its output."""
    result = await Unconfined(limits).run(["bash", "-c", command], workspace=workspace, timeout=LONG)
    return result.output


async def boxed(command: str, workspace: Path, *, network: bool = False) -> str:
    """Run a shell command in the sandbox, and return its output."""
    result = await sandbox().run(["bash", "-c", command], workspace=workspace, timeout=LONG, network=network)
    return result.output


async def both(command: str, workspace: Path) -> Outcome:
    """Run the attack without the sandbox and in it."""
    return Outcome(await bare(command, workspace), await boxed(command, workspace))


def weakened(
    command: str, workspace: Path, *, without: Sequence[str] = (), network: bool = False, stdin: int | None = None
) -> str:
    """Run a shell command in a sandbox without the filter of system calls, and return its output.

    Args:
        without: options of bubblewrap to leave out as well.
        network: whether the command has the network.
        stdin: a descriptor; /dev/null by default.
    """
    options = bubblewrap_options(
        Features(disable_userns=True, size=True), DEFAULT_COMMAND_LIMITS, workspace, network=network
    )
    kept = [option for option in options if option not in without]
    argv = ["bwrap", *kept, "--", "bash", "-c", command]
    done = subprocess.run(
        argv,
        env=dict(COMMAND_ENVIRONMENT),
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        start_new_session=stdin is None,
    )
    return done.stdout


def python(program: str) -> str:
    """Return a shell command that runs a program with the system's Python, which the sandbox has too."""
    return f"/usr/bin/python3 -I - <<'END'\n{program}\nEND"


@contextlib.contextmanager
def process(*argv: str, **environ: str) -> Iterator[int]:
    """Run a process of the host that is unrelated to the task; yields its id."""
    running = subprocess.Popen(
        argv or ["sleep", "1000"],
        env={"PATH": os.environ["PATH"], **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield running.pid
    finally:
        running.kill()
        running.wait()


class Service(NamedTuple):
    """The surroundings of a task on its worker.

    Args:
        root: the service's folder, with its ``.env``.
        workspace: the task's folder.
        other: another task's folder.
        home: the home directory of the service's user.
        secret: a text in every file that no task may read.
        pid: a process with the secret in its environment and arguments.
    """

    root: Path
    workspace: Path
    other: Path
    home: Path
    secret: str
    pid: int

    def fill(self, attack: str) -> str:
        """Return the attack's command with this service's paths and ids."""
        return attack.format(**{name: str(value) for name, value in self._asdict().items()})


@contextlib.contextmanager
def service(tmp_path: Path) -> Iterator[Service]:
    """Create the folders of a worker that runs a task, and a process that stands for the worker's."""
    secret = f"canary-{uuid4().hex}"
    root, home = tmp_path / "pibot-worker", tmp_path / "home"
    workspace, other = root / "workspace" / "mine", root / "workspace" / "other"
    for folder in (workspace, other, home / ".ssh", root / "skills" / "shell_exec", root / "credentials"):
        folder.mkdir(parents=True)
    for holder in (
        root / ".env",
        other / "notes.txt",
        home / ".ssh" / "id_ed25519",
        home / ".bash_history",
        root / "worker.log",
        root / "credentials" / "env",
    ):
        holder.write_text(f"VOLC_API_KEY={secret}\n")
    (root / "skills" / "shell_exec" / "tools.py").write_text("# the owner's\n")
    (root / "worker_soul.md").write_text("the owner's\n")
    program = "import os, sys; os.chdir(sys.argv[1]); f = open('.env'); print(1, flush=True); sys.stdin.read()"
    running = subprocess.Popen(
        [sys.executable, "-I", "-c", program, str(root), secret],
        env={"VOLC_API_KEY": secret},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert running.stdout is not None
    assert running.stdin is not None
    running.stdout.readline()
    try:
        yield Service(root, workspace, other, home, secret, running.pid)
    finally:
        running.communicate()
        shutil.rmtree(tmp_path, ignore_errors=True)
