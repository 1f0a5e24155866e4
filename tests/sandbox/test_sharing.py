from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pibot.sandbox.sharing import open_to_group, take_ownership


def test_no_symbolic_link_is_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    (secret / "key").write_text("k")
    (secret / "key").chmod(0o600)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").symlink_to(secret / "key")
    (folder / "folder").symlink_to(secret)
    fd = os.open(folder, os.O_RDONLY)
    open_to_group(fd)
    take_ownership(fd)
    os.close(fd)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o700
    assert stat.S_IMODE((secret / "key").stat().st_mode) == 0o600
    assert (folder / "file").is_symlink()


def test_taking_ownership_keeps_a_files_content_mode_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a" / "script.sh"
    file.parent.mkdir()
    file.write_text("echo hi\n")
    file.chmod(0o754)
    os.utime(file, (1000, 2000))
    before = file.stat()
    fd = os.open(tmp_path, os.O_RDONLY)
    take_ownership(fd)
    assert file.stat().st_ino == before.st_ino  # already our own
    monkeypatch.setattr(os, "geteuid", lambda: before.st_uid + 1)
    take_ownership(fd)
    os.close(fd)
    after = file.stat()
    assert after.st_ino != before.st_ino
    assert (file.read_text(), stat.S_IMODE(after.st_mode), after.st_mtime) == ("echo hi\n", 0o774, 2000)
    assert [path.name for path in file.parent.iterdir()] == ["script.sh"]
