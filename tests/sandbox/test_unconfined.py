from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pibot.errors import SandboxUnavailable, ToolError
from pibot.sandbox.limits import DEFAULT_COMMAND_LIMITS, tasks_of
from pibot.sandbox.unconfined import Unconfined
from tests.sandbox.support import sh, sleeper
from tests.support.processes import processes_with


async def test_an_unconfined_command_that_signals_its_own_group_hits_only_itself(
    unconfined: Unconfined, workspace: Path
) -> None:
    result = await sh(unconfined, workspace, "echo hi; kill -KILL 0")
    assert (result.output, result.exit_code) == ("hi\n", -signal.SIGKILL)


async def test_a_stopped_supervisor_is_woken_at_the_deadline(
    unconfined: Unconfined, workspace: Path, token: str
) -> None:
    result = await sh(unconfined, workspace, f"kill -STOP $PPID; {sleeper(token)}", timeout=1.0)
    assert result.timed_out
    assert processes_with(token) == []


async def test_a_killed_supervisor_shows_in_the_exit_code(unconfined: Unconfined, workspace: Path) -> None:
    assert (await sh(unconfined, workspace, "kill -KILL $PPID; exit 0")).exit_code == -signal.SIGKILL


async def test_an_unconfined_command_cannot_become_another_user(unconfined: Unconfined, workspace: Path) -> None:
    result = await sh(unconfined, workspace, "grep NoNewPrivs /proc/self/status")
    assert result.output == "NoNewPrivs:\t1\n"


async def test_a_missing_workspace_is_an_error_of_the_command(unconfined: Unconfined, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="No such file") as caught:
        await sh(unconfined, tmp_path / "gone", "true")
    assert not isinstance(caught.value, SandboxUnavailable)


@pytest.mark.parametrize("command", ["true " + "x" * 200_000, "true \0"], ids=["too long", "a NUL"])
async def test_a_command_that_cannot_be_started_is_its_own_error_and_the_next_one_runs(
    unconfined: Unconfined, workspace: Path, command: str
) -> None:
    with pytest.raises(ToolError, match="can't be started") as caught:
        await sh(unconfined, workspace, command)
    assert not isinstance(caught.value, SandboxUnavailable)
    assert (await sh(unconfined, workspace, "echo on")).output == "on\n"


def test_the_supervisor_imports_nothing_of_the_package() -> None:
    program = textwrap.dedent("""
        import json, runpy, sys
        runpy.run_module("pibot.sandbox.supervisor", run_name="looked_at")
        print(json.dumps([m for m in sys.modules if m.startswith("pibot") and "sandbox" not in m]))
    """)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(json.loads(result.stdout)) <= {"pibot", "pibot.errors"}  # of pibot.sandbox's own __init__


async def test_an_unconfined_commands_process_limit_comes_on_top_of_the_users_own_processes(
    unconfined: Unconfined, workspace: Path
) -> None:
    own = tasks_of(os.geteuid())
    allowed = int((await sh(unconfined, workspace, "ulimit -u")).output)
    assert allowed > DEFAULT_COMMAND_LIMITS.processes
    assert own > 1
