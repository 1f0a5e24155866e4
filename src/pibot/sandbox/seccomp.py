"""The filter of system calls for confined commands: what ordinary programs need, without what exposes the kernel.

Namespaces and mounts decide what a command sees. This filter shrinks the part of the kernel that it can attack. It
covers each architecture that the machine's kernel may run: a 32-bit system under a 64-bit kernel is common on a Pi.

It has two parts. A gate lets the calls of :mod:`.system_calls` through by their numbers, and answers any other with
ENOSYS. libseccomp, which systemd brings to every Debian, knows the numbers, and makes the second part: it refuses
calls of those, and arguments of some; see docs/decisions.md, D113.
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
from pibot.sandbox.system_calls import ABSENT, ALLOWED, REFUSED

_CLONE_NEWUSER = 0x10000000
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: fake typing into a terminal
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16  # the C library lists network interfaces by netlink

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_GREATER_OR_EQUAL, _EQUAL_BY_MASK = 5, 7
_INT = 0xFFFFFFFF  # the kernel reads these arguments as 32 bits, whatever else the register holds

_X86, _X86_64, _ARM, _AARCH64 = 0x40000003, 0xC000003E, 0x40000028, 0xC00000B7  # AUDIT_ARCH_…
_RUNS_TOO = {
    "x86_64": (_X86_64, _X86),
    "aarch64": (_AARCH64, _ARM),
    **dict.fromkeys(("i386", "i486", "i586", "i686"), (_X86,)),
    **dict.fromkeys(("armv6l", "armv7l", "armv8l"), (_ARM,)),
}
"""What a kernel of each machine type can run. Any other type gets only libseccomp's part for its own architecture."""

_BEHIND_ONE_CALL = (337, 345, *range(359, 403))
"""Calls of 32-bit x86 for sockets and System V's memory, which it also has behind ``socketcall`` and ``ipc``. Asked by
these names, libseccomp gives numbers of its own; other architectures have no such pairs."""

_X32 = 0x40000000
"""From here on x86_64 has the calls of a third architecture. libseccomp's part kills them."""

_LOAD, _JUMP, _JUMP_IF_EQUAL, _JUMP_IF_GREATER_OR_EQUAL, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x06  # linux/bpf_common.h
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4  # in struct seccomp_data

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
    library = _library()
    architectures = _RUNS_TOO.get(machine, ())
    return _gate(library, architectures) + _Filter(library).program(architectures)


_Instruction = tuple[int, int, int, int]


def _gate(library: Any, architectures: Sequence[int]) -> bytes:
    """Return instructions that answer calls in no list with ENOSYS, and go on behind them for all others."""
    if not architectures:
        return b""
    blocks = [_search(_starts(_numbers(library, architecture), architecture)) for architecture in architectures]
    program: list[_Instruction] = [(_LOAD, 0, 0, _ARCHITECTURE_OFFSET)]
    at = 1 + 2 * len(blocks) + 1
    for architecture, block in zip(architectures, blocks):
        program.append((_JUMP_IF_EQUAL, 0, 1, architecture))
        program.append((_JUMP, 0, 0, at - len(program) - 1))
        at += 1 + len(block)
    program.append(_ONWARD)  # libseccomp's part kills calls of any other architecture
    for block in blocks:
        program += [(_LOAD, 0, 0, _NUMBER_OFFSET), *block]
    end = len(program)
    # Only now is it known how far it is to the end.
    placed = ((_JUMP, 0, 0, end - at - 1) if one is _ONWARD else one for at, one in enumerate(program))
    return b"".join(struct.pack("=HBBI", *one) for one in placed)


_ONWARD: _Instruction = (_JUMP, 0, 0, 0)
_ABSENT: _Instruction = (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)


def _search(starts: Sequence[tuple[int, bool]]) -> list[_Instruction]:
    """Return a binary search over ranges of numbers: the first number of each, and whether its calls go on."""
    if len(starts) == 1:
        return [_ONWARD if starts[0][1] else _ABSENT]
    middle = len(starts) // 2
    below, above = _search(starts[:middle]), _search(starts[middle:])
    return [(_JUMP_IF_GREATER_OR_EQUAL, len(below), 0, starts[middle][0]), *below, *above]


def _starts(numbers: Sequence[int], architecture: int) -> list[tuple[int, bool]]:
    """Return where ranges of numbers begin that are in the list (True) or not (False)."""
    known = set(numbers)
    edges = sorted({0, *numbers, *(number + 1 for number in numbers)})
    starts = [(edge, edge in known) for edge in edges]
    starts = [start for at, start in enumerate(starts) if at == 0 or start[1] != starts[at - 1][1]]
    return [*starts, (_X32, True)] if architecture == _X86_64 else starts


def _numbers(library: Any, architecture: int) -> list[int]:
    """Return the numbers of all calls that this libseccomp knows and that are allowed, or refused with EPERM."""
    known = [name.encode() for name in (*ALLOWED, *REFUSED)]
    numbers = [library.seccomp_syscall_resolve_name_arch(architecture, name) for name in known]
    if architecture == _X86:
        numbers += [number for number in _BEHIND_ONE_CALL if _name(library, architecture, number) in known]
    return [number for number in numbers if number >= 0]


def _name(library: Any, architecture: int, number: int) -> bytes:
    pointer = library.seccomp_syscall_resolve_num_arch(architecture, number)
    if not pointer:
        return b""
    try:
        return ctypes.string_at(pointer)
    finally:
        library.free(pointer)


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
    library.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    library.seccomp_syscall_resolve_num_arch.argtypes = (ctypes.c_uint32, ctypes.c_int)
    library.free.argtypes = (ctypes.c_void_p,)  # found among the C library's functions
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
