"""Keep other processes out of this one's memory, where the keys are."""

from __future__ import annotations

import os
import resource

_PR_SET_DUMPABLE = 4  # prctl(2)


# docs/decisions.md, D52
def keep_memory_private() -> None:
    """Forbid core dumps of this process, and debuggers and ``/proc/PID/environ`` to others of its user.

    This does not extend to programs that it starts: the kernel resets it with each exec.

    Raises:
        OSError: the kernel refused.
    """
    # _ctypes is the part of ctypes that calls functions, with a third of its memory.
    import _ctypes

    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if soft != 0:  # a systemd unit may have set it to 0 already, and forbid the call
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    prctl = _ctypes.dlsym(_ctypes.dlopen("libc.so.6", os.RTLD_NOW), "prctl")
    if _ctypes.call_function(prctl, (_PR_SET_DUMPABLE, 0, 0, 0, 0)) != 0:
        raise OSError("prctl(PR_SET_DUMPABLE) failed")
