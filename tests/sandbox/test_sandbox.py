from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Union
from uuid import uuid4

import pytest

from pibot.background import BackgroundLoop
from pibot.contracts import CommandResult
from pibot.errors import SandboxUnavailable, SettingsError, ToolError
from pibot.sandbox import CommandLimits, ReadablePath, create_command_runner
from pibot.sandbox.bubblewrap import Bubblewrap, Features, profile
from pibot.sandbox.limits import DEFAULT_COMMAND_LIMITS, tasks_of
from pibot.sandbox.pipes import Output
from pibot.sandbox.remote import RemoteSandbox
from pibot.sandbox.seccomp import ABSENT, REFUSED, system_call_filter
from pibot.sandbox.unconfined import Unconfined
from tests.support.nobody import NOBODY, as_nobody
from tests.support.processes import processes_with
from tests.support.sandbox_service import sandbox_service

Runner = Union[Bubblewrap, Unconfined, RemoteSandbox]
LONG = 60.0
"""Seconds that no test here needs; a command that is not ended in time shows by that."""

MODES = [pytest.param("bwrap", marks=pytest.mark.system), "off", pytest.param("service", marks=pytest.mark.system)]


@pytest.fixture(params=MODES)
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runner]:
    if request.param == "service":
        with sandbox_service(tmp_path, tmp_path) as served:
            yield served.runner
    else:
        yield create_command_runner(request.param)


@pytest.fixture
def confined() -> Bubblewrap:
    return Bubblewrap()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


async def sh(runner: Runner, workspace: Path, command: str, **options: Any) -> CommandResult:
    return await runner.run(["bash", "-c", command], workspace=workspace, **{"timeout": LONG, **options})


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def token() -> Iterator[str]:
    """A word for a command's arguments, to find its processes by; none may be left in the end."""
    word = f"pibot-test-{uuid4().hex}"
    yield word
    assert processes_with(word) == []


def sleeper(token: str) -> str:
    """A process that sleeps for long and is found by ``token``."""
    return f"bash -c 'sleep 1000; : {token}'"


@contextlib.contextmanager
def fifo(path: Path) -> Iterator[Callable[[], Awaitable[None]]]:
    """A pipe that a command writes to when it is so far."""
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    async def written() -> None:
        event = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(fd, event.set)
        try:
            await asyncio.wait_for(event.wait(), LONG)
        finally:
            loop.remove_reader(fd)

    try:
        yield written
    finally:
        os.close(fd)


def open_descriptors() -> int:
    return len(names_in(Path("/proc/self/fd")))


# --- what both do ---


async def test_a_commands_output_and_exit_code_come_back(runner: Runner, workspace: Path) -> None:
    result = await sh(runner, workspace, "echo out; echo err >&2; echo out again; exit 3")
    assert result == CommandResult(3, "out\nerr\nout again\n")


async def test_a_command_works_in_its_workspace_and_what_it_writes_stays(runner: Runner, workspace: Path) -> None:
    result = await sh(runner, workspace, 'echo hello > ~/a.txt; [ "$PWD" = "$HOME" ] && cat a.txt')
    assert result.output == "hello\n"
    assert (workspace / "a.txt").read_text() == "hello\n"


