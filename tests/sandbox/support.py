"""What the tests of the sandbox share: running a shell command, waiting for it, finding its processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Union

from pibot.contracts import CommandResult
from pibot.sandbox.bubblewrap import Bubblewrap
from pibot.sandbox.remote import RemoteSandbox
from pibot.sandbox.unconfined import Unconfined

Runner = Union[Bubblewrap, Unconfined, RemoteSandbox]
LONG = 60.0
"""Seconds that no command of these tests needs; one that runs into it was not ended in time."""


async def sh(runner: Runner, workspace: Path, command: str, **options: Any) -> CommandResult:
    """Run a bash command line."""
    return await runner.run(["bash", "-c", command], workspace=workspace, **{"timeout": LONG, **options})


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def sleeper(token: str) -> str:
    """Return a command that sleeps for long and that ``token`` identifies."""
    return f"bash -c 'sleep 1000; : {token}'"


@contextlib.contextmanager
def fifo(path: Path) -> Iterator[Callable[[], Awaitable[None]]]:
    """Make a pipe at ``path``; the returned function waits until a command has written to it."""
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    async def written() -> None:
        event = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(fd, event.set)
        try:
            await asyncio.wait_for(event.wait(), LONG)
        finally:
            loop.remove_reader(fd)

    try:
        yield written
    finally:
        os.close(fd)


def open_descriptors() -> int:
    return len(names_in(Path("/proc/self/fd")))
