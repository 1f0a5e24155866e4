"""A filter that refuses new user namespaces, for a bubblewrap that can't close them itself (before 0.8).

A program inside a user namespace of its own has every capability there, and with them a far larger part of the
kernel to attack. The filter is classic BPF as in seccomp(2); numbers are from the kernel's ``unistd.h`` and
``audit.h``. All architectures that a machine's kernel may run are in the one filter, since a 32-bit system under a
64-bit kernel is common on a Pi.
"""

from __future__ import annotations

import struct

_ARCHITECTURES = {
    # AUDIT_ARCH_…: (clone, unshare)
    0xC000003E: (56, 272),  # x86_64
    0x40000003: (120, 310),  # i386
    0xC00000B7: (220, 97),  # aarch64
    0x40000028: (120, 337),  # arm, EABI
}
_CLONE3 = 435  # the same everywhere
_X32 = 0x40000000  # marks the numbers of x86_64's third interface
_CLONE_NEWUSER = 0x10000000

_LOAD, _JUMP_EQUAL, _JUMP_FROM, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; all these machines are little-endian
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_EPERM, _ENOSYS = 0x00050000 | 1, 0x00050000 | 38


def no_user_namespaces() -> bytes:
    """The filter: clone and unshare with ``CLONE_NEWUSER`` fail with EPERM.

    clone3 fails with ENOSYS, since its flags lie in memory that a filter can't read; the C libraries then use clone.
    """
    program = [_instruction(_LOAD, _ARCH)]
    for architecture, (clone, unshare) in _ARCHITECTURES.items():
        block = [
            _instruction(_LOAD, _NUMBER),
            _instruction(_JUMP_FROM, _X32, 4, 0),  # to ENOSYS
            _instruction(_JUMP_EQUAL, _CLONE3, 3, 0),  # to ENOSYS
            _instruction(_JUMP_EQUAL, clone, 3, 0),  # to the flags
            _instruction(_JUMP_EQUAL, unshare, 2, 0),  # to the flags
            _instruction(_RETURN, _ALLOW),
            _instruction(_RETURN, _ENOSYS),
            _instruction(_LOAD, _FIRST_ARGUMENT),
            _instruction(_JUMP_SET, _CLONE_NEWUSER, 0, 1),
            _instruction(_RETURN, _EPERM),
            _instruction(_RETURN, _ALLOW),
        ]
        program += [_instruction(_JUMP_EQUAL, architecture, 0, len(block)), *block]
    program.append(_instruction(_RETURN, _KILL))
    return b"".join(program)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One ``struct sock_filter``. Jumps count the instructions to skip."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
