"""The sandbox service as a process behind a real socket; test_sandbox.py tests what every runner promises."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pibot.contracts import CommandResult
from pibot.errors import SandboxUnavailable, ToolError
from pibot.sandbox.remote import RemoteSandbox
from pibot.sandbox.wire import MAX_MESSAGE, MAX_STDIN
from pibot.settings import Settings
from pibot.tool_registry import SkillLibrary
from pibot.worker.agents import create_task_agents
from tests.sandbox.support import fifo
from tests.support.processes import clean_environment, processes_with, serving_process
from tests.support.sandbox_service import Served, sandbox_service
from tests.support.scripted_llm import ScriptedLLM, call, text, tool_calls
from tests.support.serving import ask

LONG = 60.0

TIDY = "import sys, pibot.sandbox.service; print({'flask', 'aiohttp', 'cheroot'} & sys.modules.keys())"
IDLE_WORKER = """
import sys
from pathlib import Path
from pibot.settings import Settings
from pibot.worker.agents import create_task_agents
from pibot.tool_registry import SkillLibrary
settings = Settings(sandbox_socket=Path("s"), worker_soul=Path(sys.argv[1]), skills_dir=Path(sys.argv[2]))
create_task_agents(settings, SkillLibrary(settings.skills_dir))
print("asyncio" in sys.modules)
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workspaces(tmp_path: Path) -> Path:
    folder = tmp_path / "workspaces"
    (folder / "t1").mkdir(parents=True)
    return folder


@pytest.fixture
def served(tmp_path: Path, workspaces: Path) -> Iterator[Served]:
    with sandbox_service(tmp_path, workspaces) as running:
        yield running


async def sh(served: Served, workspaces: Path, command: str, **options: Any) -> CommandResult:
    return await served.runner.run(["sh", "-c", command], workspace=workspaces / "t1", **{"timeout": LONG, **options})


