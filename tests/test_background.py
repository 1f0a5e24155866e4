from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from pibot.background import BackgroundLoop


def test_a_coroutine_runs_in_the_loops_own_thread() -> None:
    loop = BackgroundLoop("a-loop")

    async def name() -> str:
        return threading.current_thread().name

    assert loop.run(name()).result() == "a-loop"
    loop.stop()


def test_stopping_cancels_what_still_runs_and_ends_the_thread() -> None:
    loop = BackgroundLoop("b-loop")
    started = threading.Event()
    cancelled = threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    future = loop.run(work())
    assert started.wait(10)
    loop.stop()
    assert cancelled.is_set()
    assert future.cancelled()
    assert "b-loop" not in [thread.name for thread in threading.enumerate()]


def test_a_stopped_loop_takes_no_more_work() -> None:
    loop = BackgroundLoop()
    loop.stop()
    loop.stop()

    async def work() -> None: ...

    with pytest.raises(RuntimeError, match="stopped"):
        loop.run(work())


def test_a_child_process_can_be_awaited_in_the_loop() -> None:
    loop = BackgroundLoop()

    async def child() -> int:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "raise SystemExit(7)")
        return await process.wait()

    assert loop.run(child()).result() == 7
    loop.stop()


def test_asyncio_is_not_imported_before_there_is_work() -> None:
    code = "import sys, pibot.background; pibot.background.BackgroundLoop(); print('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
