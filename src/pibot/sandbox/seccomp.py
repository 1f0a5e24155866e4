"""The filter of system calls for confined commands: what ordinary programs need, without what exposes the kernel.

Namespaces and mounts decide what a command sees. This filter shrinks the part of the kernel that it can attack.
libseccomp, which systemd brings to every Debian, makes the filter for each architecture that the machine's kernel may
run: a 32-bit system under a 64-bit kernel is common on a Pi. The list of refused calls starts from docker's and
systemd's (``systemd-analyze syscall-filter``) and adds calls that a sandboxed command without privileges can't use.
Calls newer than the list do not exist for a command, whatever the kernel has; see docs/decisions.md, D113.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence
from functools import cache
from typing import Any

from pibot.errors import SandboxUnavailable

_TRACING = "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp"
_KEYS = "add_key request_key keyctl"
_KERNEL = (
    "bpf perf_event_open userfaultfd fanotify_init lookup_dcookie syslog acct quotactl quotactl_fd nfsservctl "
    "kexec_load kexec_file_load init_module finit_module delete_module create_module query_module reboot "
    "swapon swapoff iopl ioperm modify_ldt vm86 vm86old vhangup uselib"
)
_CLOCK = "settimeofday clock_settime clock_settime64 clock_adjtime clock_adjtime64 adjtimex stime"
_MOUNTS = (
    "mount umount umount2 pivot_root chroot setns unshare open_tree move_mount mount_setattr "
    "fsopen fsconfig fsmount fspick open_by_handle_at name_to_handle_at"
)
REFUSED = tuple(f"{_TRACING} {_KEYS} {_KERNEL} {_CLOCK} {_MOUNTS}".split())
"""System calls that fail with EPERM."""

_MEMORY = "memfd_create memfd_secret shmget msgget"
ABSENT = ("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3", *_MEMORY.split())
"""System calls that fail with ENOSYS, so that programs use an older one. clone3's flags lie in memory, which a filter
can't read; clone's do not. The memory of unnamed files, System V segments and queues is not any process's own, so that
no limit counts it; programs use ``/tmp`` or ``/dev/shm`` instead, which have a size."""

_CLONE_NEWUSER = 0x10000000
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: fake typing into a terminal
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16  # the C library lists network interfaces by netlink

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_GREATER_OR_EQUAL, _EQUAL_BY_MASK = 5, 7
_INT = 0xFFFFFFFF  # the kernel reads these arguments as 32 bits, whatever else the register holds

_X86, _X86_64, _ARM, _AARCH64 = 0x40000003, 0xC000003E, 0x40000028, 0xC00000B7  # AUDIT_ARCH_…
_RUNS_TOO = {"x86_64": (_X86_64, _X86), "aarch64": (_AARCH64, _ARM)}
"""What a kernel of each machine type can run. Any other type gets a filter for its own architecture alone."""

FIRST_NEWER = 451
"""The first system call that came after Linux 6.1, Debian 12's. From 424 on, calls have one number everywhere."""

_FIRST_PRIVATE = 0xF0000
"""From here on 32-bit ARM has calls of its own, such as one to flush the instruction cache."""

_LOAD_NUMBER, _JUMP_IF_GREATER_OR_EQUAL, _RETURN = 0x20, 0x35, 0x06  # of linux/bpf_common.h

_NEWER_IS_ABSENT = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (_LOAD_NUMBER, 0, 0, 0),
        (_JUMP_IF_GREATER_OR_EQUAL, 0, 2, FIRST_NEWER),
        (_JUMP_IF_GREATER_OR_EQUAL, 1, 0, _FIRST_PRIVATE),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    )
)
"""Instructions before libseccomp's: it makes no rule for a range of calls, nor for calls that it does not know."""

_EEXIST = -errno.EEXIST


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


@cache
def system_call_filter(machine: str = platform.machine()) -> bytes:
    """Return the filter as bubblewrap's ``--seccomp`` reads it.

    Args:
        machine: the kernel's name of the architecture, such as ``aarch64``.

    Raises:
        SandboxUnavailable: libseccomp is missing, or fails.
    """
    program = _Filter(_library()).program(_RUNS_TOO.get(machine, ()))
    # Some other architectures count their calls from a number of their own.
    return _NEWER_IS_ABSENT + program if machine in _RUNS_TOO else program


class _Filter:
    """Builds one filter; see seccomp_rule_add(3)."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def program(self, architectures: Sequence[int]) -> bytes:
        self._context = self._library.seccomp_init(_ALLOW)
        if not self._context:
            raise SandboxUnavailable("libseccomp made no filter; is there any memory left?")
        try:
            for architecture in architectures:
                self._check(self._library.seccomp_arch_add(self._context, architecture), "the architecture")
            self._add_rules()
            return self._export()
        finally:
            self._library.seccomp_release(self._context)

    def _add_rules(self) -> None:
        for name in REFUSED:
            self._refuse(name, errno.EPERM)
        for name in ABSENT:
            self._refuse(name, errno.ENOSYS)
        self._refuse("clone", errno.EPERM, _Comparison(0, _EQUAL_BY_MASK, _CLONE_NEWUSER, _CLONE_NEWUSER))
        for request in _TERMINAL_INPUT:
            self._refuse("ioctl", errno.EPERM, _Comparison(1, _EQUAL_BY_MASK, _INT, request))
        for family in range(_AF_UNIX, _AF_NETLINK):
            if family not in (_AF_INET, _AF_INET6):
                self._refuse("socket", errno.EAFNOSUPPORT, _Comparison(0, _EQUAL_BY_MASK, _INT, family))
        self._refuse("socket", errno.EAFNOSUPPORT, _Comparison(0, _GREATER_OR_EQUAL, _AF_NETLINK + 1, 0))

    def _refuse(self, name: str, error: int, *comparisons: _Comparison) -> None:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number == -1:
            return  # this libseccomp is older than the call
        array = (_Comparison * len(comparisons))(*comparisons)
        status = self._library.seccomp_rule_add_array(self._context, _ERRNO | error, number, len(comparisons), array)
        self._check(status, name)

    def _export(self) -> bytes:
        fd = os.memfd_create("filter")
        try:
            self._check(self._library.seccomp_export_bpf(self._context, fd), "the filter")
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def _check(self, status: int, what: str) -> None:
        if status not in (0, _EEXIST):
            raise SandboxUnavailable(f"libseccomp refuses {what}: {os.strerror(-status)}")


# docs/decisions.md, D48
def _library() -> Any:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as exc:
        raise SandboxUnavailable(f"commands can't be confined: {exc}; run 'sudo apt install libseccomp2'") from exc
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    )
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return library