def exchange(path: Path, sent: bytes) -> bytes:
    """Send bytes to the service and return the bytes that it answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(65536):
            received += data
    return received


def message(body: object) -> bytes:
    data = json.dumps(body).encode()
    return struct.pack("!I", len(data)) + data


# --- whose commands it runs, and where ---


@pytest.mark.system
async def test_another_user_than_the_workers_is_refused(tmp_path: Path, workspaces: Path) -> None:
    with sandbox_service(tmp_path, workspaces, client="nobody") as served:
        with pytest.raises(SandboxUnavailable, match=f"user {os.getuid()} may not have commands run"):
            await sh(served, workspaces, "touch ran")
        assert not (workspaces / "t1" / "ran").exists()


@pytest.mark.system
@pytest.mark.parametrize("name", ["..", ".", "", "t1/../../outside", "/etc", "link", "file", "missing", "t\0", 5, None])
def test_only_a_folder_directly_below_the_workspaces_is_accepted(
    name: object, served: Served, workspaces: Path
) -> None:
    (workspaces.parent / "outside").mkdir()
    (workspaces / "link").symlink_to(workspaces.parent / "outside")
    (workspaces / "file").touch()
    argv = ["touch", "ran"]
    body = {"do": "run", "workspace": name, "argv": argv, "timeout": 5, "network": False, "stdin": 0}
    answer = json.loads(exchange(served.path, message(body))[4:])
    assert answer["error"]["kind"] == "refused"
    assert list(workspaces.parent.rglob("ran")) == []


async def test_the_client_sends_no_request_for_a_folder_elsewhere(tmp_path: Path) -> None:
    runner = RemoteSandbox(tmp_path / "no-socket", tmp_path / "workspaces")
    with pytest.raises(SandboxUnavailable, match=r"in a task's folder in .*workspaces only"):
        await runner.run(["true"], workspace=tmp_path / "elsewhere", timeout=LONG)


@pytest.mark.system
@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", None),
        (b"\0\0\0\x10{", None),
        (struct.pack("!I", MAX_MESSAGE + 1), "a message of"),
        (b"\0\0\0\x01{", "not JSON"),
        (message([1]), "not a JSON object"),
        (message({"do": "run", "stdin": MAX_STDIN + 1}), "stdin must have up to"),
        (message({"do": "run", "stdin": "much"}), "stdin must have up to"),
        (message({"do": "dance", "workspace": "t1"}), "'do' must be run or clear"),
        (message({"do": "run", "workspace": "t1"}), "network"),
        (message({}), "do"),
    ],
)
async def test_a_malformed_request_is_refused_and_the_next_one_is_served(
    sent: bytes, said: str | None, served: Served, workspaces: Path
) -> None:
    answer = await asyncio.get_running_loop().run_in_executor(None, exchange, served.path, sent)
    if said is None:
        assert answer == b""
    else:
        assert said in json.loads(answer[4:])["error"]["message"]
    assert (await sh(served, workspaces, "echo on")).output == "on\n"


@pytest.mark.system
async def test_a_command_gets_the_network_only_if_the_owner_gave_it_to_the_service(
    tmp_path: Path, workspaces: Path
) -> None:
    count = "ls /sys/class/net 2>/dev/null; grep -c : /proc/net/dev"
    with sandbox_service(tmp_path, workspaces) as served, pytest.raises(ToolError, match="pibot_sandbox_network: true"):
        await sh(served, workspaces, count, network=True)
    (tmp_path / "sandbox.socket").unlink()
    with sandbox_service(tmp_path, workspaces, "--network") as served:
        with_it = await sh(served, workspaces, count, network=True)
        without = await sh(served, workspaces, count)
    assert without.output == "1\n"  # the loopback
    assert with_it.exit_code == 0


# --- without the service ---


@pytest.mark.parametrize("there", [False, True])
async def test_without_the_service_no_command_runs_and_the_error_says_what_to_do(
    tmp_path: Path, workspaces: Path, there: bool
) -> None:
    path = tmp_path / "sandbox.socket"
    if there:
        with socket.socket(socket.AF_UNIX) as closed:
            closed.bind(str(path))
    runner = RemoteSandbox(path, workspaces)
    with pytest.raises(SandboxUnavailable, match=r"so none is run.*restart pibot-sandbox\.socket"):
        await runner.run(["touch", "ran"], workspace=workspaces / "t1", timeout=LONG)
    assert list((workspaces / "t1").iterdir()) == []


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_services_end_ends_the_command_and_is_an_ordinary_tool_error(
    number: signal.Signals, served: Served, workspaces: Path
) -> None:
    token = f"pibot-test-{uuid4().hex}"
    command = f"setsid sh -c 'sleep 1000; : {token}' & echo >ready; sleep 1000; : {token}"
    with fifo(workspaces / "t1" / "ready") as ready:
        running = asyncio.ensure_future(sh(served, workspaces, command))
        await ready()
    served.process.send_signal(number)
    with pytest.raises(ToolError, match="the sandbox service ended while the command ran") as caught:
        await running
    assert not isinstance(caught.value, SandboxUnavailable)
    served.process.wait()
    while processes_with(token):
        pass  # the kernel ends them by itself; the test's time limit ends this otherwise


async def test_a_stuck_service_does_not_block_the_worker_for_ever(tmp_path: Path, workspaces: Path) -> None:
    (workspaces / "task").mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "stuck.sock"))
        listener.listen()  # and never answers, nor closes
        runner = RemoteSandbox(tmp_path / "stuck.sock", workspaces, slack=0.05)
        with pytest.raises(ToolError, match=r"did not answer; restart"):
            await runner.run(["true"], workspace=workspaces / "task", timeout=0.05)


@pytest.mark.system
async def test_the_service_ends_without_work_and_leaves_later_connections_to_the_next_service(
    tmp_path: Path, workspaces: Path
) -> None:
    with sandbox_service(tmp_path, workspaces, "--idle", "0.1") as served:
        # The command takes longer than the service waits for work.
        assert (await sh(served, workspaces, "sleep 0.3; echo done")).output == "done\n"
        assert served.process.wait(LONG) == 0
        waiting = asyncio.ensure_future(sh(served, workspaces, "echo again"))
        fd = served.listener.fileno()
        following = await asyncio.create_subprocess_exec(
            sys.executable, "-c", NEXT, str(fd), str(workspaces), pass_fds=[fd]
        )
        assert (await waiting).output == "again\n"
        assert await following.wait() == 0


NEXT = """
import asyncio, os, socket, sys
from pathlib import Path
from pibot.sandbox.bubblewrap import Bubblewrap
from pibot.sandbox.service import SandboxService
service = SandboxService(Bubblewrap(), Path(sys.argv[2]), os.getuid(), network=False, idle=0.1)
asyncio.run(service.run(socket.socket(fileno=int(sys.argv[1]))))
"""


def test_started_by_hand_it_says_how_to_start_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pibot.sandbox.service", "--workspaces", str(tmp_path), "--client", "root"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "through pibot-sandbox.socket" in done.stderr


# --- one folder, two users ---


@pytest.mark.system
async def test_files_that_a_command_closes_are_open_to_the_group_afterwards(served: Served, workspaces: Path) -> None:
    command = "umask 077; mkdir a a/b; echo x >a/b/f; chmod 000 a/b/f; chmod 700 a; ln -s /etc l; mkfifo p; chmod 755 ."
    assert (await sh(served, workspaces, command)).exit_code == 0
    folder = workspaces / "t1"
    modes = {str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*")}
    assert modes["a"] == modes["a/b"] == 0o2770
    assert modes["a/b/f"] == 0o660


@pytest.mark.system
async def test_the_service_removes_what_only_the_commands_user_can_remove(served: Served, workspaces: Path) -> None:
    await sh(served, workspaces, "mkdir -p a/b; touch a/b/c .hidden; chmod 000 a/b; ln -s /etc link")
    await served.runner.clear(workspaces / "t1")
    assert list((workspaces / "t1").iterdir()) == []


# --- the worker ---


@pytest.mark.system
def test_the_service_runs_the_commands_of_a_workers_task(tmp_path: Path) -> None:
    steps = (
        tool_calls(call("write_file", {"path": "s.sh", "content": "echo from the script"})),
        tool_calls(call("shell_exec", {"command": "chmod +x s.sh; sh s.sh; mkdir -m 700 d; echo inside >d/f"})),
        tool_calls(call("read_file", {"path": "d/f"})),
        text("done"),
    )
    directory = tmp_path / "worker"
    (directory / "workspace").mkdir(parents=True)
    task = {"task_id": "t1", "description": "run it", "skills": ["shell_exec", "file_ops"]}
    with ScriptedLLM(*steps) as model, sandbox_service(tmp_path, directory / "workspace") as served:
        environ = clean_environment(**model.environ(), PIBOT_SANDBOX_SOCKET=str(served.path))
        arguments = ["-m", "pibot.worker_task_executor", "--port", "0"]
        with serving_process(directory, arguments, environ) as running:
            got = ask(running.port, "POST", "/task", task, headers={"Prefer": "wait=60"}).json()
        assert got["success"] is True
        seen = json.dumps([request.messages for request in model.requests])
    assert "from the script" in seen
    assert "inside" in seen
    assert list((directory / "workspace").iterdir()) == []


def test_with_sandbox_off_the_service_is_not_used(tmp_path: Path) -> None:
    settings = Settings.load({"PIBOT_SANDBOX": "off", "PIBOT_SANDBOX_SOCKET": "/run/s"}, tmp_path)
    assert settings.sandbox_socket == Path("/run/s")
    agents = create_task_agents(settings, SkillLibrary(ROOT / "skills"))
    assert type(agents._commands).__name__ == "Unconfined"


@pytest.mark.parametrize(("code", "arguments"), [(TIDY, ()), (IDLE_WORKER, ("worker_soul.md", "skills"))])
def test_neither_side_imports_modules_that_it_does_not_need(code: str, arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(ROOT / name) for name in arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() in ("set()", "False")
