from __future__ import annotations

import io
import logging
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pibot import logs
from pibot.errors import SettingsError


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for handler in handlers:
        root.removeHandler(handler)
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


def record(message: str, created: float) -> logging.LogRecord:
    made = logging.LogRecord("pibot", logging.INFO, "x.py", 1, message, None, None)
    made.created = created
    return made


def test_an_event_is_one_line_with_its_ids(tmp_path: Path) -> None:
    logs.configure("worker", tmp_path)
    logs.event(logging.getLogger("pibot.x"), "task_finished", task="t1", worker=None, error='a "b"\nc', took=1.5)
    (line,) = (tmp_path / "worker.log").read_text().splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d INFO pibot\.x task_finished task=t1 ", line)
    assert line.endswith(r'error="a \"b\"\nc" took=1.500')


def test_the_masters_log_has_the_guides_name(tmp_path: Path) -> None:
    logs.configure("master", tmp_path / "logs")
    logging.getLogger("pibot").info("hello")
    (file,) = (tmp_path / "logs").iterdir()
    assert re.fullmatch(r"master_\d{8}\.log", file.name)
    assert "hello" in file.read_text()


def test_each_day_has_its_file_and_old_ones_are_removed(tmp_path: Path) -> None:
    for day in ("20200101", "20200102", "20200103"):
        (tmp_path / f"master_{day}.log").write_text("old")
    (tmp_path / "master_plan.log").write_text("somebody else's")
    handler = logs.DailyFileHandler(tmp_path, "master", days=2)
    handler.emit(record("later", 4e9))
    handler.emit(record("later still", 4e9 + 86400))
    handler.close()
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 3
    assert names[-1] == "master_plan.log"
    assert [(tmp_path / n).read_text() for n in names[:2]] == ["later\n", "later still\n"]


def test_the_workers_log_files_have_a_limited_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "WORKER_LOG_BYTES", 1000)
    logs.configure("worker", tmp_path)
    for _ in range(200):
        logging.getLogger("pibot").info("x" * 100)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["worker.log", *(f"worker.log.{n}" for n in (1, 2, 3))]
    assert all(p.stat().st_size <= 1000 for p in tmp_path.iterdir())


def test_a_worker_whose_stderr_is_its_log_writes_each_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "worker.log"
    with path.open("w") as stderr:  # nohup python3 worker_task_executor.py > worker.log 2>&1
        monkeypatch.setattr("sys.stderr", stderr)
        logs.configure("worker", tmp_path)
        logging.getLogger("pibot").info("only once")
    assert path.read_text().count("only once") == 1


def test_any_other_role_logs_to_stderr_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    logs.configure("rehearsal", tmp_path)
    logging.getLogger("pibot").info("here")
    assert "here" in stderr.getvalue()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named_with_its_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for role in ("worker", "master"):
        with pytest.raises(SettingsError, match="PIBOT_LOG_DIR"):
            logs.configure(role, tmp_path / "file" / "logs")


@pytest.mark.usefixtures("usual_umask")
@pytest.mark.parametrize("role", ["master", "worker"])
def test_only_the_owner_can_read_the_logs(tmp_path: Path, role: str) -> None:
    tmp_path.chmod(0o755)
    for name in ("master_20200101.log", "worker.log", "worker.log.1"):
        (tmp_path / name).write_text("an earlier release's")
        (tmp_path / name).chmod(0o644)
    logs.configure(role, tmp_path)
    logs.configure(role, tmp_path / "new")
    logging.getLogger("pibot").info("hello")
    earlier = {"master": ["master_20200101.log"], "worker": ["worker.log", "worker.log.1"]}[role]
    for file in (*(tmp_path / "new").iterdir(), *(tmp_path / name for name in earlier)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755  # the folder was there


@pytest.mark.usefixtures("usual_umask")
def test_a_log_of_another_day_and_a_rotated_one_are_private_too(tmp_path: Path) -> None:
    daily = logs.DailyFileHandler(tmp_path, "master", days=3)
    daily.emit(record("later", 4e9))
    rotating = logs.WorkerFileHandler(tmp_path / "worker.log", maxBytes=10, backupCount=2, encoding="utf-8")
    for _ in range(2):
        rotating.emit(record("longer than ten bytes", 4e9))
    for handler in (daily, rotating):
        handler.close()
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert len(modes) >= 4
    assert set(modes.values()) == {0o600}