async def test_a_command_gets_none_of_the_services_environment(
    runner: Runner, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLC_API_KEY", "sk-secret")
    result = await runner.run(["env"], workspace=workspace, timeout=LONG)
    names = {line.partition("=")[0] for line in result.output.splitlines()}
    assert names - {"PWD"} == {"PATH", "HOME", "LANG", "TERM"}


async def test_what_is_given_as_stdin_is_read_however_large_and_without_it_there_is_none(
    runner: Runner, workspace: Path
) -> None:
    result = await runner.run(["wc", "-c"], workspace=workspace, timeout=LONG, stdin=b"x" * 3_000_000)
    nothing = await runner.run(["wc", "-c"], workspace=workspace, timeout=LONG)
    assert (result.output, nothing.output) == ("3000000\n", "0\n")


async def test_the_signal_that_ended_a_program_is_its_negative_exit_code(runner: Runner, workspace: Path) -> None:
    assert (await sh(runner, workspace, "kill -SEGV $$")).exit_code == -signal.SIGSEGV


async def test_a_program_that_is_not_there_is_the_callers_mistake(runner: Runner, workspace: Path) -> None:
    with pytest.raises(ToolError, match="no-such-program can't be started: No such file") as caught:
        await runner.run(["no-such-program"], workspace=workspace, timeout=LONG)
    assert not isinstance(caught.value, SandboxUnavailable)


async def test_output_that_is_no_utf8_is_still_text(runner: Runner, workspace: Path) -> None:
    assert (await sh(runner, workspace, r"printf 'a\xffb'")).output == "a\ufffdb"


async def test_what_a_command_leaves_in_the_background_is_ended_with_it(
    runner: Runner, workspace: Path, token: str
) -> None:
    command = (
        f"{sleeper(token)} & setsid {sleeper(token)} & "
        f"(env -i setsid -f setsid -f {sleeper(token)} </dev/null >/dev/null 2>&1); "
        "echo done"
    )
    result = await sh(runner, workspace, command)
    assert (result.exit_code, result.output, result.timed_out) == (0, "done\n", False)
    assert processes_with(token) == []


async def test_at_the_deadline_the_whole_tree_is_ended(runner: Runner, workspace: Path, token: str) -> None:
    command = f"echo begun; {sleeper(token)} & setsid {sleeper(token)} & trap '' TERM INT HUP; {sleeper(token)}"
    result = await sh(runner, workspace, command, timeout=1.0)
    assert (result.exit_code, result.output, result.timed_out) == (-signal.SIGKILL, "begun\n", True)
    assert processes_with(token) == []


@pytest.mark.parametrize("times", [1, 3])
async def test_when_a_cancellation_arrives_the_whole_tree_is_gone(
    runner: Runner, workspace: Path, token: str, times: int
) -> None:
    with fifo(workspace / "ready") as ready:
        command = f"{sleeper(token)} & setsid -f {sleeper(token)}; trap '' TERM; echo >ready; {sleeper(token)}"
        running = asyncio.ensure_future(sh(runner, workspace, command))
        await ready()
        assert len(processes_with(token)) >= 3
        for _ in range(times):
            running.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await running
    assert processes_with(token) == []


async def test_a_command_cancelled_before_it_began_leaves_nothing(runner: Runner, workspace: Path, token: str) -> None:
    await sh(runner, workspace, "true")  # the first one makes sure that it works
    descriptors = open_descriptors()
    running = asyncio.ensure_future(sh(runner, workspace, sleeper(token)))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert processes_with(token) == []
    assert open_descriptors() == descriptors


async def test_a_flood_of_output_is_ended_and_its_beginning_and_end_are_kept(runner: Runner, workspace: Path) -> None:
    result = await sh(runner, workspace, "echo first; exec yes")
    assert result.truncated
    assert not result.timed_out
    assert result.exit_code == -signal.SIGKILL
    assert result.output.startswith("first\ny\ny\n")
    assert result.output.endswith("y\ny\n")
    assert len(result.output) < DEFAULT_COMMAND_LIMITS.output_chars + 100


async def test_a_talkative_command_still_does_its_work(runner: Runner, workspace: Path) -> None:
    result = await sh(runner, workspace, "seq 1 200000; echo finished | tee done.txt")
    assert (result.exit_code, result.truncated) == (0, True)
    assert result.output.startswith("1\n2\n")
    assert result.output.endswith("200000\nfinished\n")
    assert "bytes of output were dropped here" in result.output
    assert (workspace / "done.txt").exists()


async def test_a_file_beyond_the_limit_is_not_written(runner: Runner, workspace: Path) -> None:
    result = await sh(runner, workspace, "head -c 70000000 /dev/zero > big; echo $?; stat -c %s big")
    assert result.output.splitlines()[-1] == str(DEFAULT_COMMAND_LIMITS.file_bytes)


async def test_memory_beyond_the_limit_is_not_given(runner: Runner, workspace: Path) -> None:
    result = await sh(runner, workspace, "head -c 400000000 /dev/zero | tail -n 1 | wc -c")
    assert "memory exhausted" in result.output


async def test_the_other_limits_hold_and_the_kernel_would_end_the_command_first(
    runner: Runner, workspace: Path
) -> None:
    result = await sh(runner, workspace, "ulimit -c; ulimit -t; ulimit -n; cat /proc/self/oom_score_adj")
    assert result.output.split() == ["0", "600", "256", "1000"]


async def test_no_descriptor_is_lost_on_either_side(runner: Runner, workspace: Path) -> None:
    await sh(runner, workspace, "true")  # the first one makes sure that it works
    descriptors = open_descriptors()
    inside = await sh(runner, workspace, "cd /proc/self/fd && echo *")
    await sh(runner, workspace, "cat", stdin=b"x")
    with pytest.raises(ToolError):
        await runner.run(["no-such-program"], workspace=workspace, timeout=LONG)
    await sh(runner, workspace, "sleep 1000", timeout=0.2)
    assert open_descriptors() == descriptors
    assert [fd for fd in inside.output.split() if int(fd) > 2] in ([], ["3"], ["255"], ["3", "255"])


async def test_commands_run_side_by_side(runner: Runner, workspace: Path) -> None:
    with fifo(workspace / "a"), fifo(workspace / "b"):
        results = await asyncio.gather(
            sh(runner, workspace, "read x <a; echo got $x; echo 2 >b"),
            sh(runner, workspace, "echo 1 >a; read x <b; echo got $x"),
        )
    assert [r.output for r in results] == ["got 1\n", "got 2\n"]


def test_commands_run_in_a_loop_of_a_background_thread(runner: Runner, workspace: Path, token: str) -> None:
    loop = BackgroundLoop()
    try:
        assert loop.run(sh(runner, workspace, "echo hi")).result(LONG).output == "hi\n"
        assert loop.run(sh(runner, workspace, sleeper(token), timeout=0.2)).result(LONG).timed_out
    finally:
        loop.stop()


SERVICE = """
import asyncio, sys
from pathlib import Path
from pibot.sandbox import create_command_runner
from pibot.sandbox.remote import RemoteSandbox
mode, folder, command = sys.argv[1:]
workspace = Path(folder)
socket = workspace.parent / "sandbox.socket"
runner = RemoteSandbox(socket, workspace.parent) if mode == "service" else create_command_runner(mode)
asyncio.run(runner.run(["bash", "-c", command], workspace=workspace, timeout=1000))
"""


@pytest.fixture
def beside(mode: str, tmp_path: Path) -> Iterator[None]:
    """The sandbox service, where the mode is that one; it lives on when the worker is killed."""
    with sandbox_service(tmp_path, tmp_path) if mode == "service" else contextlib.nullcontext():
        yield


@pytest.mark.system
@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("mode", ["bwrap", "off", "service"])
async def test_when_the_service_is_killed_its_commands_are_ended(mode: str, workspace: Path, token: str) -> None:
    with fifo(workspace / "ready") as ready:
        command = f"{sleeper(token)} & setsid -f {sleeper(token)}; echo >ready; {sleeper(token)}"
        service = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVICE, mode, str(workspace), command)
        await ready()
        left = {os.pidfd_open(pid) for pid in processes_with(token) if pid != service.pid}
        service.kill()
        await service.wait()
    while left:
        ended, _, _ = select.select(left, [], [], LONG)
        assert ended
        for fd in ended:
            os.close(fd)
        left -= set(ended)


