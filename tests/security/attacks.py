"""An attack is made twice: without the control that stops it, where it must succeed, and with it, where it must not.

A test that shows only the second may have got its attack wrong.
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
"""Seconds that no attack needs."""

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can show that the attack succeeds without the control"
)


class Outcome(NamedTuple):
    """What the attack printed each time.

    Args:
        bare: without the sandbox.
        boxed: in it.
    """

    bare: str
    boxed: str


@cache
def sandbox() -> Bubblewrap:
    """The sandbox as tasks get it; one for all, so that it is checked once."""
    return Bubblewrap()


async def bare(command: str, workspace: Path, *, limits: CommandLimits = DEFAULT_COMMAND_LIMITS) -> str:
    """What a shell command prints that the service's own user runs."""
    result = await Unconfined(limits).run(["bash", "-c", command], workspace=workspace, timeout=LONG)
    return result.output


async def boxed(command: str, workspace: Path, *, network: bool = False) -> str:
    """What a shell command prints in the sandbox."""
    result = await sandbox().run(["bash", "-c", command], workspace=workspace, timeout=LONG, network=network)
    return result.output


async def both(command: str, workspace: Path) -> Outcome:
    """The attack without the sandbox and in it."""
    return Outcome(await bare(command, workspace), await boxed(command, workspace))


def weakened(
    command: str, workspace: Path, *, without: Sequence[str] = (), network: bool = False, stdin: int | None = None
) -> str:
    """What a shell command prints in a sandbox with no filter of system calls.

    Args:
        without: options of bubblewrap that are left out as well.
        network: as where a skill and the owner allow it.
        stdin: a descriptor; nothing by default.
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
    """A shell command that runs a program with the system's Python, which is in the sandbox too."""
    return f"/usr/bin/python3 -I - <<'END'\n{program}\nEND"


@contextlib.contextmanager
def process(*argv: str, **environ: str) -> Iterator[int]:
    """A process of the host that has nothing to do with the task; its id."""
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
    """What lies around a task on its worker.

    Args:
        root: the service's folder, with its ``.env``.
        workspace: the task's.
        other: another task's.
        home: of the service's user.
        secret: the text in everything that no task may read.
        pid: of a process with the secret in its environment and its arguments.
    """

    root: Path
    workspace: Path
    other: Path
    home: Path
    secret: str
    pid: int

    def fill(self, attack: str) -> str:
        """The attack's command, with this service's places in it."""
        return attack.format(**{name: str(value) for name, value in self._asdict().items()})


@contextlib.contextmanager
def service(tmp_path: Path) -> Iterator[Service]:
    """A worker's folders as they are while a task runs, and a process in place of the worker's."""
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
