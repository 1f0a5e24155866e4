"""Log one line for each event, with its ids, to stderr (the journal) and to the files that the guide names."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import time
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path

from pibot.disk import create_private, make_folder, make_private
from pibot.errors import SettingsError
from pibot.visible import printable

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"

WORKER_LOG_BYTES = 2 * 1024 * 1024
"""Size in bytes at which ``worker.log`` is rotated: small, because it is on an SD card."""

WORKER_LOG_FILES = 3
"""Rotated files of ``worker.log`` to keep."""

MAX_VALUE_CHARS = 500
"""The longest value in a line, in characters: an error may repeat what a model wrote."""


def event(logger: logging.Logger, name: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log one event as ``name key=value …`` on one line.

    Args:
        name: what happened, such as ``task_finished``.
        level: a level of :mod:`logging`.
        fields: ids and figures; a field that is None is left out.
    """
    if logger.isEnabledFor(level):
        parts = [name, *(f"{key}={_quoted(value)}" for key, value in fields.items() if value is not None)]
        logger.log(level, "%s", " ".join(parts))


def configure(role: str, directory: Path | None, *, days: int = 14) -> None:
    """Send the process's log to stderr and to the guide's file for ``role``.

    Args:
        role: ``master`` logs to ``logs/master_YYYYMMDD.log``, ``worker`` to ``worker.log``, any other to stderr alone.
        directory: the folder of the file; None for the guide's, in the working directory.
        days: days of the master's files to keep.

    Raises:
        SettingsError: the folder can't be written.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    try:
        if role == "master":
            handlers.append(DailyFileHandler(directory or Path("logs"), "master", days=days))
        elif role == "worker":
            path = (directory or Path()) / "worker.log"
            make_folder(path.parent)
            # An earlier release, or the shell that started this process, left these readable by others.
            for file in path.parent.glob("worker.log*"):
                make_private(file)
            if not _is_stderr(path):
                handlers.append(
                    WorkerFileHandler(path, maxBytes=WORKER_LOG_BYTES, backupCount=WORKER_LOG_FILES, encoding="utf-8")
                )
    except OSError as exc:
        raise SettingsError(f"the log can't be written: {exc}; set PIBOT_LOG_DIR to a folder that can") from exc
    formatter = OneLineFormatter(FORMAT)
    for handler in handlers:
        handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)


class WorkerFileHandler(logging.handlers.RotatingFileHandler):
    """The standard library's handler for private files, with fewer system calls and one formatting for each line."""

    def _open(self) -> TextIOWrapper:
        create_private(Path(self.baseFilename))
        return super()._open()

    def shouldRollover(self, record: logging.LogRecord) -> int:  # noqa: N802
        if self.stream is None:
            self.stream = self._open()
        return int(self.stream.tell() + len(self.format(record)) + 1 >= self.maxBytes)


class OneLineFormatter(logging.Formatter):
    """Formats times with the zone's offset, and escapes line breaks, so that no logged text can fake a line.

    Nothing in a line can control the terminal that shows it: a caller may have chosen the text, without any key.
    """

    def format(self, record: logging.LogRecord) -> str:
        # Formatted once for all handlers: a short task costs a worker most in its two log lines.
        line: str | None = record.__dict__.get("pibot_line")
        if line is None:
            line = record.__dict__["pibot_line"] = printable(super().format(record))
        return line

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return super().formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")


class DailyFileHandler(logging.FileHandler):
    """Writes ``PREFIX_YYYYMMDD.log``, a new file each day, and keeps the newest files.

    The standard library's timed handler names the current file without its date, which the guide's ``tail -f`` needs.

    Args:
        directory: the folder; made for its owner alone if it does not exist.
        prefix: the first part of the files' names.
        days: files to keep.

    Raises:
        OSError: the folder can't be written.
    """

    def __init__(self, directory: Path, prefix: str, *, days: int) -> None:
        make_folder(directory)
        for old in directory.glob(f"{prefix}_[0-9]*.log"):  # an earlier release left these readable by others
            make_private(old)
        self._directory = directory
        self._prefix = prefix
        self._days = days
        self._date = self._date_of(time.time())
        super().__init__(self._path(), encoding="utf-8")
        self._prune()

    def emit(self, record: logging.LogRecord) -> None:
        date = self._date_of(record.created)
        if date != self._date:
            self._date = date
            self.close()
            self.baseFilename = os.fspath(self._path().absolute())
            self.stream = self._open()
            self._prune()
        super().emit(record)

    def _open(self) -> TextIOWrapper:
        create_private(Path(self.baseFilename))
        return super()._open()

    def _path(self) -> Path:
        return self._directory / f"{self._prefix}_{self._date}.log"

    def _prune(self) -> None:
        files = sorted(self._directory.glob(f"{self._prefix}_[0-9]*.log"))
        for old in files[: -self._days]:
            old.unlink(missing_ok=True)

    @staticmethod
    def _date_of(seconds: float) -> str:
        return time.strftime("%Y%m%d", time.localtime(seconds))


def _is_stderr(path: Path) -> bool:
    """Whether stderr goes to this file already, as with the guide's ``nohup … > worker.log 2>&1``."""
    try:
        return os.path.samestat(os.fstat(sys.stderr.fileno()), path.stat())
    except (OSError, ValueError):
        return False


def _quoted(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    if len(text) > MAX_VALUE_CHARS:
        text = text[:MAX_VALUE_CHARS] + "…"
    if text and not any(c in text for c in ' "=\n\r'):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
