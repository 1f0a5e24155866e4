"""Commands make dangerous system calls. The kernel gets each of them without the sandbox, and none in it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import pty
import termios
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.security.attacks import as_root, bare, both, boxed, python, weakened

pytestmark = pytest.mark.system

CALLS: Mapping[str, tuple[int, ...]] = {
    # The arguments are invalid addresses, descriptors and flags, so that a call that gets through does no harm.
    "ptrace": (0,),
    "process_vm_readv": (0, 0, 0, 0, 0, 99),
    "process_vm_writev": (0, 0, 0, 0, 0, 99),
    "pidfd_getfd": (-1, 0, 99),
    "kcmp": (0, 0, 99),
    "add_key": (0, 0, 0, 0, 0),
    "request_key": (0, 0, 0, 0),
    "keyctl": (0, -3, 0),
    "bpf": (99, 0, 0),
    "perf_event_open": (0, 0, -1, -1, 0),
    "userfaultfd": (1 << 30,),
    "fanotify_init": (1 << 30,),
    "io_uring_setup": (1, 0),
    "io_uring_enter": (-1, 0, 0, 0, 0),
    "io_uring_register": (-1, 0, 0, 0),
    "kexec_load": (0, 0, 0, 1 << 20),
    "init_module": (0, 0, 0),
    "finit_module": (-1, 0, 0),
    "delete_module": (0, 0),
    "reboot": (0, 0, 0),
    "swapon": (0, 0),
    "swapoff": (0,),
    "acct": (1,),
    "syslog": (99, 0, 0),
    "settimeofday": (1, 1),
    "clock_settime": (99, 0),
    "mount": (0, 1, 0, 0, 0),
    "umount2": (0, 0),
    "pivot_root": (0, 0),
    "chroot": (0,),
    "setns": (-1, 0),
    "open_tree": (-1, 0, 0),
    "move_mount": (-1, 0, -1, 0, 1 << 20),
    "fsopen": (0, 0),
    "mount_setattr": (-1, 0, 0, 0, 0),
    "open_by_handle_at": (-1, 0, 0),
    "name_to_handle_at": (-1, 0, 0, 0, 0),
    "unshare": (0x10000000,),
    "clone3": (0, 0),
    "open_tree_attr": (-1, 0, 0, 0, 0),
    "statmount": (0, 0, 0, 0),
    "listmount": (0, 0, 0, 0),
    "listns": (0, 0, 0, 0),
    "memfd_create": (0, 0),
    "shmget": (0, 0, 0),
    "msgget": (1, 0),
}

NEWER = {"statmount": 457, "listmount": 458, "open_tree_attr": 467, "listns": 470}
"""Calls that this libseccomp may not know, with their number on every architecture."""

ASK = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
found = {{}}
for name, number, arguments in {calls}:
    if not os.fork():  # some of the calls change the process itself
        ctypes.set_errno(0)
        libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
        os._exit(ctypes.get_errno())
    found[name] = os.waitstatus_to_exitcode(os.wait()[1])
print(json.dumps(found))
"""

REFUSED = (errno.EPERM, errno.ENOSYS)


def asking(names: Mapping[str, tuple[int, ...]]) -> str:
    library = ctypes.CDLL("libseccomp.so.2")
    numbers = {name: NEWER.get(name) or library.seccomp_syscall_resolve_name(name.encode()) for name in names}
    calls = [(name, number, names[name]) for name, number in numbers.items() if number >= 0]
    return python(ASK.format(calls=calls))


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[int, int]]:
    """The error of each call without the sandbox and in it. One program makes all calls, which is faster."""
    import asyncio

    command = asking(CALLS)
    with TemporaryDirectory() as folder:
        found = asyncio.run(both(command, Path(folder)))
    without, within = json.loads(found.bare), json.loads(found.boxed)
    return {name: (without[name], within[name]) for name in without}


@pytest.mark.parametrize("name", CALLS)
def test_a_command_is_refused_the_system_call(name: str, answers: Mapping[str, tuple[int, int]]) -> None:
    if name not in answers:
        pytest.skip("this architecture, or this libseccomp, does not know the call")
    without, within = answers[name]
    assert within in REFUSED
    if without in REFUSED:
        pytest.skip("this kernel, or this user's rights, refuse the call without the sandbox as well")


