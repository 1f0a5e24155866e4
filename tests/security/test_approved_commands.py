"""A task leaves files in its folder, which a command that the owner approves later would run without being told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pibot.contracts import Decision, ToolCall, ToolContext, digest_of
from pibot.sandbox.unconfined import Unconfined
from pibot.tool_registry import Policy, SkillLibrary
from tests.security.attacks import sandbox
from tests.skills.support import SKILLS

PLANTED = "planted-5f0c"
PRINT = f"print({PLANTED!r})\n"
HOOK = f"#!/bin/sh\necho {PLANTED} >&2\n"


class Agreeing:
    """An owner who approves every call."""

    async def ask(self, tool: str, arguments: object) -> Decision:
        assert isinstance(arguments, dict)
        return Decision(digest_of(tool, arguments), True)


async def output_of(command: str, workspace: Path, *, approved: bool, confined: bool) -> str:
    """Run a shell command as a task's call, with or without approval, and return the tool's answer."""
    context = ToolContext("t1", workspace, sandbox() if confined else Unconfined())
    policy = Policy(approve=frozenset({"shell_exec"} if approved else ()))
    box = SkillLibrary(SKILLS, policy).load(["shell_exec"], context, Agreeing())
    return (await box.execute(ToolCall("c1", "shell_exec", {"command": command}))).content


def plant(workspace: Path, name: str, content: str) -> None:
    path = workspace / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)


def repository(workspace: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(workspace), *arguments], check=True, capture_output=True)

    git("init", "-q")
    plant(workspace, "file", "content")
    git("add", "file")
    (workspace / "file").write_text("content")  # git status looks at it again, and writes its index anew


def user_site(workspace: Path) -> None:
    site = "import site; print(site.getusersitepackages())"
    found = subprocess.run(
        ["/usr/bin/python3", "-c", site], env={"HOME": "/"}, check=True, capture_output=True, text=True
    )
    plant(workspace, f"{found.stdout.strip().lstrip('/')}/usercustomize.py", PRINT)


def git_config(workspace: Path) -> None:
    repository(workspace)
    plant(workspace, "monitor", HOOK)
    plant(workspace, ".gitconfig", "[core]\n\tfsmonitor = ./monitor\n[alias]\n\tst = !./monitor\n")


def own_config(workspace: Path) -> None:
    repository(workspace)
    plant(workspace, "monitor", HOOK)
    with (workspace / ".git" / "config").open("a") as config:
        config.write("[core]\n\tfsmonitor = ./monitor\n")


def hook(workspace: Path) -> None:
    repository(workspace)
    plant(workspace, ".git/hooks/post-checkout", HOOK)


def own_hooks_path(workspace: Path) -> None:
    repository(workspace)
    plant(workspace, "hooks/post-checkout", HOOK)
    with (workspace / ".git" / "config").open("a") as config:
        config.write("[core]\n\thooksPath = hooks\n")


COMMIT = "git -c user.name=x -c user.email=x@x.x commit -qm x && git checkout -qb y"
ATTACKS = {
    "a module of the user": (user_site, "python3 -c 'print(1)'"),
    "a git configuration in the home": (git_config, "git status"),
    "a git alias in the home": (git_config, "git st"),
    "a monitor of the repository": (own_config, "git status"),
    "a hook of the repository": (hook, COMMIT),
    "a hook that the repository names": (own_hooks_path, COMMIT),
}


@pytest.mark.system
@pytest.mark.parametrize("confined", [True, False], ids=["confined", "PIBOT_SANDBOX=off"])
@pytest.mark.parametrize(("prepare", "command"), ATTACKS.values(), ids=list(ATTACKS))
async def test_an_approved_command_does_not_run(prepare: object, command: str, confined: bool, workspace: Path) -> None:
    assert callable(prepare)
    prepare(workspace)
    other = workspace.with_name("unapproved")
    subprocess.run(["cp", "-a", str(workspace), str(other)], check=True)
    assert PLANTED in await output_of(command, other, approved=False, confined=confined)  # without the control
    assert PLANTED not in await output_of(command, workspace, approved=True, confined=confined)


def python_version() -> tuple[int, ...]:
    said = subprocess.run(["/usr/bin/python3", "-V"], check=True, capture_output=True, text=True).stdout
    return tuple(map(int, said.split()[1].split(".")[:2]))


@pytest.mark.system
@pytest.mark.skipif(python_version() < (3, 11), reason="Python has PYTHONSAFEPATH since 3.11")
@pytest.mark.parametrize("command", ["python3 -c 'import json'", "python3 sub/main.py", "python3 -m timeit -n1 1"])
async def test_an_approved_python_runs_no_module_of_the_tasks_folder(command: str, workspace: Path) -> None:
    for folder in ("", "sub/"):
        plant(workspace, f"{folder}json.py", PRINT)
        plant(workspace, f"{folder}timeit.py", PRINT)
    plant(workspace, "sub/main.py", "import json\n")
    assert PLANTED in await output_of(command, workspace, approved=False, confined=True)
    assert PLANTED not in await output_of(command, workspace, approved=True, confined=True)
    plainly = f"PYTHONPATH=. {command}"  # the owner sees that
    assert ("main" in command) or PLANTED in await output_of(plainly, workspace, approved=True, confined=True)


@pytest.mark.system
async def test_an_approved_command_still_works_in_the_tasks_folder(workspace: Path) -> None:
    command = (
        "pwd; git init -q .; git status --short; python3 -c 'import json; print(json.dumps([1]))'; echo done > x; cat x"
    )
    shown = await output_of(command, workspace, approved=True, confined=True)
    assert shown.splitlines() == ["exit code: 0", "/workspace", "[1]", "done"]
