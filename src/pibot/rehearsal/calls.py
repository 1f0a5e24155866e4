"""The arguments of the rules' tool calls."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from pibot.rehearsal.outcome import Situation

TEST_FILE = "test.txt"
TEST_TEXT = "This is a test file.\n"

COMMAND_TIMEOUT = 60
"""Seconds that a command may take, unless the task says how long it sleeps."""

SPARE_TIME = 30
"""Seconds added to the limit of a command that sleeps, since a Pi may be slow to start it."""

Arguments = Mapping[str, Any]


# --- pieces -----------------------------------------------------------------


def unquoted(text: str) -> str:
    """Remove the quotes around ``text``, if there are any."""
    pairs = ("''", '""', "``", "“”", "‘’")
    return text[1:-1] if len(text) >= 2 and text[0] + text[-1] in pairs else text


def place(s: Situation) -> str:
    """Return the folder or file that the part names: ``~`` is the home directory, ``.`` the working directory."""
    text = unquoted(s.groups.get("file") or s.groups.get("where") or ".")
    if re.fullmatch(r"home(\s+(directory|folder))?", text, re.IGNORECASE):
        return "~"
    if re.fullmatch(r"((current|working)\s+(directory|folder)|workspace|here)", text, re.IGNORECASE):
        return "."
    return text


def seconds(s: Situation) -> float:
    """Return how long to sleep."""
    return float(s.groups["number"]) * (60 if s.groups["unit"].lower().startswith("m") else 1)


def content(s: Situation) -> str:
    """Return the text to write, with a line end."""
    return unquoted(s.groups["text"]) + "\n" if "text" in s.groups else TEST_TEXT


def combined(s: Situation) -> str:
    """Return the earlier outcomes as one text, each under a heading."""
    return "\n".join(f"# {name}\n{outcome.output.strip()}\n" for name, outcome in s.earlier)


def _quoted(path: str) -> str:
    """Quote ``path`` for a shell, but not a leading ``~``, which stays the home directory."""
    head, slash, rest = path.partition("/")
    if head == "~":
        return "~" + slash + (shlex.quote(rest) if rest else "")
    return shlex.quote(path)


def _file(s: Situation) -> str:
    return unquoted(s.groups.get("file", TEST_FILE))


def _here(path: str) -> str:
    """Return ``path`` for the file tools, whose home directory is the workspace."""
    return "." if path == "~" else path[2:] if path.startswith("~/") else path


def _command(command: str, timeout: float = COMMAND_TIMEOUT) -> Arguments:
    return {"command": command, "timeout": math.ceil(timeout)}


# --- shell_exec -------------------------------------------------------------


def sleep(s: Situation) -> Arguments:
    return _command(f"sleep {seconds(s):g}", seconds(s) + SPARE_TIME)


def shell_list(s: Situation) -> Arguments:
    path = _quoted(place(s))
    if not re.match(r"/(home/\w[\w.-]*|root)/?\Z", place(s)):
        return _command(f"ls -la {path}")
    # A confined command has its own home directory. If the task names the user's, list the command's own and say so.
    return _command(
        f"if [ -d {path} ]; then ls -la {path}; "
        f"else echo '{place(s)} is not visible to a task; its own home directory holds:'; ls -la ~; fi"
    )


def shell_write(s: Situation) -> Arguments:
    return _command(f"printf %s {shlex.quote(content(s))} > {_quoted(_file(s))}")


def shell_append(s: Situation) -> Arguments:
    return _command(f"printf %s {shlex.quote(content(s))} >> {_quoted(_file(s))}")


def shell_write_results(s: Situation) -> Arguments:
    return _command(f"printf %s {shlex.quote(combined(s))} > {_quoted(_file(s))}")


def shell_read(s: Situation) -> Arguments:
    return _command(f"cat {_quoted(_file(s))}")


def shell_search(s: Situation) -> Arguments:
    return _command(f"grep -rnI -e {shlex.quote(unquoted(s.groups['text']))} {_quoted(place(s))} | head -n 100")


def shell_count(s: Situation) -> Arguments:
    path = _quoted(place(s))
    what = s.groups["what"].lower()
    if what in ("files", "entries"):
        # Not in a pipe: the exit code would be that of wc, which never fails.
        return _command(f'names=$(ls -A {path}) && printf %s "${{names:+$names\n}}" | wc -l')
    return _command(f"wc -{what[0] if what != 'characters' else 'm'} < {path}")


def shell_delete(s: Situation) -> Arguments:
    return _command(f"rm {_quoted(_file(s))}")


def shell_move(s: Situation) -> Arguments:
    return _command(f"mv {_quoted(_file(s))} {_quoted(unquoted(s.groups['target']))}")


def run(s: Situation) -> Arguments:
    return _command(s.groups["command"])


def date(_: Situation) -> Arguments:
    return _command("date")


# --- file_ops ---------------------------------------------------------------


def list_files(s: Situation) -> Arguments:
    return {"path": _here(place(s))}


def read_file(s: Situation) -> Arguments:
    return {"path": _here(place(s))}


def write_file(s: Situation) -> Arguments:
    return {"path": _here(_file(s)), "content": content(s)}


def delete_file(s: Situation) -> Arguments:
    return {"path": _here(_file(s))}


def move_file(s: Situation) -> Arguments:
    return {"source": _here(_file(s)), "target": _here(unquoted(s.groups["target"]))}


def search_files(s: Situation) -> Arguments:
    return {"path": _here(place(s)), "text": unquoted(s.groups["text"])}


def append_file(s: Situation) -> Arguments:
    return {"path": _here(_file(s)), "content": content(s)}


def write_results(s: Situation) -> Arguments:
    return {"path": _here(_file(s)), "content": combined(s)}


# --- web_fetch, system_info -------------------------------------------------


def fetch(s: Situation) -> Arguments:
    include = "all" if s.groups.get("what", "").lower().startswith("link") else "text"
    return {"url": s.groups["url"], "include": include}


def system_info(_: Situation) -> Arguments:
    return {}
