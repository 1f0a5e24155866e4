"""Files that survive a power cut, and that only their owner can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pibot.disk import make_folder, make_private, write_durably

pytestmark = pytest.mark.usefixtures("usual_umask")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_files_content_is_on_disk_before_its_name_and_the_name_when_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "workers.json"
    path.write_text("old")
    seen: list[tuple[bool, str]] = []

    def fsync(number: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(number).st_mode), path.read_text()))

    monkeypatch.setattr("pibot.disk.os.fsync", fsync)
    write_durably(path, "new")
    assert seen == [(False, "old"), (True, "new")]
    assert [file.name for file in tmp_path.iterdir()] == ["workers.json"]


def test_a_written_file_is_private_whatever_was_there_before(tmp_path: Path) -> None:
    for name in ("workers.json", "workers.new"):
        (tmp_path / name).write_text("old")
    write_durably(tmp_path / "workers.json", "new")
    assert mode(tmp_path / "workers.json") == 0o600


def test_a_file_that_can_not_be_written_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "workers.json"
    path.write_text("old")
    path.with_suffix(".new").mkdir()
    with pytest.raises(OSError, match=r"workers\.new"):
        write_durably(path, "new")
    assert path.read_text() == "old"


def test_folders_are_made_for_their_owner_alone_and_one_that_is_there_stays(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert [mode(folder) for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")] == [0o755, 0o700, 0o700]


def test_only_files_are_made_private_and_a_missing_one_is_no_error(tmp_path: Path) -> None:
    file, device = tmp_path / "file", Path("/dev/null")
    file.write_text("x")
    before = mode(device)
    for path in (file, device, tmp_path / "missing"):
        make_private(path)
    assert (mode(file), mode(device)) == (0o600, before)
