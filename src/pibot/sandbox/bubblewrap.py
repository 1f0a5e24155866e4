"""Run commands under bubblewrap: in namespaces of their own, on a read-only system, with one writable folder.

They have no network unless the caller asks for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pibot.contracts import CommandResult
from pibot.errors import SandboxUnavailable, ToolError
from pibot.sandbox import demotion
from pibot.sandbox.limits import COMMAND_ENVIRONMENT, DEFAULT_COMMAND_LIMITS, CommandLimits, ReadablePath, tasks_of
from pibot.sandbox.pipes import Output, Pipe
from pibot.sandbox.process import CommandProcess, PidFd, supervise
from pibot.sandbox.seccomp import system_call_filter

WORKSPACE = "/workspace"
"""The path of the task's folder inside the sandbox."""

_USER = "1000"
_OWN_ETC = Path(__file__).resolve().parent / "etc"
_HOST_ETC = ("ld.so.cache", "alternatives", "localtime", "ssl/certs", "ssl/openssl.cnf", "services", "protocols")
_START = """\
echo 1000 >/proc/$$/oom_score_adj
exec {own}<>/proc/self/fd/{go}
{{
    read -r init && echo >&{own} && {{ read -r _ && exit; kill -9 $init; }}
    kill -9 0
}} </proc/self/fd/{life} >/dev/null 2>&1 &
exec "$@" {own}>&-
"""
"""The script by which sh starts bubblewrap, with a guard process beside it. "We" below is the process that runs it.

The first line makes the kernel kill the command before us when memory runs out; raising the score needs no rights.

``--die-with-parent`` works only once bubblewrap has set itself up. If we are killed before that, bubblewrap's inner
process waits for ever for an outer one that is gone, or runs the command with nobody left to end it. So the guard
holds bubblewrap back (``--block-fd``) until it reads a line from the pipe ``life`` with the process id of the
sandbox's first process, and then writes to the pipe ``go``. A second line lets the guard exit. If ``life`` closes
without that line, we are dead, and the guard kills that process and its own group. ``own`` is the guard's copy of
``go``: if no process held it open, the end of ``go`` would release bubblewrap too.
"""
_TRIAL_SECONDS = 30.0
_PER_NAMESPACE = (5, 14)
"""The first kernel that counts a user namespace's processes apart from the user's other processes."""


@dataclass(frozen=True)
class Features:
    """What the installed bubblewrap supports.

    Args:
        disable_userns: ``--disable-userns``, which forbids user namespaces inside the sandbox (0.8 and later).
        size: ``--size``, which limits a tmpfs (0.7 and later).
    """

    disable_userns: bool
    size: bool


