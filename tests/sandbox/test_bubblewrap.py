from __future__ import annotations

import os
import socket
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pibot.errors import SandboxUnavailable, ToolError
from pibot.sandbox import CommandLimits, ReadablePath
from pibot.sandbox.bubblewrap import Bubblewrap, Features, bubblewrap_options
from pibot.sandbox.limits import DEFAULT_COMMAND_LIMITS
from tests.sandbox.support import names_in, sh
from tests.support.nobody import NOBODY, as_nobody


async def test_the_error_of_a_bubblewrap_that_fails_at_once_is_reported(tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    program.write_text(
        "#!/bin/sh\nwhile [ $1 != --json-status-fd ]; do shift; done\n"
        "echo '{\"child-pid\": 4194305}' >/proc/self/fd/$2\n"  # beyond the largest id, so gone for certain
        "echo bwrap: no host name for you >&2\nexit 1\n"
    )
    program.chmod(0o755)
    broken = Bubblewrap(program=str(program), features=Features(disable_userns=True, size=True))
    with pytest.raises(SandboxUnavailable, match="bwrap: no host name for you"):
        await broken.check()


@pytest.mark.system
async def test_the_check_passes_where_bubblewrap_works(confined: Bubblewrap) -> None:
    await confined.check()


@pytest.mark.system
async def test_a_command_can_read_no_file_of_the_host(confined: Bubblewrap, workspace: Path) -> None:
    secret = workspace.parent / "secret.txt"
    secret.write_text("sk-secret")
    (workspace / "link").symlink_to(secret)
    paths = [
        secret,
        "link",
        "../secret.txt",
        Path.home(),
        "/home",
        "/root",
        "/run",
        "/var",
        "/etc/shadow",
        "/sys",
        "/boot",
    ]
    result = await sh(confined, workspace, "; ".join(f"cat {p} 2>/dev/null || ls {p} 2>/dev/null" for p in paths))
    assert result.output == "link\n"  # ls names the link; what it points to is not there
    etc = await sh(confined, workspace, "cat /etc/passwd; ls /etc")
    assert "task:x:1000" in etc.output
    assert "machine-id" not in etc.output


@pytest.mark.system
async def test_a_command_can_neither_see_nor_signal_other_processes(confined: Bubblewrap, workspace: Path) -> None:
    result = await sh(
        confined,
        workspace,
        f"cat /proc/[0-9]*/environ | tr '\\0' '\\n' | cut -d= -f1 | sort -u; echo --; kill -0 {os.getpid()}; echo $?; "
        "ls -d /proc/[0-9]* | wc -l",
    )
    names, _, rest = result.output.partition("--\n")
    assert set(names.split()) <= {"PATH", "HOME", "LANG", "TERM", "PWD", "SHLVL", "_", "OLDPWD"}
    assert "No such process\n1\n" in rest
    assert int(rest.split()[-1]) < 10


@pytest.mark.system
async def test_a_command_has_the_network_only_when_the_caller_asks_for_it(
    confined: Bubblewrap, workspace: Path
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        connect = f"exec 3<>/dev/tcp/127.0.0.1/{listener.getsockname()[1]} && echo connected"
        refused = await sh(confined, workspace, connect)
        assert "connected" not in refused.output
        with pytest.raises(BlockingIOError):
            listener.accept()
        allowed = await sh(confined, workspace, connect, network=True)
        assert "connected" in allowed.output
        listener.accept()[0].close()
    interfaces = await sh(confined, workspace, "tail -n +3 /proc/net/dev | cut -d: -f1")
    assert interfaces.output.split() == ["lo"]


@pytest.mark.system
async def test_a_command_can_write_only_its_workspace_and_a_bounded_tmpfs(
    confined: Bubblewrap, workspace: Path
) -> None:
    paths = ["/x", "/usr/x", "/etc/x", "/dev/x", "/bin/x", "/proc/sys/kernel/core_pattern", "/proc/self/oom_score_adj"]
    result = await sh(confined, workspace, "; ".join(f"echo 1 > {path}" for path in paths) + "; true")
    assert result.output.count("Read-only file system") == len(paths)
    for folder in ("/tmp", "/dev/shm"):
        full = await sh(confined, workspace, f"head -c 40000000 /dev/zero > {folder}/x; stat -c %s {folder}/x")
        assert full.output.splitlines()[-1] == str(DEFAULT_COMMAND_LIMITS.tmp_bytes)
    assert names_in(workspace) == []


@pytest.mark.system
async def test_a_command_has_no_capability_and_can_gain_none(confined: Bubblewrap, workspace: Path) -> None:
    result = await sh(confined, workspace, "id -u; grep -E 'Cap|NoNewPrivs' /proc/self/status; mount -t tmpfs x /tmp")
    lines = result.output.split("\n")
    assert lines[0] == "1000"
    assert {line.split()[1] for line in lines if line.startswith("Cap")} == {"0" * 16}
    assert "NoNewPrivs:\t1" in lines
    assert result.exit_code != 0


@pytest.mark.system
@pytest.mark.parametrize("features", [None, Features(disable_userns=False, size=False)], ids=["own", "old"])
async def test_nested_user_namespaces_are_refused(workspace: Path, features: Features | None) -> None:
    confined = Bubblewrap(features=features)
    for command in ("unshare -U true", "unshare -Ur true", "unshare -Urnm true"):
        result = await sh(confined, workspace, command)
        assert result.exit_code == 1
        assert "unshare failed" in result.output
    result = await sh(confined, workspace, "seq 1 100000 | sort --parallel=4 -S 1M -n | tail -n 1")
    assert result.output == "100000\n"  # threads and processes are still made


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")
def test_the_number_of_processes_is_limited() -> None:
    # Not as a fork bomb: should the limit not hold, 200 sleepers are bearable.
    command = "for i in $(seq 200); do sleep 1000 & done"
    with TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        runner = Bubblewrap(CommandLimits(processes=20))
        output = as_nobody(partial(sh, runner, Path(folder), command))
    assert "Resource temporarily unavailable" in output


def test_an_old_bubblewrap_gets_only_options_that_debian_11s_knows(workspace: Path) -> None:
    # From the --help of 0.4.1.
    known = (
        "--unshare-user --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup-try --uid --gid "
        "--hostname --cap-drop --new-session --die-with-parent --setenv --ro-bind --ro-bind-try --bind --symlink --dev "
        "--proc --tmpfs --chdir --remount-ro"
    )
    options = bubblewrap_options(
        Features(disable_userns=False, size=False), DEFAULT_COMMAND_LIMITS, workspace, network=False
    )
    assert {option for option in options if option.startswith("--")} - set(known.split()) == set()


@pytest.mark.system
async def test_a_command_can_read_the_paths_that_the_owner_lists_and_not_write_them(
    workspace: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "home" / "photos"
    listed.mkdir(parents=True)
    (listed / "list").write_text("one\n")
    (tmp_path / "home" / "diary").write_text("secret\n")
    look = f"cat {listed}/list; cat {tmp_path}/home/diary || touch {listed}/new || ls {tmp_path}/home"
    shown = await sh(
        Bubblewrap(readable=[ReadablePath(listed), ReadablePath(Path("/proc")), ReadablePath(tmp_path / "absent")]),
        workspace,
        look,
    )
    assert shown.output.splitlines()[0] == "one"
    assert shown.output.splitlines()[-1] == "photos"
    assert "secret" not in shown.output
    assert "Read-only file system" in shown.output
    assert "one" not in (await sh(Bubblewrap(), workspace, look)).output
    moved = Bubblewrap(readable=[ReadablePath(Path("/home/me/photos"), listed)])
    assert (await sh(moved, workspace, "cat /home/me/photos/list")).output == "one\n"


def fake_bwrap(tmp_path: Path, otherwise: str) -> str:
    """A bubblewrap that knows all options and then does something else."""
    path = tmp_path / "bwrap"
    path.write_text(f'#!/bin/sh\ncase "$*" in *--help) echo --disable-userns --size;; *) {otherwise};; esac\n')
    path.chmod(0o755)
    return str(path)


async def test_without_namespaces_no_command_runs_and_the_error_says_what_to_do(
    tmp_path: Path, workspace: Path
) -> None:
    program = fake_bwrap(tmp_path, "echo 'bwrap: No permissions to create a new namespace' >&2; exit 1")
    for attempt in range(2):
        with pytest.raises(SandboxUnavailable) as caught:
            await sh(Bubblewrap(program=program), workspace, "touch ran")
        assert "No permissions to create a new namespace" in str(caught.value), attempt
        assert "so none is run" in str(caught.value)
        assert "PIBOT_SANDBOX=off" in str(caught.value)
    assert names_in(workspace) == []


@pytest.mark.parametrize("program", ["/nonexistent/bwrap", "/bin/false"])
async def test_a_bubblewrap_that_cannot_be_run_is_unavailable(workspace: Path, program: str) -> None:
    with pytest.raises(SandboxUnavailable, match="PIBOT_SANDBOX=off"):
        await Bubblewrap(program=program).check()


async def test_without_bubblewrap_the_error_says_how_to_install_it(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *args, **kwargs: None)
    with pytest.raises(SandboxUnavailable, match=r"bubblewrap is not installed.*apt install bubblewrap"):
        await sh(Bubblewrap(), workspace, "touch ran")
    assert names_in(workspace) == []


@pytest.mark.system
async def test_the_check_runs_again_until_it_has_passed_once() -> None:
    with TemporaryDirectory() as folder:
        public = Path(folder)
        public.chmod(0o777)  # noqa: ASYNC240  # for another user
        broken = public / "broken"
        counted = f'echo >> {public}/calls; [ -e {broken} ] && exit 1; exec bwrap "$@"'
        confined = Bubblewrap(program=fake_bwrap(public, counted))
        broken.touch()
        with pytest.raises(SandboxUnavailable):
            await confined.check()
        broken.unlink()
        for _ in range(3):
            await confined.check()
        assert (public / "calls").read_text() == "\n\n"


@pytest.mark.system
@pytest.mark.parametrize("command", ["true " + "x" * 200_000, "true \0"], ids=["too long", "a NUL"])
async def test_a_command_that_cannot_be_started_is_its_own_error_and_the_next_one_runs(
    confined: Bubblewrap, workspace: Path, command: str
) -> None:
    with pytest.raises(ToolError, match="can't be started") as caught:
        await sh(confined, workspace, command)
    assert not isinstance(caught.value, SandboxUnavailable)
    assert (await sh(confined, workspace, "echo on")).output == "on\n"


@pytest.mark.system
async def test_a_bubblewrap_that_fails_on_one_workspace_alone_is_not_unavailable(
    confined: Bubblewrap, workspace: Path
) -> None:
    await confined.check()
    with pytest.raises(ToolError) as caught:
        await sh(confined, workspace / "gone", "true")
    assert not isinstance(caught.value, SandboxUnavailable)
    assert (await sh(confined, workspace, "echo on")).output == "on\n"


@pytest.mark.system
async def test_a_bubblewrap_that_stops_working_is_unavailable(workspace: Path) -> None:
    with TemporaryDirectory() as folder:
        public = Path(folder)
        public.chmod(0o777)  # noqa: ASYNC240  # for another user
        broken = public / "broken"
        confined = Bubblewrap(program=fake_bwrap(public, f'[ -e {broken} ] && exit 1; exec bwrap "$@"'))
        await confined.check()
        broken.touch()
        with pytest.raises(SandboxUnavailable):
            await sh(confined, workspace, "true")
