"""Run a command as a user other than root, since the kernel limits only those users' processes."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Callable

import pytest

from pibot.contracts import CommandResult

NOBODY = 65534


def as_nobody(run: Callable[[], Coroutine[Any, Any, CommandResult]]) -> str:
    """Await ``run()`` in a forked process that has become nobody, and return the command's output.

    A fork keeps the loaded modules, which matters since nobody may not read root's interpreter.
    """
    for folder in Path(__file__).resolve().parents:
        if not folder.stat().st_mode & 0o001:
            pytest.skip(f"{folder} is closed to other users")
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about a fork with threads; the child makes its own loop
        pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            answer = asyncio.run(run()).output
        except BaseException as exc:  # noqa: BLE001  # a forked test process must not go on as pytest
            answer = f"{type(exc).__name__}: {exc}"
        os.write(write_end, answer.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer
