from __future__ import annotations

import io
import logging
import re
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
