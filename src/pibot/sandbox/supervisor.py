"""A program between the worker and an unconfined command, which ends the command's whole process tree.

``python -I -S supervisor.py PARENT STATUS_FD LIMITS PROGRAM [ARGUMENT ...]``. As a child subreaper (prctl(2)) it
becomes the parent of every process that the command leaves behind, even of one that called setsid. It ends the tree
when the command ends, on SIGTERM, and when the worker dies. It must start fast, so it uses the standard library alone
and imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_WATCHED = {signal.SIGTERM, signal.SIGCHLD}


# docs/decisions.md, D72
def main(parent: int, status_fd: int, limits: dict[str, int], argv: list[str]) -> None:
    """Run ``argv``, and write JSON to ``status_fd``: its ``exit-code``, or the ``error`` that kept it from starting.

    Args:
        parent: the worker's process id.
        status_fd: the descriptor to write to.
        limits: the number of each kernel limit as a text, and its value.
        argv: the program and its arguments.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # A setuid program would run as another user, and this one may not signal that user's processes.
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return  # it died before PR_SET_PDEATHSIG took effect
    # When memory runs out, the kernel kills this process and the command before the worker.
    Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    for which, value in limits.items():
        resource.setrlimit(int(which), (value, value))
    os.set_inheritable(status_fd, False)
    try:
        command = os.posix_spawnp(
            argv[0],
            argv,
            os.environ,
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT),
        )
    except OSError as exc:
        _report(status_fd, {"error": exc.strerror})
        return
    code = _wait_for(command)
    _end_tree()
    _report(status_fd, {"exit-code": code})


def _wait_for(command: int) -> int:
    """Return the command's exit code, negative for a signal; SIGKILL's when SIGTERM asks for its end."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == command:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        if pid == 0 and signal.sigwait(_WATCHED) == signal.SIGTERM:
            return -signal.SIGKILL


def _end_tree() -> None:
    """Kill every descendant, and return when the last one is gone.

    The kernel signals a process group in one step, so that no member can escape by forking. The descendants' groups
    hold nothing but descendants, since the command started in a session of its own.
    """
    while True:
        for group in _groups_of_descendants():
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.killpg(group, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return  # no child is left, and any orphan would have become one


def _groups_of_descendants() -> set[int]:
    children: dict[int, list[tuple[int, int]]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_bytes()
            except OSError:
                continue  # it has ended meanwhile
            # pid (name) state parent group …; the name may hold anything, parentheses too.
            parent, group = map(int, stat.rpartition(b")")[2].split()[1:3])
            children.setdefault(parent, []).append((int(folder.name), group))
    groups: set[int] = set()
    parents = [os.getpid()]
    while parents:
        for pid, group in children.pop(parents.pop(), ()):
            groups.add(group)
            parents.append(pid)
    return groups


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _report(fd: int, message: dict[str, object]) -> None:
    os.write(fd, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4:])
