"""Run bubblewrap as a user without rights where the service itself is root.

The kernel limits the number of processes of any user but root. So a process of root's binds the folders that the
command may see where that user can reach them, in a mount namespace of its own, and then becomes that user.
"""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pibot.errors import SandboxUnavailable
from pibot.sandbox.limits import COMMAND_ENVIRONMENT, ReadablePath
from pibot.sandbox.sharing import OPEN_FOLDER, give_to

USER = 65533
"""The user, and the group, of root's commands: reserved by Debian's policy, and nobody's."""

START = ("unshare", "--mount", "--propagation", "private", "--")
"""Starts a program in a mount namespace of its own, as the same process."""

BECOME = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--")
"""Starts a program as :data:`USER`."""

_STAGES = tuple(map(Path, ("/mnt", "/media", "/srv", "/opt", "/home")))
"""Folders of every Debian. The one that holds nothing of what is bound is hidden by the bound folders meanwhile."""

_LIMIT_NAMES = {
    getattr(resource, f"RLIMIT_{name.upper()}"): name
    for name in ("data", "as", "nproc", "fsize", "cpu", "nofile", "core")
}


def limit(pid: int, limits: Mapping[int, int]) -> None:
    """Limit a process of :data:`USER` as that user: root in a container may not have the right to.

    Args:
        pid: the process.
        limits: the value of each kernel limit (``RLIMIT_…``).

    Raises:
        PermissionError: they can't be set.
    """
    options = [f"--{_LIMIT_NAMES[which]}={value}:{value}" for which, value in limits.items()]
    done = subprocess.run(  # nosec B603 # no shell; numbers alone
        ["/usr/bin/prlimit", "--pid", str(pid), *options],
        env=dict(COMMAND_ENVIRONMENT),
        user=USER,
        group=USER,
        extra_groups=(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0 and Path(f"/proc/{pid}").exists():
        raise PermissionError(done.stderr.strip())


# docs/decisions.md, D107
class Stage:
    """Binds folders and files below a folder of the system, in the mount namespace of one command.

    Args:
        program: bubblewrap.
        workspace: the task's folder, which :data:`USER` gets as its own.
        etc: the folder with the sandbox's own files of ``/etc``.
        readable: what the command may read besides the system.

    Attributes:
        script: the lines of sh that root runs.

    Raises:
        SandboxUnavailable: no folder of the system is free for it.
    """

    def __init__(self, program: str, workspace: Path, etc: Path, readable: Sequence[ReadablePath]) -> None:
        folder = os.open(workspace, OPEN_FOLDER)
        try:
            give_to(folder, USER)
        finally:
            os.close(folder)
        listed = [(item.path, item.source or item.path) for item in readable]
        listed = [(path, source.resolve()) for path, source in listed if source.exists()]
        own = [path.resolve() for path in (Path(program), workspace, etc)]
        self._folder = _free([*own, *(source for _, source in listed)])
        self._lines = ["set -e", f"mount -t tmpfs -o size=256k,mode=755 pibot {self._folder}"]
        bound_program, self.workspace, self.etc = map(self._bind, own)
        self.program = str(bound_program)
        self.readable = [ReadablePath(path, self._bind(source)) for path, source in listed]
        self.script = "\n".join([*self._lines, "set +e", ""])

    def _bind(self, source: Path) -> Path:
        place = self._folder / str(len(self._lines))
        make = f"mkdir {place}" if source.is_dir() else f": >{place}"
        self._lines.append(f"{make}; mount --rbind {shlex.quote(str(source))} {place}")
        return place


def _free(sources: Sequence[Path]) -> Path:
    for folder in _STAGES:
        if folder.is_dir() and not any(folder in (source, *source.parents) for source in sources):
            return folder
    raise SandboxUnavailable(
        "commands can't be confined, so none is run: what they may see lies in each of "
        f"{', '.join(map(str, _STAGES))}; move something, or run this service as another user than root"
    )
