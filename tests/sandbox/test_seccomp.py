from __future__ import annotations

import ctypes
import errno
import platform
import re
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pibot.sandbox import seccomp
from pibot.sandbox.bubblewrap import Bubblewrap
from pibot.sandbox.limits import COMMAND_ENVIRONMENT
from pibot.sandbox.seccomp import system_call_filter
from pibot.sandbox.system_calls import ABSENT, ALLOWED, REFUSED
from tests.sandbox.support import sh
from tests.sandbox.work import WORK


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
X86_64, ARM = 0xC000003E, 0x40000028
PRIVATE = range(0xEFFFF, 0xF0010)
"""Where 32-bit ARM has calls of its own."""


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


def name_of(architecture: int, number: int) -> str:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    pointer = library.seccomp_syscall_resolve_num_arch(ctypes.c_uint32(architecture), number)
    return ctypes.string_at(pointer).decode() if pointer else ""  # a test may leave it to the end of its process


@pytest.mark.parametrize("calls", CALLS, ids=["x86_64", "i386", "aarch64", "arm"])
def test_a_system_call_that_is_in_no_list_does_not_exist(calls: Calls) -> None:
    program = system_call_filter(calls.machine)
    # A socket needs a family; the arguments decide on no other call.
    found = {number: verdict(program, calls.architecture, number, 2) for number in (*range(1100), *PRIVATE)}
    for number, answer in found.items():
        name = name_of(calls.architecture, number)
        expected = ALLOW if name in ALLOWED else REFUSE if name in REFUSED else NO_SUCH_CALL
        assert answer == expected, (number, name)
    assert list(found.values()).count(ALLOW) > 220
    open_tree_attr = 467
    assert {found[number] for number in (open_tree_attr, *range(451, 1100))} == {NO_SUCH_CALL}
    last = 0x3FFFFFFF if calls.architecture == X86_64 else 0xFFFFFFFF
    assert verdict(program, calls.architecture, last) == NO_SUCH_CALL
    assert found[0xF0005] == (ALLOW if calls.architecture == ARM else NO_SUCH_CALL)  # set_tls


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_short(machine: str) -> None:
    assert len(system_call_filter(machine)) // 8 < 1024  # the kernel takes 4,096 instructions, bubblewrap's pipe 64 kB


@pytest.mark.parametrize(("machine", "calls"), [("armv7l", CALLS[3]), ("i686", CALLS[1])])
def test_a_kernel_of_32_bits_gets_the_same_filter(machine: str, calls: Calls) -> None:
    program = system_call_filter(machine)
    assert verdict(program, calls.architecture, calls.read) == ALLOW
    assert verdict(program, calls.architecture, calls.mount) == REFUSE
    assert verdict(program, calls.architecture, 467) == NO_SUCH_CALL


class OlderLibrary:
    """libseccomp, of before some system calls."""

    def __init__(self, *unknown: bytes) -> None:
        self._library = seccomp._library()
        self._unknown = unknown

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def seccomp_syscall_resolve_name(self, name: bytes) -> int:
        return -1 if name in self._unknown else int(self._library.seccomp_syscall_resolve_name(name))

    def seccomp_syscall_resolve_name_arch(self, architecture: int, name: bytes) -> int:
        return -1 if name in self._unknown else int(self._library.seccomp_syscall_resolve_name_arch(architecture, name))


def test_a_call_that_an_older_libseccomp_does_not_know_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    library = OlderLibrary(b"futex_waitv", b"mount_setattr", b"memfd_secret")
    monkeypatch.setattr(seccomp, "_library", lambda: library)
    program = system_call_filter.__wrapped__("aarch64")
    futex_waitv, mount_setattr, memfd_secret, pidfd_open, pidfd_getfd = 449, 442, 447, 434, 438
    asked = [verdict(program, 0xC00000B7, number) for number in (futex_waitv, mount_setattr, memfd_secret)]
    assert asked == [NO_SUCH_CALL] * 3
    assert verdict(program, 0xC00000B7, pidfd_open) == ALLOW
    assert verdict(program, 0xC00000B7, pidfd_getfd) == REFUSE


def test_a_machine_that_counts_its_calls_otherwise_keeps_all_of_them() -> None:
    program = system_call_filter("mips64")  # from 5000 on; libseccomp takes the architecture that it runs on
    assert verdict(program, X86_64 if platform.machine() == "x86_64" else CALLS[2].architecture, 5000) == ALLOW


def test_the_filter_kills_calls_of_any_other_architecture() -> None:
    killed = 0
    program = system_call_filter("x86_64")
    assert verdict(program, 0xC00000B7, 63) == killed
    assert verdict(program, X86_64, 0x40000000 | 41, 1) == killed  # x32


def test_libseccomp_knows_every_listed_system_call() -> None:
    library = ctypes.CDLL("libseccomp.so.2")
    newer_than_debian_11 = {"memfd_secret", "quotactl_fd", "mount_setattr", "process_mrelease", "futex_waitv"}
    newer_than_debian_11 |= {"set_mempolicy_home_node", "landlock_add_rule", "landlock_create_ruleset"}
    newer_than_debian_11 |= {"landlock_restrict_self", "epoll_pwait2"}
    listed = {*ALLOWED, *REFUSED, *ABSENT}
    assert len(listed) == len((*ALLOWED, *REFUSED, *ABSENT))
    known = {name for name in listed if library.seccomp_syscall_resolve_name(name.encode()) != -1}
    assert known >= listed - newer_than_debian_11


@pytest.mark.system
@pytest.mark.parametrize("program", WORK)
async def test_what_tasks_run_works_under_the_filter(program: str, workspace: Path) -> None:
    if shutil.which(program.split()[0], path=COMMAND_ENVIRONMENT["PATH"]) is None:
        pytest.skip(f"{program} is not installed")
    result = await sh(Bubblewrap(), workspace, WORK[program])
    assert result.exit_code == 0, result.output
    assert not re.search("not implemented|not permitted|not supported", result.output), result.output


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