FAMILIES = {"AF_UNIX": 1, "AF_PACKET": 17, "AF_BLUETOOTH": 31, "AF_ALG": 38, "AF_VSOCK": 40, "AF_XDP": 44}

SOCKET = """
import os, socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
    try:
        socket.socket({family}, kind)
        print("made")
    except OSError as exc:
        print(exc.strerror)
"""


@pytest.mark.parametrize("name", FAMILIES)
async def test_a_command_makes_no_socket_of_the_family(name: str, workspace: Path) -> None:
    command = python(SOCKET.format(family=FAMILIES[name]))
    assert "made" not in await boxed(command, workspace, network=True)
    if "made" not in await bare(command, workspace):
        pytest.skip("this kernel has no such sockets")


@as_root
async def test_a_command_sends_no_raw_packets(workspace: Path) -> None:
    found = await both(python("import socket; socket.socket(2, socket.SOCK_RAW, 1); print('made')"), workspace)
    assert "made" in found.bare
    assert "made" not in found.boxed


NAMESPACES = {
    "a user namespace": "unshare -U",
    "a user namespace as its root": "unshare -Ur",
    "a mount namespace in it": "unshare -Urm",
    "a network namespace in it": "unshare -Urn",
    "a process namespace in it": "unshare -Urpf",
}


@pytest.mark.parametrize("program", NAMESPACES.values(), ids=list(NAMESPACES))
async def test_a_command_makes_no_nested_namespace(program: str, workspace: Path) -> None:
    found = await both(f"{program} echo nested", workspace)
    assert "nested" not in found.boxed
    assert "nested" in found.bare


MOUNTING = {
    "a folder of memory": "mount -t tmpfs none there",
    "the hosts disk over its own": "mount --bind / there",
    "proc anew": "mount -t proc proc there",
    "the system for writing": "mount -o remount,rw,bind /usr",
    "an overlay": "mount -t overlay -o lowerdir=/usr,upperdir=there,workdir=work overlay there",
}


@as_root
@pytest.mark.parametrize("attack", MOUNTING.values(), ids=list(MOUNTING))
async def test_a_command_mounts_nothing(attack: str) -> None:
    # On a tmpfs, since an overlay can't be mounted on another overlay's folder.
    with TemporaryDirectory(dir="/dev/shm") as folder:
        for name in ("there", "work"):
            Path(folder, name).mkdir()
        # Without the sandbox the mount succeeds, so it needs a mount namespace of its own.
        command = f"{attack} && echo mounted"
        assert "mounted" in await bare(f"unshare -m bash -c 'mount --bind /usr /usr; {command}'", Path(folder))


TYPE_INTO_TERMINAL = """
import fcntl, termios, sys
for letter in "rm -rf ~":
    fcntl.ioctl(0, termios.TIOCSTI, letter.encode())
print("typed")
"""


def test_a_command_types_nothing_into_the_terminal_that_the_service_was_started_in(workspace: Path) -> None:
    def attack(**options: object) -> str:
        """Run the attack in a process whose controlling terminal is the attack's standard input."""
        read_end, write_end = os.pipe()
        child, terminal = pty.fork()
        if child == 0:
            printed = weakened(python_file, workspace, stdin=0, **options)  # type: ignore[arg-type]
            os.write(write_end, printed.encode())
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end) as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        os.close(terminal)
        return said

    (workspace / "type.py").write_text(TYPE_INTO_TERMINAL)
    python_file = "/usr/bin/python3 -I type.py"
    assert "typed" not in attack()  # with bubblewrap's --new-session alone
    if "typed" not in attack(without=["--new-session"]):
        pytest.skip("this kernel refuses typing into a terminal (dev.tty.legacy_tiocsti)")


async def test_a_command_types_nothing_into_a_terminal_that_it_inherits(workspace: Path) -> None:
    terminal, other = pty.openpty()
    try:
        name = os.ttyname(other)
        attack = python(f"import fcntl, os, termios; fcntl.ioctl(os.open({name!r}, os.O_RDWR), 0x5412, b'x')")
        assert "Error" in await boxed(attack, workspace)
        assert fcntl.ioctl(terminal, termios.FIONREAD, b"\0" * 4) == b"\0" * 4
    finally:
        os.close(terminal)
        os.close(other)
