"""Which system calls a confined command may make: what ordinary programs need, and not those that open up the kernel.

Namespaces and file systems decide what a command sees; this makes the part of the kernel small that it can attack. The
filter is made by libseccomp, which systemd brings to every Debian, for all architectures that the machine's kernel may
run: a 32-bit system under a 64-bit kernel is common on a Pi. What is refused goes beyond docker's and systemd's lists
(``systemd-analyze syscall-filter``) where a command in a sandbox without privileges has no use for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
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
"""Calls that fail with EPERM."""

ABSENT = ("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3")
"""Calls that fail with ENOSYS, whereupon programs take the older way. clone3's flags lie in memory, out of a filter's
sight; clone's do not."""

_CLONE_NEWUSER = 0x10000000
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: put text into a terminal as if its owner had typed it
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16  # the C library asks netlink for the network's interfaces

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_GREATER_OR_EQUAL, _EQUAL_BY_MASK = 5, 7
_INT = 0xFFFFFFFF  # the kernel reads these arguments as 32 bits, whatever else the register holds

_X86, _X86_64, _ARM, _AARCH64 = 0x40000003, 0xC000003E, 0x40000028, 0xC00000B7  # AUDIT_ARCH_…
_RUNS_TOO = {"x86_64": (_X86_64, _X86), "aarch64": (_AARCH64, _ARM)}
"""By the kernel's name: what it runs. A machine of another kind gets the filter for its own kind alone."""

_EEXIST = -errno.EEXIST


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


@cache
def system_call_filter(machine: str = platform.machine()) -> bytes:
    """The filter as bubblewrap's ``--seccomp`` reads it.

    Args:
        machine: the kernel's name of the machine's architecture.

    Raises:
        SandboxUnavailable: libseccomp is not there, or can't make it.
    """
    return _Filter(_library()).program(_RUNS_TOO.get(machine, ()))


class _Filter:
    """A filter in the making; see seccomp_rule_add(3)."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def program(self, architectures: Sequence[int]) -> bytes:
        self._context = self._library.seccomp_init(_ALLOW)
        if not self._context:
            raise SandboxUnavailable("libseccomp makes no filter; is there no memory left?")
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
            return  # newer than this libseccomp
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