class Bubblewrap:
    """Runs commands under bubblewrap. Where that is impossible it runs none.

    Args:
        limits: the limits of each command.
        readable: what commands may read besides the system.
        program: the bubblewrap to use; None for the installed one.
        features: what it supports; None to ask it.
    """

    def __init__(
        self,
        limits: CommandLimits = DEFAULT_COMMAND_LIMITS,
        readable: Sequence[ReadablePath] = (),
        *,
        program: str | None = None,
        features: Features | None = None,
    ) -> None:
        self._limits = limits
        self._readable = readable
        self._program = program
        self._features = features
        self._works = False

    async def check(self) -> None:
        """Check that a command can be confined here, by running ``true``. A check that passed is not repeated.

        Raises:
            SandboxUnavailable: it can't be; the message says what to install or to set.
        """
        if self._works:
            return
        from tempfile import TemporaryDirectory

        try:
            if self._features is None:
                self._features = await self._ask_features()
            with TemporaryDirectory(prefix="pibot-check-") as folder:
                result = await self._run(["true"], Path(folder), _TRIAL_SECONDS, b"", network=False)
        except OSError as exc:
            raise SandboxUnavailable(_unavailable(f"it can't be started: {exc}")) from exc
        if result.exit_code != 0:
            how = "did not end" if result.timed_out else f"ended with {result.exit_code}"
            raise SandboxUnavailable(_unavailable(f"'true' {how} in it: {result.output.strip()}"))
        self._works = True

    async def run(
        self, argv: Sequence[str], *, workspace: Path, timeout: float, stdin: bytes = b"", network: bool = False
    ) -> CommandResult:
        """Run a command; see :class:`~pibot.contracts.CommandRunner`.

        As in a shell, a program that a signal ended looks like one that exits with 128 plus the signal's number. Both
        are reported as the signal.
        """
        await self.check()
        try:
            return await self._run(argv, workspace, timeout, stdin, network=network)
        except (OSError, ValueError) as exc:
            # Of this one start: too long, a NUL in it, a workspace that can't be entered, too many processes.
            raise ToolError(f"the command can't be started: {exc}") from exc
        except SandboxUnavailable as exc:
            # A command can cause that too, as by removing its workspace. A new trial tells.
            self._works = False
            await self.check()
            problem = exc.problem if isinstance(exc, _NotRun) else exc
            raise ToolError(f"the command could not be run, though others can: {problem}") from exc

    async def _ask_features(self) -> Features:
        output = Output(100_000)
        child = self._start([self._found(), "--help"], output, b"", ())

        async def end() -> None:
            child.signal(signal.SIGKILL)
            await child.ended

        await supervise(child, timeout=_TRIAL_SECONDS, end=end)
        text, _ = output.text()
        if child.exit_code != 0:
            raise SandboxUnavailable(_unavailable(f"'bwrap --help' ended with {child.exit_code}: {text.strip()}"))
        return Features(disable_userns="--disable-userns" in text, size="--size" in text)

    def _found(self) -> str:
        program = self._program or shutil.which("bwrap", path=COMMAND_ENVIRONMENT["PATH"])
        if program is None:
            raise SandboxUnavailable(_unavailable("bubblewrap is not installed"))
        return program

    def _start(self, argv: Sequence[str], output: Output, stdin: bytes, pass_fds: Sequence[int]) -> CommandProcess:
        return CommandProcess(
            argv,
            env=COMMAND_ENVIRONMENT,
            cwd=Path("/"),
            stdin=stdin,
            pass_fds=pass_fds,
            output=output,
            flood_bytes=self._limits.flood_bytes,
        )

    async def _run(
        self, argv: Sequence[str], workspace: Path, timeout: float, stdin: bytes, *, network: bool
    ) -> CommandResult:
        output = Output(self._limits.output_chars)
        with contextlib.ExitStack() as fds:
            status, go, life = Pipe(fds), Pipe(fds), Pipe(fds)
            passed = [status.write_end, go.read_end, life.read_end]
            options = ["--json-status-fd", str(status.write_end), "--block-fd", str(go.read_end)]
            options += ["--sync-fd", str(life.read_end)]  # keeps it from the command
            bpf = Pipe(fds)
            bpf.write(system_call_filter())
            bpf.close_write_end()  # bubblewrap reads to the end
            passed.append(bpf.read_end)
            options += ["--seccomp", str(bpf.read_end)]
            assert self._features is not None
            before: Sequence[str] = ()
            program: Sequence[str] = (self._found(),)
            prepare, etc, readable = "", _OWN_ETC, self._readable
            if _is_root():
                stage = demotion.Stage(self._found(), workspace, etc, readable)
                before, prepare, program = demotion.START, stage.script, (*demotion.BECOME, stage.program)
                workspace, etc, readable = stage.workspace, stage.etc, stage.readable
            options += bubblewrap_options(self._features, self._limits, workspace, readable, network=network, etc=etc)
            # sh knows only descriptors of one digit.
            own = next(digit for digit in range(3, 10) if digit not in passed)
            start = prepare + _START.format(own=own, go=go.read_end, life=life.read_end)
            command = [*before, "/bin/sh", "-c", start, "sh", *program, *options, "--", *argv]
            child = self._start(command, output, stdin, passed)
            init: PidFd | None = None
            account = ""

            def begin() -> None:
                nonlocal init
                status.close_write_end()
                line = status.read_line(child.pidfd)  # comes at once, or never if bubblewrap fails
                pid = 0
                if line:
                    pid = json.loads(line)["child-pid"]
                    try:
                        init = PidFd(pid)
                    except ProcessLookupError:
                        pid = 0  # bubblewrap failed, and its status says so
                    except BaseException:
                        os.kill(pid, signal.SIGKILL)  # the process still waits for us, so the id is its own
                        raise
                    else:
                        self._limit(pid)
                life.write(b"%d\n" % pid)

            async def end() -> None:
                nonlocal account
                if init is not None:
                    # The kernel ends a namespace's first process last, after all the others.
                    init.signal(signal.SIGKILL)
                    await init.gone
                await child.ended
                life.write(b"\n")
                life.close_write_end()
                account = status.read_rest()  # ends with the last process

            timed_out = await supervise(child, timeout=timeout, begin=begin, end=end)
            return _result(argv, account, output, timed_out=timed_out, flooded=child.flooded.done())

    def _limit(self, pid: int) -> None:
        """Limit the sandbox's first process, which still waits, and so every process that it starts.

        prlimit(2) from outside takes neither a helper program nor code between fork and exec.
        """
        others = 0 if _kernel() >= _PER_NAMESPACE else tasks_of(demotion.USER if _is_root() else os.geteuid())
        limits = self._limits.rlimits(others=others)
        try:
            if _is_root():
                demotion.limit(pid, limits)
            else:
                for which, value in limits.items():
                    resource.prlimit(pid, which, (value, value))
        except ProcessLookupError:
            return  # bubblewrap failed, and its status says so
        except PermissionError as exc:
            # As with a bubblewrap that is installed setuid.
            raise SandboxUnavailable(_unavailable(f"limits can't be set on its processes: {exc}")) from exc