@pytest.mark.system
@pytest.mark.timeout(60)
@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("mode", ["bwrap", "off", "service"])
def test_when_the_service_is_killed_while_a_command_starts_nothing_is_left(
    mode: str, workspace: Path, token: str
) -> None:
    try:
        for _ in range(5):
            service = subprocess.Popen([sys.executable, "-c", SERVICE, mode, str(workspace), sleeper(token)])
            while processes_with(token) in ([], [service.pid]):
                pass  # the first of the command's own processes has not begun yet
            service.kill()
            service.wait()
            while processes_with(token):
                pass  # the test's time limit ends this where one stays
    finally:
        for pid in processes_with(token):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_another_mode_is_refused() -> None:
    with pytest.raises(SettingsError, match="PIBOT_SANDBOX must be bwrap or off, not 'none'"):
        create_command_runner("none")


# --- bubblewrap ---


async def test_a_bubblewrap_that_failed_at_once_is_heard_out(tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    program.write_text(
        "#!/bin/sh\nwhile [ $1 != --json-status-fd ]; do shift; done\n"
        "echo '{\"child-pid\": 4194305}' >/proc/self/fd/$2\n"  # beyond the largest id, so gone for certain
        "echo bwrap: no host name for you >&2\nexit 1\n"
    )
    program.chmod(0o755)
    broken = Bubblewrap(program=str(program), features=Features(disable_userns=True, size=True))
    with pytest.raises(SandboxUnavailable, match="bwrap: no host name for you"):
        await broken.check()


@pytest.mark.system
async def test_the_check_passes_where_bubblewrap_works(confined: Bubblewrap) -> None:
    await confined.check()


@pytest.mark.system
async def test_no_file_of_the_host_is_there_to_be_read(confined: Bubblewrap, workspace: Path) -> None:
    secret = workspace.parent / "secret.txt"
    secret.write_text("sk-secret")
    (workspace / "link").symlink_to(secret)
    paths = [
        secret,
        "link",
        "../secret.txt",
        Path.home(),
        "/home",
        "/root",
        "/run",
        "/var",
        "/etc/shadow",
        "/sys",
        "/boot",
    ]
    result = await sh(confined, workspace, "; ".join(f"cat {p} 2>/dev/null || ls {p} 2>/dev/null" for p in paths))
    assert result.output == "link\n"  # ls names the link; what it points to is not there
    etc = await sh(confined, workspace, "cat /etc/passwd; ls /etc")
    assert "task:x:1000" in etc.output
    assert "machine-id" not in etc.output


@pytest.mark.system
async def test_other_processes_are_out_of_sight_and_out_of_reach(confined: Bubblewrap, workspace: Path) -> None:
    result = await sh(
        confined,
        workspace,
        f"cat /proc/[0-9]*/environ | tr '\\0' '\\n' | cut -d= -f1 | sort -u; echo --; kill -0 {os.getpid()}; echo $?; "
        "ls -d /proc/[0-9]* | wc -l",
    )
    names, _, rest = result.output.partition("--\n")
    assert set(names.split()) <= {"PATH", "HOME", "LANG", "TERM", "PWD", "SHLVL", "_", "OLDPWD"}
    assert "No such process\n1\n" in rest
    assert int(rest.split()[-1]) < 10


@pytest.mark.system
async def test_the_network_is_there_only_when_asked_for(confined: Bubblewrap, workspace: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        connect = f"exec 3<>/dev/tcp/127.0.0.1/{listener.getsockname()[1]} && echo connected"
        refused = await sh(confined, workspace, connect)
        assert "connected" not in refused.output
        with pytest.raises(BlockingIOError):
            listener.accept()
        allowed = await sh(confined, workspace, connect, network=True)
        assert "connected" in allowed.output
        listener.accept()[0].close()
    interfaces = await sh(confined, workspace, "tail -n +3 /proc/net/dev | cut -d: -f1")
    assert interfaces.output.split() == ["lo"]


@pytest.mark.system
async def test_nothing_but_the_workspace_and_bounded_memory_can_be_written(
    confined: Bubblewrap, workspace: Path
) -> None:
    paths = ["/x", "/usr/x", "/etc/x", "/dev/x", "/bin/x", "/proc/sys/kernel/core_pattern", "/proc/self/oom_score_adj"]
    result = await sh(confined, workspace, "; ".join(f"echo 1 > {path}" for path in paths) + "; true")
    assert result.output.count("Read-only file system") == len(paths)
    for folder in ("/tmp", "/dev/shm"):
        full = await sh(confined, workspace, f"head -c 40000000 /dev/zero > {folder}/x; stat -c %s {folder}/x")
        assert full.output.splitlines()[-1] == str(DEFAULT_COMMAND_LIMITS.tmp_bytes)
    assert names_in(workspace) == []


@pytest.mark.system
async def test_a_command_has_no_capability_and_can_gain_none(confined: Bubblewrap, workspace: Path) -> None:
    result = await sh(confined, workspace, "id -u; grep -E 'Cap|NoNewPrivs' /proc/self/status; mount -t tmpfs x /tmp")
    lines = result.output.split("\n")
    assert lines[0] == "1000"
    assert {line.split()[1] for line in lines if line.startswith("Cap")} == {"0" * 16}
    assert "NoNewPrivs:\t1" in lines
    assert result.exit_code != 0


@pytest.mark.system
@pytest.mark.parametrize("features", [None, Features(disable_userns=False, size=False)], ids=["own", "old"])
async def test_nested_user_namespaces_are_refused(workspace: Path, features: Features | None) -> None:
    confined = Bubblewrap(features=features)
    for command in ("unshare -U true", "unshare -Ur true", "unshare -Urnm true"):
        result = await sh(confined, workspace, command)
        assert result.exit_code == 1
        assert "unshare failed" in result.output
    result = await sh(confined, workspace, "seq 1 100000 | sort --parallel=4 -S 1M -n | tail -n 1")
    assert result.output == "100000\n"  # threads and processes are still made


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")
def test_the_number_of_processes_is_limited_for_another_user_than_root() -> None:
    # Not as a fork bomb: should the limit not hold, 200 sleepers are bearable.
    command = "for i in $(seq 200); do sleep 1000 & done"
    with TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        runner = Bubblewrap(CommandLimits(processes=20))
        output = as_nobody(partial(sh, runner, Path(folder), command))
    assert "Resource temporarily unavailable" in output


def test_a_bullseye_bubblewrap_is_asked_for_nothing_that_it_does_not_know(workspace: Path) -> None:
    # From the --help of 0.4.1.
    known = (
        "--unshare-user --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup-try --uid --gid "
        "--hostname --cap-drop --new-session --die-with-parent --setenv --ro-bind --ro-bind-try --bind --symlink --dev "
        "--proc --tmpfs --chdir --remount-ro"
    )
    options = profile(Features(disable_userns=False, size=False), DEFAULT_COMMAND_LIMITS, workspace, network=False)
    assert {option for option in options if option.startswith("--")} - set(known.split()) == set()


def verdict(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What the kernel would answer to a system call: a filter of loads, jumps and returns, run as seccomp(2) says."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *[*arguments, 0, 0, 0, 0, 0, 0][:6])
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x06:
            return int(value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x05:
            at += value
        else:
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            at += if_true if holds else if_false


ALLOW, REFUSE, NO_SUCH_CALL, NO_SUCH_FAMILY = (
    0x7FFF0000,
    *(0x50000 | e for e in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT)),
)
X86_64 = 0xC000003E


@dataclass(frozen=True)
class Calls:
    """Numbers of system calls, from the kernel's tables."""

    machine: str
    architecture: int
    clone: int
    ptrace: int
    mount: int
    socket: int
    ioctl: int
    read: int


CALLS = [
    Calls("x86_64", X86_64, clone=56, ptrace=101, mount=165, socket=41, ioctl=16, read=0),
    Calls("x86_64", 0x40000003, clone=120, ptrace=26, mount=21, socket=359, ioctl=54, read=3),
    Calls("aarch64", 0xC00000B7, clone=220, ptrace=117, mount=40, socket=198, ioctl=29, read=63),
    Calls("aarch64", 0x40000028, clone=120, ptrace=26, mount=21, socket=281, ioctl=54, read=3),
]


@pytest.mark.parametrize("calls", CALLS, ids=["x86_64", "i386", "aarch64", "arm"])
def test_the_filter_refuses_the_same_on_every_architecture(calls: Calls) -> None:
    program = system_call_filter(calls.machine)

    def asked(number: int, *arguments: int) -> int:
        return verdict(program, calls.architecture, number, *arguments)

    new_user, threads = 0x10000000, 0x3D0F00
    assert asked(calls.clone, new_user) == asked(calls.clone, threads | new_user) == REFUSE
    assert asked(calls.clone, threads) == ALLOW
    assert asked(calls.ptrace) == asked(calls.mount) == REFUSE
    assert {asked(number) for number in (425, 426, 427, 435)} == {NO_SUCH_CALL}  # io_uring_…, clone3
    assert {asked(calls.socket, family) for family in (1, 1 | 1 << 32, 9, 17, 38, 40)} == {NO_SUCH_FAMILY}
    assert {asked(calls.socket, family) for family in (2, 10, 16)} == {ALLOW}
    assert asked(calls.ioctl, 0, 0x5412) == asked(calls.ioctl, 0, 1 << 32 | 0x5412) == REFUSE
    assert asked(calls.ioctl, 0, 0x5401) == asked(calls.read) == ALLOW


def test_the_filter_lets_no_other_architecture_run() -> None:
    killed = 0
    program = system_call_filter("x86_64")
    assert verdict(program, 0xC00000B7, 63) == killed
    assert verdict(program, X86_64, 0x40000000 | 41, 1) == killed  # x32


def test_the_library_knows_every_call_that_is_refused() -> None:
    library = ctypes.CDLL("libseccomp.so.2")
    newer_than_debian_11 = {"quotactl_fd", "mount_setattr"}
    known = {name for name in (*REFUSED, *ABSENT) if library.seccomp_syscall_resolve_name(name.encode()) != -1}
    assert known >= {*REFUSED, *ABSENT} - newer_than_debian_11


@pytest.mark.system
async def test_a_command_is_refused_what_ordinary_programs_do_not_need(workspace: Path) -> None:
    (workspace / "ask.py").write_text(
        "import ctypes, os, socket\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def asked(number, *arguments):\n"
        "    libc.syscall(number, *arguments)\n"
        "    return os.strerror(ctypes.get_errno())\n"
        "print(asked(425, 1, 0))\n"  # io_uring_setup; the numbers from 424 on are the same everywhere
        "print(asked(428, 0, 0, 0))\n"  # open_tree
        "try:\n"
        "    socket.socket(socket.AF_UNIX)\n"
        "except OSError as exc:\n"
        "    print(exc.strerror)\n"
        "one, other = socket.socketpair()\n"
        "one.send(b'pairs are made\\n')\n"
        "print(other.recv(99).decode(), end='')\n"
    )
    result = await sh(Bubblewrap(), workspace, "/usr/bin/python3 ask.py")
    assert result.output.splitlines() == [
        "Function not implemented",
        "Operation not permitted",
        "Address family not supported by protocol",
        "pairs are made",
    ]


def fake_bwrap(tmp_path: Path, otherwise: str) -> str:
    """A bubblewrap that knows all options and then does something else."""
    path = tmp_path / "bwrap"
    path.write_text(f'#!/bin/sh\ncase "$*" in *--help) echo --disable-userns --size;; *) {otherwise};; esac\n')
    path.chmod(0o755)
    return str(path)


async def test_where_namespaces_are_refused_no_command_is_run_and_it_is_said_what_to_do(
    tmp_path: Path, workspace: Path
) -> None:
    program = fake_bwrap(tmp_path, "echo 'bwrap: No permissions to create a new namespace' >&2; exit 1")
    for attempt in range(2):
        with pytest.raises(SandboxUnavailable) as caught:
            await sh(Bubblewrap(program=program), workspace, "touch ran")
        assert "No permissions to create a new namespace" in str(caught.value), attempt
        assert "so none is run" in str(caught.value)
        assert "PIBOT_SANDBOX=off" in str(caught.value)
    assert names_in(workspace) == []


@pytest.mark.parametrize("program", ["/nonexistent/bwrap", "/bin/false"])
async def test_a_bubblewrap_that_cannot_be_run_is_unavailable(workspace: Path, program: str) -> None:
    with pytest.raises(SandboxUnavailable, match="PIBOT_SANDBOX=off"):
        await Bubblewrap(program=program).check()


async def test_without_bubblewrap_it_is_said_how_to_install_it(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *args, **kwargs: None)
    with pytest.raises(SandboxUnavailable, match=r"bubblewrap is not installed.*apt install bubblewrap"):
        await sh(Bubblewrap(), workspace, "touch ran")
    assert names_in(workspace) == []


@pytest.mark.system
async def test_the_check_is_made_once_when_it_passed_and_again_when_it_failed(tmp_path: Path, workspace: Path) -> None:
    broken = tmp_path / "broken"
    counted = f'echo >> {tmp_path}/calls; [ -e {broken} ] && exit 1; exec bwrap "$@"'
    confined = Bubblewrap(program=fake_bwrap(tmp_path, counted))
    broken.touch()
    with pytest.raises(SandboxUnavailable):
        await confined.check()
    broken.unlink()
    for _ in range(3):
        await confined.check()
    assert (tmp_path / "calls").read_text() == "\n\n"


# --- unconfined ---


@pytest.fixture
def unconfined() -> Unconfined:
    return Unconfined()


async def test_an_unconfined_command_that_signals_its_own_group_hits_only_itself(
    unconfined: Unconfined, workspace: Path
) -> None:
    result = await sh(unconfined, workspace, "echo hi; kill -KILL 0")
    assert (result.output, result.exit_code) == ("hi\n", -signal.SIGKILL)


async def test_a_stopped_supervisor_is_woken_at_the_deadline(
    unconfined: Unconfined, workspace: Path, token: str
) -> None:
    result = await sh(unconfined, workspace, f"kill -STOP $PPID; {sleeper(token)}", timeout=1.0)
    assert result.timed_out
    assert processes_with(token) == []


async def test_a_killed_supervisor_shows_in_the_exit_code(unconfined: Unconfined, workspace: Path) -> None:
    assert (await sh(unconfined, workspace, "kill -KILL $PPID; exit 0")).exit_code == -signal.SIGKILL


async def test_an_unconfined_command_cannot_become_another_user(unconfined: Unconfined, workspace: Path) -> None:
    result = await sh(unconfined, workspace, "grep NoNewPrivs /proc/self/status")
    assert result.output == "NoNewPrivs:\t1\n"


async def test_a_workspace_that_is_gone_is_said(unconfined: Unconfined, tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="No such file"):
        await sh(unconfined, tmp_path / "gone", "true")


def test_the_supervisor_imports_nothing_of_the_package() -> None:
    program = textwrap.dedent("""
        import json, runpy, sys
        runpy.run_module("pibot.sandbox.supervisor", run_name="looked_at")
        print(json.dumps([m for m in sys.modules if m.startswith("pibot") and "sandbox" not in m]))
    """)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(json.loads(result.stdout)) <= {"pibot", "pibot.errors"}  # of pibot.sandbox's own __init__


async def test_an_unconfined_command_may_add_its_number_of_processes_to_the_users_own(
    unconfined: Unconfined, workspace: Path
) -> None:
    own = tasks_of(os.geteuid())
    allowed = int((await sh(unconfined, workspace, "ulimit -u")).output)
    assert allowed > DEFAULT_COMMAND_LIMITS.processes
    assert own > 1


# --- output ---


def kept(limit: int, *pieces: bytes) -> tuple[str, bool]:
    output = Output(limit)
    for piece in pieces:
        output.add(piece)
    return output.text()


def test_output_within_the_limit_is_kept_whole_wherever_its_pieces_are_cut() -> None:
    text = "héllo wörld €" * 3
    for at in range(len(text.encode())):
        assert kept(len(text), text.encode()[:at], text.encode()[at:]) == (text, False)


def test_output_beyond_the_limit_keeps_both_ends() -> None:
    text, truncated = kept(10, b"abcdefgh" * 1000, b"uvwxyz")
    assert truncated
    assert text == "abcde\n[… about 7996 bytes of output were dropped here …]\nvwxyz"


def test_a_flood_takes_no_more_memory_than_the_limit() -> None:
    output = Output(1000)
    for _ in range(500):
        output.add(b"x" * 65536)
    assert len(output._head) + len(output._tail) < 200_000
    assert len(output.text()[0]) < 1100


@pytest.mark.system
async def test_a_command_reads_what_the_owner_lists_and_can_not_write_it(workspace: Path, tmp_path: Path) -> None:
    listed = tmp_path / "home" / "photos"
    listed.mkdir(parents=True)
    (listed / "list").write_text("one\n")
    (tmp_path / "home" / "diary").write_text("secret\n")
    look = f"cat {listed}/list; cat {tmp_path}/home/diary || touch {listed}/new || ls {tmp_path}/home"
    shown = await sh(
        Bubblewrap(readable=[ReadablePath(listed), ReadablePath(Path("/proc")), ReadablePath(tmp_path / "absent")]),
        workspace,
        look,
    )
    assert shown.output.splitlines()[0] == "one"
    assert shown.output.splitlines()[-1] == "photos"
    assert "secret" not in shown.output
    assert "Read-only file system" in shown.output
    assert "one" not in (await sh(Bubblewrap(), workspace, look)).output
    moved = Bubblewrap(readable=[ReadablePath(Path("/home/me/photos"), listed)])
    assert (await sh(moved, workspace, "cat /home/me/photos/list")).output == "one\n"
