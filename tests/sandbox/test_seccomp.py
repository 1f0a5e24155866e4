from __future__ import annotations

import ctypes
import errno
import platform
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from pibot.sandbox.bubblewrap import Bubblewrap
from pibot.sandbox.limits import COMMAND_ENVIRONMENT
from pibot.sandbox.seccomp import ABSENT, FIRST_NEWER, REFUSED, system_call_filter
from tests.sandbox.support import sh


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


@pytest.mark.parametrize("calls", CALLS, ids=["x86_64", "i386", "aarch64", "arm"])
def test_a_system_call_newer_than_the_list_does_not_exist(calls: Calls) -> None:
    program = system_call_filter(calls.machine)

    def asked(number: int) -> int:
        return verdict(program, calls.architecture, number)

    open_tree_attr, set_mempolicy_home_node, arm_set_tls = 467, 450, 0xF0005
    assert asked(open_tree_attr) == NO_SUCH_CALL
    assert {asked(number) for number in range(FIRST_NEWER, 1000)} == {NO_SUCH_CALL}
    assert asked(0xEFFFF) == NO_SUCH_CALL
    assert {asked(number) for number in (set_mempolicy_home_node, 449, arm_set_tls)} == {ALLOW}


def test_a_machine_that_counts_its_calls_otherwise_keeps_all_of_them() -> None:
    program = system_call_filter("mips64")  # from 5000 on; libseccomp takes the architecture that it runs on
    assert verdict(program, X86_64 if platform.machine() == "x86_64" else CALLS[2].architecture, 5000) == ALLOW


def test_the_filter_kills_calls_of_any_other_architecture() -> None:
    killed = 0
    program = system_call_filter("x86_64")
    assert verdict(program, 0xC00000B7, 63) == killed
    assert verdict(program, X86_64, 0x40000000 | 41, 1) == killed  # x32


def test_libseccomp_knows_every_refused_system_call() -> None:
    library = ctypes.CDLL("libseccomp.so.2")
    newer_than_debian_11 = {"memfd_secret", "quotactl_fd", "mount_setattr"}
    known = {name for name in (*REFUSED, *ABSENT) if library.seccomp_syscall_resolve_name(name.encode()) != -1}
    assert known >= {*REFUSED, *ABSENT} - newer_than_debian_11


WORK = {
    "git": "git init -q . && touch f && git add f && git -c user.name=x -c user.email=x@x commit -qm x && git log",
    "python3": "python3 -c 'import asyncio, tempfile; asyncio.run(asyncio.sleep(0)); print(tempfile.mkdtemp())'",
    "tar": "mkdir d && tar -czf d.tgz d && tar -xzf d.tgz && cp -a d e && chmod -R 700 e && mv e g && rm -r g",
    "curl": "echo a > a.txt && curl -s file://$PWD/a.txt",
    "sqlite3": "sqlite3 x.db 'create table t (a); insert into t values (1); select * from t'",
    "awk": "seq 9 | awk '{n += $1} END {print n}' | sort -n | sed s/4/5/ | xargs -P2 -n1 echo",
    "perl": "perl -e 'print 6 * 7'",
    "node": "node -e 'console.log(6 * 7)'",
    "find": "find . -type f -newer / -exec ls -l {} +; df . ; du -s .; stat .; ps; date; wc -c < /proc/self/stat",
}


@pytest.mark.system
@pytest.mark.parametrize("program", WORK)
async def test_what_tasks_run_works_under_the_filter(program: str, workspace: Path) -> None:
    if shutil.which(program, path=COMMAND_ENVIRONMENT["PATH"]) is None:
        pytest.skip(f"{program} is not installed")
    result = await sh(Bubblewrap(), workspace, WORK[program])
    assert result.exit_code == 0, result.output
    assert "not implemented" not in result.output


@pytest.mark.system
async def test_a_command_is_refused_system_calls_that_ordinary_programs_do_not_need(workspace: Path) -> None:
    (workspace / "ask.py").write_text(
        "import ctypes, os, socket\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def asked(number, *arguments):\n"
        "    libc.syscall(number, *arguments)\n"
        "    return os.strerror(ctypes.get_errno())\n"
        "print(asked(425, 1, 0))\n"  # io_uring_setup; the numbers from 424 on are the same everywhere
        "print(asked(428, 0, 0, 0))\n"  # open_tree
        "print(asked(467, 0, 0, 0, 0, 0))\n"  # open_tree_attr
        "print(asked(452, -1, 0, 0, 0))\n"  # fchmodat2
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
        "Function not implemented",
        "Function not implemented",
        "Address family not supported by protocol",
        "pairs are made",
    ]