def bubblewrap_options(
    features: Features,
    limits: CommandLimits,
    workspace: Path,
    readable: Sequence[ReadablePath] = (),
    *,
    network: bool,
    etc: Path = _OWN_ETC,
) -> list[str]:
    """Return bubblewrap's options, which decide what a command may see and do."""

    def tmpfs(path: str) -> list[str]:
        return [*(["--size", str(limits.tmp_bytes)] if features.size else []), "--tmpfs", path]

    options = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    options += [] if network else ["--unshare-net"]
    options += ["--disable-userns"] if features.disable_userns else []
    options += ["--uid", _USER, "--gid", _USER, "--hostname", "pibot", "--cap-drop", "ALL"]
    # Not --clearenv, which 0.4.1 lacks: bubblewrap itself is started with COMMAND_ENVIRONMENT and nothing else.
    options += ["--new-session", "--die-with-parent", "--setenv", "HOME", WORKSPACE]
    options += ["--ro-bind", "/usr", "/usr", *_system_folders()]
    for name in _HOST_ETC:
        options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for own in sorted(_OWN_ETC.iterdir()):
        options += ["--ro-bind", str(etc / own.name), f"/etc/{own.name}"]
    if network:
        options += ["--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf"]
    options += ["--proc", "/proc", "--dev", "/dev", *tmpfs("/dev/shm"), *tmpfs("/tmp")]  # nosec B108 # the sandbox's own, empty each time
    for item in readable:
        if item.path.parts[1:2] not in ((), ("proc",), ("dev",), ("run",)):  # the sandbox has its own of these
            options += ["--ro-bind-try", str(item.source or item.path), str(item.path)]
    options += ["--bind", str(workspace.resolve()), WORKSPACE, "--chdir", WORKSPACE]
    # Still writable are tmpfs mounts, which are the machine's memory, and for root the kernel's settings in /proc.
    for memory in ("/proc", "/dev", "/"):
        options += ["--remount-ro", memory]
    return options


def _system_folders() -> list[str]:
    """Return the options for /bin, /lib and the like: links into /usr on a merged system, folders on an old one."""
    options = []
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/") / name
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    return options


def _result(argv: Sequence[str], status: str, output: Output, *, timed_out: bool, flooded: bool) -> CommandResult:
    """Make the result of an ended command from bubblewrap's status lines."""
    text, truncated = output.text()
    account: dict[str, int] = {}
    for line in status.splitlines():
        account.update(json.loads(line))
    code = account.get("exit-code")
    if timed_out or flooded:
        code = 128 + signal.SIGKILL
    elif code is None:
        message = text.strip()
        if message.startswith("bwrap: execvp "):
            raise ToolError(f"{argv[0]} can't be started: {message.rpartition(': ')[2]}")
        raise _NotRun(message or "bwrap ended without a message")
    if 128 < code <= 128 + signal.SIGRTMAX:
        code = 128 - code
    return CommandResult(code, text, truncated or flooded, timed_out)


class _NotRun(SandboxUnavailable):
    """bubblewrap ended before it ran the command.

    Args:
        problem: what it said.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(_unavailable(problem))
        self.problem = problem


def _unavailable(problem: str) -> str:
    """Return the error message for ``problem``: what is wrong, and what to install or to set."""
    if not shutil.which("bwrap", path=COMMAND_ENVIRONMENT["PATH"]):
        hint = "run 'sudo apt install bubblewrap'"
    elif _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        hint = "AppArmor may refuse it: 'sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0', or a profile"
    elif _read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        hint = "run 'sudo sysctl kernel.unprivileged_userns_clone=1'"
    else:
        hint = "this user must be allowed to make user namespaces (in a container: by its runtime)"
    return (
        f"commands can't be confined, so none is run: {problem}. To fix it, {hint}. "
        "The owner of this machine may set PIBOT_SANDBOX=off instead, which runs them unconfined."
    )


def _is_root() -> bool:
    return os.geteuid() == 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text("ascii").strip()
    except OSError:
        return ""


def _kernel() -> tuple[int, ...]:
    """Return the kernel's version, such as (6, 1)."""
    numbers = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return tuple(int(n) for n in numbers.groups()) if numbers else (0, 0)
