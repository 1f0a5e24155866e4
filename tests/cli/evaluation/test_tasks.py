"""The tasks' files: those that come with PiBot, and what is wrong with others."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pibot.cli.evaluation.tasks import Task, chosen, read_tasks
from pibot.errors import SettingsError

GOOD = """
about: a command
description: Run `printf %s {word} | sha256sum`.
skills: [shell_exec]
values:
  word: {letters: 10}
  checksum: {sha256: "{word}"}
checks:
  - contains: "{checksum}"
"""

ALL = read_tasks()


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    folder.joinpath(name).write_text(text, "utf-8")
    return folder


def test_a_new_file_is_a_new_task(tmp_path: Path) -> None:
    (task,) = read_tasks(written(tmp_path, GOOD))
    assert (task.name, task.skills, task.planned) == ("mine", ("shell_exec",), False)
    description, values, _ = task.made(random.Random(1), "")
    assert description == f"Run `printf %s {values['word']} | sha256sum`."
    assert len(values["checksum"]) == 64


@pytest.mark.parametrize(
    ("changed", "to", "said"),
    [
        ("about: a command", "", "about must be a text"),
        ("about: a command", "about: [a]", "about must be a text"),
        ("skills: [shell_exec]", "skils: [shell_exec]", "there is no field 'skils'; the fields are about, description"),
        ("skills: [shell_exec]", "skills: shell_exec", "skills must be"),
        ("skills: [shell_exec]", "planned: 1", "planned must be true or false, not 1"),
        ("{letters: 10}", "{letters: 0}", "'word': letters takes a whole number from 1 to 60, not 0"),
        ("{letters: 10}", "{letters: true}", "letters takes a whole number"),
        ("{letters: 10}", "{random: 10}", "there is no kind 'random'; the kinds are letters, digits, sha256"),
        ("{letters: 10}", "ten", "it must be one kind with what it takes"),
        ("word: {letters", "page word: {letters", "'page word' is no name for a value"),
        ('sha256: "{word}"', 'sha256: "{wrod}"', "'checksum': {wrod} is no value; the values are word"),
        ('sha256: "{word}"', "add: [word, 1]", "'word' is neither a whole number nor the name of a value"),
        ('sha256: "{word}"', "divide: [1, 0]", "it divides by 0"),
        ('sha256: "{word}"', "multiply: 3", "multiply takes a list of two or more numbers"),
        ("%s {word}", "%s {other}", "{other} is no value"),
        ("%s {word}", "%s {page}", "{page} is no value"),
        ('contains: "{checksum}"', 'contain: "x"', "there is no check 'contain'; the kinds are contains, contains_any"),
        ('contains: "{checksum}"', "contains: 4", "the check contains takes a text, or a list of texts, not 4"),
        ('contains: "{checksum}"', 'contains: "{sum}"', "{sum} is no value"),
        ('contains: "{checksum}"', "matches: '('", "the check matches takes a regular expression of Python, not '('"),
        ('contains: "{checksum}"', "status: done", "the check status takes completed, failed, or ended, not 'done'"),
        ('contains: "{checksum}"', "plan: {step: 3}", "the check plan takes 'steps', a number, and 'dependency'"),
        ('  - contains: "{checksum}"', "  []", "checks must be a list of at least one check"),
        ("checks:", "pages: {second: x}\nchecks:", 'pages must hold one of the name ""'),
        ("checks:", "pages: {'': x, A B: x}\nchecks:", "the page 'A B' must have a name"),
        ("about: a command", "about: a\nabout: b", "it is no YAML"),
        ("about: a command", "about: !!python/object:os.system a", "it is no YAML"),
        ("about: a command", "- a", "it is no YAML"),
    ],
)
def test_a_mistake_in_a_task_is_told_with_its_file(tmp_path: Path, changed: str, to: str, said: str) -> None:
    assert changed in GOOD
    with pytest.raises(SettingsError) as told:
        read_tasks(written(tmp_path, GOOD.replace(changed, to)))
    assert str(told.value).startswith("the task mine.yaml is wrong: ")
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("Mine.yaml", GOOD, "its name must have 1 to 40 small letters"),
        ("mine.yaml", "just a text", "it must be a mapping of about, description"),
        ("mine.yaml", "", "it must be a mapping"),
        ("mine.yaml", GOOD + "#" * 100_000, "100000 are allowed"),
        ("mine.yml", GOOD, "holds 0 files '*.yaml'"),
    ],
)
def test_a_file_that_is_no_task_is_told(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as told:
        read_tasks(written(tmp_path, text, name))
    assert said in str(told.value)


def test_bytes_that_are_no_text_and_a_folder_that_is_not_there_are_told(tmp_path: Path) -> None:
    tmp_path.joinpath("mine.yaml").write_bytes(b"about: \xff\n")
    with pytest.raises(SettingsError, match=r"the task mine.yaml is wrong: .*utf-8"):
        read_tasks(tmp_path)
    with pytest.raises(SettingsError, match=r"the tasks can't be read: .*; name a folder with task files"):
        read_tasks(tmp_path / "nowhere")


def test_braces_around_anything_but_a_name_stay(tmp_path: Path) -> None:
    text = GOOD.replace("Run `printf", "Answer as {\"a\": 1}. Run `awk '{print $1}' && printf").replace("Run", "Do")
    text = text.replace("description: ", "description: >-\n  ")
    (task,) = read_tasks(written(tmp_path, text.replace("{print $1}", "{ print $1 }")))
    assert task.made(random.Random(1), "")[0].startswith("Answer as {\"a\": 1}. Do `awk '{ print $1 }'")


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_each_run_of_a_task_has_values_of_its_own(task: Task) -> None:
    made = [task.made(random.Random(seed), "http://127.0.0.1:1/abc/")[1] for seed in (1, 2)]
    assert not task.values or made[0] != made[1]
    assert bool(task.pages) == ("{page}" in task.description)


def test_a_name_that_is_no_tasks_is_told_with_those_that_are() -> None:
    assert [task.name for task in chosen(ALL, ["search", "command", "search"])] == ["search", "command"]
    assert chosen(ALL, []) == ALL
    with pytest.raises(SettingsError, match="there is no task 'comand'; the tasks are arithmetic, command,"):
        chosen(ALL, ["comand"])
