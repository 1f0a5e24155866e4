"""A started process as the event loop sees it: what it writes, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import subprocess
from collections.abc import Awaitable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Callable

from pibot.errors import SandboxUnavailable
from pibot.sandbox.pipes import CHUNK, Output, memory_file


class CommandProcess:
    """One process, started at once. Made and used within one event loop, in whichever thread that runs.

    It is watched through a pidfd, not by asyncio's child watchers, which before Python 3.12 cost a thread for each
    process.

    Args:
        argv: the program and its arguments.
        env: its whole environment.
        cwd: its working directory.
        stdin: what it can read.
        pass_fds: descriptors that it inherits.
        output: where its stdout and stderr go, as they come.
        flood_bytes: how much it may write before :attr:`flooded` is set.

    Raises:
        OSError: it could not be started.
        SandboxUnavailable: the kernel has no pidfds.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdin: bytes,
        pass_fds: Collection[int],
        output: Output,
        flood_bytes: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._output = output
        self._flood_bytes = flood_bytes
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.flooded: asyncio.Future[None] = self._loop.create_future()
        with contextlib.ExitStack() as stack:
            self._pipe, write_end = os.pipe()
            stack.callback(os.close, write_end)
            with contextlib.ExitStack() as on_failure:
                on_failure.callback(os.close, self._pipe)
                self._popen = subprocess.Popen(  # nosec B603 # what a sandbox is for
                    argv,
                    stdin=stack.enter_context(memory_file(stdin)) if stdin else subprocess.DEVNULL,
                    stdout=write_end,
                    stderr=subprocess.STDOUT,
                    env=dict(env),
                    cwd=cwd,
                    pass_fds=tuple(pass_fds),
                    start_new_session=True,
                )
                on_failure.callback(self._abandon)
                self._pidfd = PidFd(self._popen.pid)
                on_failure.pop_all()
        os.set_blocking(self._pipe, False)
        self._pidfd.when_gone(self._reap)
        self._loop.add_reader(self._pipe, self._read)

    @property
    def exit_code(self) -> int:
        """Of the ended process; negative for the signal that ended it."""
        assert self._popen.returncode is not None
        return self._popen.returncode

    @property
    def pidfd(self) -> int:
        """A descriptor that can be read once the process has ended; good until the loop has seen that."""
        return self._pidfd.fd

    def signal(self, number: int) -> None:
        """Send a signal; to a process that has ended, none."""
        if self._popen.returncode is None:
            self._pidfd.signal(number)

    def close(self) -> None:
        """Take what is still in the pipe of the ended process, and give back the descriptors."""
        self._loop.remove_reader(self._pipe)
        # Its writers are gone, so the pipe holds what they left; a stray writer must not keep us here.
        for _ in range(fcntl.fcntl(self._pipe, _F_GETPIPE_SZ) // CHUNK + 1):
            if self._take() is not True:
                break
        os.close(self._pipe)

    def _abandon(self) -> None:
        self._popen.kill()
        self._popen.wait()

    def _reap(self) -> None:
        self._popen.wait()
        self.ended.set_result(None)

    def _read(self) -> None:
        if self._take() is False:
            self._loop.remove_reader(self._pipe)
        if self._output.written > self._flood_bytes and not self.flooded.done():
            self.flooded.set_result(None)

    def _take(self) -> bool | None:
        """Read once: whether more may follow, None where there is nothing now."""
        try:
            data = os.read(self._pipe, CHUNK)
        except BlockingIOError:
            return None
        self._output.add(data)
        return bool(data)


_F_GETPIPE_SZ = 1032  # fcntl.F_GETPIPE_SZ, which Python has a name for from 3.10 on


class PidFd:
    """A process that is known by a descriptor, so that no other can be taken for it when it is gone.

    Raises:
        SandboxUnavailable: the kernel has no pidfds.
    """

    def __init__(self, pid: int) -> None:
        try:
            self.fd = os.pidfd_open(pid)
        except (AttributeError, OSError) as exc:
            if isinstance(exc, OSError) and exc.errno != errno.ENOSYS:
                raise
            raise SandboxUnavailable(
                f"commands can't be watched here ({exc}): pidfd_open is missing; use Linux 5.3 or later"
            ) from exc
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._then: Callable[[], None] | None = None
        self._loop.add_reader(self.fd, self._readable)

    def when_gone(self, then: Callable[[], None]) -> None:
        """Call ``then`` once, when the process is gone."""
        self._then = then

    def signal(self, number: int) -> None:
        """Send a signal; to a process that is gone, none."""
        if not self.gone.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.fd, number)

    def _readable(self) -> None:
        self._loop.remove_reader(self.fd)
        os.close(self.fd)
        self.gone.set_result(None)
        if self._then is not None:
            self._then()


async def attend(
    child: CommandProcess,
    *,
    timeout: float,
    end: Callable[[], Awaitable[None]],
    begin: Callable[[], None] = lambda: None,
) -> bool:
    """Wait for a process to end by itself, for its deadline, for a flood or for the caller's cancellation.

    Args:
        timeout: seconds.
        end: ends the whole tree and returns when it is gone. It is run in any case, to its end, and once.
        begin: what is to be done at once with the process.

    Returns:
        Whether the deadline was reached.

    Raises:
        asyncio.CancelledError: the caller was cancelled; the tree is gone.
    """
    timed_out = False
    try:
        begin()
        done, _ = await asyncio.wait({child.ended, child.flooded}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        timed_out = not done
    finally:
        try:
            await to_its_end(end())
        finally:
            child.close()
    return timed_out


async def to_its_end(work: Awaitable[None]) -> None:
    """Await ``work``, however often the caller is cancelled meanwhile; only then is that heeded."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError
