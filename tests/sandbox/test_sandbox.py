"""What every runner promises: bubblewrap, the sandbox service, and unconfined."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pibot.background import BackgroundLoop
from pibot.contracts import CommandResult
from pibot.errors import SandboxUnavailable, SettingsError, ToolError
from pibot.sandbox import create_command_runner
from pibot.sandbox.limits import DEFAULT_COMMAND_LIMITS
from tests.sandbox.support import LONG, Runner, fifo, open_descriptors, sh, sleeper
from tests.support.processes import processes_with
from tests.support.sandbox_service import sandbox_service


async def test_a_commands_output_and_exit_code_come_back(runner: Runner, workspace: Path) -> None:
    result = await sh(runner, workspace, "echo out; echo err >&2; echo out again; exit 3")
    assert result == CommandResult(3, "out\nerr\nout again\n")


async def test_a_command_works_in_its_workspace_and_what_it_writes_stays(runner: Runner, workspace: Path) -> None:
    result = await sh(runner, workspace, 'echo hello > ~/a.txt; [ "$PWD" = "$HOME" ] && cat a.txt')
    assert result.output == "hello\n"
    assert (workspace / "a.txt").read_text() == "hello\n"


async def test_a_command_gets_none_of_the_services_environment(
    runner: Runner, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLC_API_KEY", "sk-secret")
    result = await runner.run(["env"], workspace=workspace, timeout=LONG)
    names = {line.partition("=")[0] for line in result.output.splitlines()}
    assert names - {"PWD"} == {"PATH", "HOME", "LANG", "TERM"}


async def test_a_command_reads_all_of_its_stdin_and_nothing_where_none_is_given(
    runner: Runner, workspace: Path
) -> None:
    result = await runner.run(["wc", "-c"], workspace=workspace, timeout=LONG, stdin=b"x" * 3_000_000)
    nothing = await runner.run(["wc", "-c"], workspace=workspace, timeout=LONG)
    assert (result.output, nothing.output) == ("3000000\n", "0\n")


async def test_the_signal_that_ended_a_program_is_its_negative_exit_code(runner: Runner, workspace: Path) -> None:
    assert (await sh(runner, workspace, "kill -SEGV $$")).exit_code == -signal.SIGSEGV


async def test_a_missing_program_is_a_tool_error(runner: Runner, workspace: Path) -> None:
    with pytest.raises(ToolError, match="no-such-program can't be started: No such file") as caught:
        await runner.run(["no-such-program"], workspace=workspace, timeout=LONG)
    assert not isinstance(caught.value, SandboxUnavailable)


async def test_output_that_is_not_utf8_still_becomes_text(runner: Runner, workspace: Path) -> None:
    assert (await sh(runner, workspace, r"printf 'a\xffb'")).output == "a\ufffdb"


async def test_background_processes_end_with_their_command(runner: Runner, workspace: Path, token: str) -> None:
    command = (
        f"{sleeper(token)} & setsid {sleeper(token)} & "
        f"(env -i setsid -f setsid -f {sleeper(token)} </dev/null >/dev/null 2>&1); "
        "echo done"
    )
    result = await sh(runner, workspace, command)
    assert (result.exit_code, result.output, result.timed_out) == (0, "done\n", False)
    assert processes_with(token) == []


async def test_at_the_deadline_the_whole_process_tree_is_ended(runner: Runner, workspace: Path, token: str) -> None:
    command = f"echo begun; {sleeper(token)} & setsid {sleeper(token)} & trap '' TERM INT HUP; {sleeper(token)}"
    result = await sh(runner, workspace, command, timeout=1.0)
    assert (result.exit_code, result.output, result.timed_out) == (-signal.SIGKILL, "begun\n", True)
    assert processes_with(token) == []


@pytest.mark.parametrize("times", [1, 3])
async def test_after_a_cancellation_the_whole_process_tree_is_gone(
    runner: Runner, workspace: Path, token: str, times: int
) -> None:
    with fifo(workspace / "ready") as ready:
        command = f"{sleeper(token)} & setsid -f {sleeper(token)}; trap '' TERM; echo >ready; {sleeper(token)}"
        running = asyncio.ensure_future(sh(runner, workspace, command))
        await ready()
        assert len(processes_with(token)) >= 3
        for _ in range(times):
            running.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await running
    assert processes_with(token) == []


async def test_a_command_cancelled_before_it_began_leaves_nothing(runner: Runner, workspace: Path, token: str) -> None:
    await sh(runner, workspace, "true")  # the first command also runs the runner's own check
    descriptors = open_descriptors()
    running = asyncio.ensure_future(sh(runner, workspace, sleeper(token)))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert processes_with(token) == []
    assert open_descriptors() == descriptors


async def test_a_flood_of_output_is_ended_and_its_beginning_and_end_are_kept(runner: Runner, workspace: Path) -> None:
    result = await sh(runner, workspace, "echo first; exec yes")
    assert result.truncated
    assert not result.timed_out
    assert result.exit_code == -signal.SIGKILL
    assert result.output.startswith("first\ny\ny\n")
    assert result.output.endswith("y\ny\n")
    assert len(result.output) < DEFAULT_COMMAND_LIMITS.output_chars + 100


async def test_a_talkative_command_still_does_its_work(runner: Runner, workspace: Path) -> None:
    result = await sh(runner, workspace, "seq 1 200000; echo finished | tee done.txt")
    assert (result.exit_code, result.truncated) == (0, True)
    assert result.output.startswith("1\n2\n")
    assert result.output.endswith("200000\nfinished\n")
    assert "bytes of output were dropped here" in result.output
    assert (workspace / "done.txt").exists()


async def test_a_file_beyond_the_limit_is_not_written(runner: Runner, workspace: Path) -> None:
    result = await sh(runner, workspace, "head -c 70000000 /dev/zero > big; echo $?; stat -c %s big")
    assert result.output.splitlines()[-1] == str(DEFAULT_COMMAND_LIMITS.file_bytes)


async def test_memory_beyond_the_limit_is_refused(runner: Runner, workspace: Path) -> None:
    result = await sh(runner, workspace, "head -c 400000000 /dev/zero | tail -n 1 | wc -c")
    assert "memory exhausted" in result.output


async def test_the_other_limits_hold_and_out_of_memory_ends_the_command_before_the_worker(
    runner: Runner, workspace: Path
) -> None:
    result = await sh(runner, workspace, "ulimit -c; ulimit -t; ulimit -n; cat /proc/self/oom_score_adj")
    assert result.output.split() == ["0", "600", "256", "1000"]


async def test_no_descriptor_leaks_on_either_side(runner: Runner, workspace: Path) -> None:
    await sh(runner, workspace, "true")  # the first command also runs the runner's own check
    descriptors = open_descriptors()
    inside = await sh(runner, workspace, "cd /proc/self/fd && echo *")
    await sh(runner, workspace, "cat", stdin=b"x")
    with pytest.raises(ToolError):
        await runner.run(["no-such-program"], workspace=workspace, timeout=LONG)
    await sh(runner, workspace, "sleep 1000", timeout=0.2)
    assert open_descriptors() == descriptors
    assert [fd for fd in inside.output.split() if int(fd) > 2] in ([], ["3"], ["255"], ["3", "255"])


async def test_commands_run_side_by_side(runner: Runner, workspace: Path) -> None:
    with fifo(workspace / "a"), fifo(workspace / "b"):
        results = await asyncio.gather(
            sh(runner, workspace, "read x <a; echo got $x; echo 2 >b"),
            sh(runner, workspace, "echo 1 >a; read x <b; echo got $x"),
        )
    assert [r.output for r in results] == ["got 1\n", "got 2\n"]


def test_commands_run_in_a_loop_of_a_background_thread(runner: Runner, workspace: Path, token: str) -> None:
    loop = BackgroundLoop()
    try:
        assert loop.run(sh(runner, workspace, "echo hi")).result(LONG).output == "hi\n"
        assert loop.run(sh(runner, workspace, sleeper(token), timeout=0.2)).result(LONG).timed_out
    finally:
        loop.stop()


SERVICE = """
import asyncio, sys
from pathlib import Path
from pibot.sandbox import create_command_runner
from pibot.sandbox.remote import RemoteSandbox
mode, folder, command = sys.argv[1:]
workspace = Path(folder)
socket = workspace.parent / "sandbox.socket"
runner = RemoteSandbox(socket, workspace.parent) if mode == "service" else create_command_runner(mode)
asyncio.run(runner.run(["bash", "-c", command], workspace=workspace, timeout=1000))
"""


@pytest.fixture
def beside(mode: str, tmp_path: Path) -> Iterator[None]:
    """The sandbox service in mode ``service``; it outlives the killed worker."""
    with sandbox_service(tmp_path, tmp_path) if mode == "service" else contextlib.nullcontext():
        yield


@pytest.mark.system
@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("mode", ["bwrap", "off", "service"])
async def test_when_the_service_is_killed_its_commands_are_ended(mode: str, workspace: Path, token: str) -> None:
    with fifo(workspace / "ready") as ready:
        command = f"{sleeper(token)} & setsid -f {sleeper(token)}; echo >ready; {sleeper(token)}"
        service = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVICE, mode, str(workspace), command)
        await ready()
        left = {os.pidfd_open(pid) for pid in processes_with(token) if pid != service.pid}
        service.kill()
        await service.wait()
    while left:
        ended, _, _ = select.select(left, [], [], LONG)
        assert ended
        for fd in ended:
            os.close(fd)
        left -= set(ended)


@pytest.mark.system
@pytest.mark.timeout(60)
@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("mode", ["bwrap", "off", "service"])
def test_when_the_service_is_killed_while_a_command_starts_nothing_is_left(
    mode: str, workspace: Path, token: str
) -> None:
    try:
        for _ in range(5):
            service = subprocess.Popen([sys.executable, "-c", SERVICE, mode, str(workspace), sleeper(token)])
            while processes_with(token) in ([], [service.pid]):
                pass  # the first of the command's own processes has not begun yet
            service.kill()
            service.wait()
            while processes_with(token):
                pass  # the test's time limit ends this where one stays
    finally:
        for pid in processes_with(token):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_another_mode_is_refused() -> None:
    with pytest.raises(SettingsError, match="PIBOT_SANDBOX must be bwrap or off, not 'none'"):
        create_command_runner("none")
