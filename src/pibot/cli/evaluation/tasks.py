"""Read the tasks: one YAML file each, in ``tasks`` beside this module or in a folder of the owner's."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from pibot.cli.evaluation.checks import Check, Evidence, failures, read_check
from pibot.cli.evaluation.values import fill, make
from pibot.contracts import valid_description, valid_skills
from pibot.errors import InvalidRequest, SettingsError

SUFFIX = ".yaml"
MAX_BYTES = 100_000
MAX_TASKS = 500
PAGE = "page"
"""The value that holds the address of a task's first page."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}\Z")
_FIELDS = ("about", "description", "skills", "planned", "values", "pages", "checks")


@dataclass(frozen=True)
class Task:
    """One task.

    Args:
        name: the file's, without its suffix.
        about: what it tries, in a few words.
        description: of the job, with ``{name}`` for a value.
        skills: the skills that it needs.
        planned: the planner makes the plan; otherwise the job is one step with these skills.
        values: the rules of its values.
        pages: the pages that a worker must be able to ask for, by name; the first one's name is empty.
        checks: all of them must hold.
    """

    name: str
    about: str
    description: str
    skills: tuple[str, ...] = ()
    planned: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)
    pages: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()

    def made(self, rng: random.Random, page: str) -> tuple[str, dict[str, str], dict[str, str]]:
        """Make the values of one run, and return the job's description, the values and the pages with them.

        Args:
            rng: for the random values.
            page: the address of the first page.

        Raises:
            ValueError: a rule is wrong, or a text names an unknown value.
        """
        values = make(self.values, rng, {PAGE: page} if self.pages else {})
        pages = {name: fill(text, values) for name, text in self.pages.items()}
        return fill(self.description, values), values, pages


def read_tasks(folder: Path | None = None) -> tuple[Task, ...]:
    """Read every task of a folder, sorted by name.

    Args:
        folder: the owner's; None for those that come with PiBot.

    Raises:
        SettingsError: the folder has none, or one of its files is wrong; the message names the file and what is wrong.
    """
    where = files("pibot.cli.evaluation").joinpath("tasks") if folder is None else folder
    try:
        found = sorted((entry for entry in where.iterdir() if entry.name.endswith(SUFFIX)), key=lambda e: e.name)
        if not 0 < len(found) <= MAX_TASKS:
            raise SettingsError(f"{where} holds {len(found)} files '*{SUFFIX}'; it must hold 1 to {MAX_TASKS}")
        return tuple(_read(entry.name, entry.read_bytes()) for entry in found)
    except OSError as exc:
        raise SettingsError(f"the tasks can't be read: {exc}; name a folder with task files") from exc


def chosen(tasks: Sequence[Task], names: Sequence[str]) -> tuple[Task, ...]:
    """Return the named tasks, or all if none is named.

    Raises:
        SettingsError: there is no task of a name.
    """
    known = {task.name: task for task in tasks}
    for name in names:
        if name not in known:
            raise SettingsError(f"there is no task {name!r}; the tasks are {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names)) if names else tuple(tasks)


def _read(file: str, raw: bytes) -> Task:
    try:
        if len(raw) > MAX_BYTES:
            raise ValueError(f"it has {len(raw)} bytes, {MAX_BYTES} are allowed")
        task = _task(file[: -len(SUFFIX)], _yaml(raw.decode("utf-8")))
        _try_out(task)
        return task
    except (ValueError, InvalidRequest) as exc:  # UnicodeDecodeError is a ValueError
        raise SettingsError(f"the task {file} is wrong: {exc}") from exc


def _yaml(text: str) -> object:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data: object = YAML(typ="safe", pure=True).load(text)
    except YAMLError as exc:
        raise ValueError(f"it is no YAML: {' '.join(str(exc).split())}") from exc
    return data


def _task(name: str, data: object) -> Task:
    if not _NAME.match(name):
        raise ValueError("its name must have 1 to 40 small letters, digits and '-', and begin with no '-'")
    if not isinstance(data, dict):
        raise ValueError(f"it must be a mapping of {', '.join(_FIELDS)}")
    unknown = [str(key) for key in data if key not in _FIELDS]
    if unknown:
        raise ValueError(f"there is no field {unknown[0]!r}; the fields are {', '.join(_FIELDS)}")
    for key in ("about", "description"):
        if not isinstance(data.get(key), str) or not data[key].strip():
            raise ValueError(f"{key} must be a text")
    planned = data.get("planned", False)
    if type(planned) is not bool:
        raise ValueError(f"planned must be true or false, not {planned!r}")
    checks = data.get("checks")
    if not isinstance(checks, list) or not checks:
        raise ValueError("checks must be a list of at least one check")
    return Task(
        name=name,
        about=" ".join(data["about"].split()),
        description=valid_description(data["description"].strip()),
        skills=valid_skills(data.get("skills", [])),
        planned=planned,
        values=_mapping(data, "values"),
        pages=_pages(data),
        checks=tuple(map(read_check, checks)),
    )


def _mapping(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key, {})
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{key} must be names with what they stand for")
    return value


def _pages(data: Mapping[str, Any]) -> dict[str, str]:
    pages = _mapping(data, "pages")
    for name, text in pages.items():
        if not re.fullmatch(r"[a-z0-9./-]{0,40}", name) or not isinstance(text, str):
            raise ValueError(
                f"the page {name!r} must have a name of small letters, digits, '.', '-' and '/', and a text"
            )
    if pages and "" not in pages:
        raise ValueError('pages must hold one of the name "", the first one')
    return pages


def _try_out(task: Task) -> None:
    """Make the task's values once, and fill them in everywhere, so that a mistake shows before anything is paid for."""
    _, values, _ = task.made(random.Random(0), "http://127.0.0.1/")  # nosec B311 # no secret
    failures(task.checks, values, Evidence("completed"))
