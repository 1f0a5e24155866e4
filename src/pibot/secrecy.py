"""What a process does so that its memory, where the keys are, stays its own."""

from __future__ import annotations

import os
import resource

_PR_SET_DUMPABLE = 4  # prctl(2)


def keep_memory_private() -> None:
    """No core dump of this process, and no look into it by others of its user: debuggers, ``/proc/PID/environ``.

    A program that it starts is not held to it: the kernel sets that anew with each exec.

    Raises:
        OSError: the kernel refused.
    """
    # Not ctypes: this is the part of it that calls a function, a third of its memory.
    import _ctypes

    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if soft != 0:  # a unit may have set it, and forbid the call
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    prctl = _ctypes.dlsym(_ctypes.dlopen("libc.so.6", os.RTLD_NOW), "prctl")
    if _ctypes.call_function(prctl, (_PR_SET_DUMPABLE, 0, 0, 0, 0)) != 0:
        raise OSError("prctl(PR_SET_DUMPABLE) failed")
