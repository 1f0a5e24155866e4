"""Where the service is root, its commands run as a user without rights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pibot.errors import SandboxUnavailable
from pibot.sandbox import ReadablePath, demotion
from pibot.sandbox.bubblewrap import Bubblewrap
from tests.sandbox.support import sh

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="what root alone does")]


async def test_a_command_of_root_owns_its_folder_and_nothing_else(workspace: Path) -> None:
    (workspace / "sub").mkdir()
    (workspace / "sub/a.txt").write_text("root's\n")
    (workspace / "link").symlink_to("/etc/passwd")
    result = await sh(Bubblewrap(), workspace, "echo mine >sub/a.txt && chmod 600 sub/a.txt && cat sub/a.txt && id -u")
    assert result.output == "mine\n1000\n"
    owners = {path.name: path.lstat().st_uid for path in (workspace, *workspace.rglob("*"))}  # noqa: ASYNC240
    assert set(owners.values()) == {demotion.USER}
    assert Path("/etc/passwd").stat().st_uid == 0  # noqa: ASYNC240


async def test_a_command_of_root_reads_what_is_open_to_all_even_in_a_closed_folder(
    workspace: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "it's closed"
    closed.mkdir(mode=0o700)
    (closed / "open.txt").write_text("open\n")
    (closed / "own.txt").write_text("root's\n")
    (closed / "own.txt").chmod(0o600)
    listed = [ReadablePath(Path(f"/owner/{name}"), closed / name) for name in ("open.txt", "own.txt", "gone.txt")]
    before = set(Path("/mnt").iterdir())  # noqa: ASYNC240
    result = await sh(Bubblewrap(readable=listed), workspace, "cat /owner/open.txt; cat /owner/own.txt; ls /owner /mnt")
    assert result.output.startswith("open\ncat: /owner/own.txt: Permission denied\n")
    assert "gone.txt" not in result.output
    assert set(Path("/mnt").iterdir()) == before  # noqa: ASYNC240


def test_what_is_bound_is_not_hidden_by_the_folder_that_it_is_bound_in(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demotion, "_STAGES", (tmp_path, Path("/srv")))
    assert demotion.Stage("/bin/true", workspace, workspace, ()).program.startswith("/srv/")
    monkeypatch.setattr(demotion, "_STAGES", (tmp_path,))
    with pytest.raises(SandboxUnavailable, match="none is run"):
        demotion.Stage("/bin/true", workspace, workspace, ())


async def test_where_root_may_not_become_another_user_no_command_runs(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demotion, "BECOME", ("setpriv", "--reuid=4294967295", "--"))
    with pytest.raises(SandboxUnavailable, match="so none is run"):
        await sh(Bubblewrap(), workspace, "touch ran")
    monkeypatch.undo()
    monkeypatch.setattr(demotion, "START", ("/bin/false",))
    with pytest.raises(SandboxUnavailable, match="so none is run"):
        await sh(Bubblewrap(), workspace, "touch ran")
    assert not (workspace / "ran").exists()
