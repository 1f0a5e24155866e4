"""Start a process, and watch its output and its end from the event loop."""

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
    """A process, started at once. Create and use it within one event loop, in any thread.

    A pidfd tells its end. asyncio's child watchers would cost a thread for each process before Python 3.12.

    Args:
        argv: the program and its arguments.
        env: its whole environment.
        cwd: its working directory.
        stdin: its input.
        pass_fds: descriptors that it inherits.
        output: takes its stdout and stderr as they come.
        flood_bytes: bytes of output after which :attr:`flooded` is set.

    Raises:
        OSError: the process could not be started.
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
        """The exit code of the ended process; negative for the signal that ended it."""
        assert self._popen.returncode is not None
        return self._popen.returncode

    @property
    def pidfd(self) -> int:
        """A descriptor that becomes readable when the process ends; valid until the loop has noticed that."""
        return self._pidfd.fd

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self._popen.returncode is None:
            self._pidfd.signal(number)

    def close(self) -> None:
        """Read what the ended process left in the pipe, and close the descriptors."""
        self._loop.remove_reader(self._pipe)
        # At most one pipe full: a stray process that still writes must not keep us here.
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
        """Read once. Return whether more may follow; None if there is nothing now."""
        try:
            data = os.read(self._pipe, CHUNK)
        except BlockingIOError:
            return None
        self._output.add(data)
        return bool(data)


_F_GETPIPE_SZ = 1032  # fcntl.F_GETPIPE_SZ, which Python names from 3.10 on


class PidFd:
    """A process, held by a descriptor: no later process can be mistaken for it, as with a process id.

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
        """Call ``then`` once when the process is gone."""
        self._then = then

    def signal(self, number: int) -> None:
        """Send a signal, unless the process is gone."""
        if not self.gone.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.fd, number)

    def _readable(self) -> None:
        self._loop.remove_reader(self.fd)
        os.close(self.fd)
        self.gone.set_result(None)
        if self._then is not None:
            self._then()


async def supervise(
    child: CommandProcess,
    *,
    timeout: float,
    end: Callable[[], Awaitable[None]],
    begin: Callable[[], None] = lambda: None,
) -> bool:
    """Wait until a process ends, its time is up, it floods its output, or the caller is cancelled; then clean up.

    Args:
        timeout: seconds.
        end: ends the whole process tree and returns when it is gone. Runs exactly once, to its end, in every case.
        begin: called first, with the process running.

    Returns:
        Whether the time was up.

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
            await run_to_end(end())
        finally:
            child.close()
    return timed_out


async def run_to_end(work: Awaitable[None]) -> None:
    """Await ``work`` to its end. A cancellation of the caller meanwhile is raised only after that."""
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
