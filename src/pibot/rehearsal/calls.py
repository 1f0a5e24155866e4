"""The arguments of the tool calls that the rules ask for."""

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
"""Seconds for a command of which nobody said how long it takes."""

SPARE_TIME = 30
"""Seconds that a sleeping command may take longer: a Pi may be slow to start it."""

Arguments = Mapping[str, Any]


# --- pieces -----------------------------------------------------------------


def unquoted(text: str) -> str:
    """``text`` without the quotes around it, if there are any."""
    pairs = ("''", '""', "``", "“”", "‘’")
    return text[1:-1] if len(text) >= 2 and text[0] + text[-1] in pairs else text


def place(s: Situation) -> str:
    """The folder or file that the part names: ``~`` for the home directory, ``.`` for here."""
    text = unquoted(s.groups.get("file") or s.groups.get("where") or ".")
    if re.fullmatch(r"home(\s+(directory|folder))?", text, re.IGNORECASE):
        return "~"
    if re.fullmatch(r"((current|working)\s+(directory|folder)|workspace|here)", text, re.IGNORECASE):
        return "."
    return text


def seconds(s: Situation) -> float:
    """How long to sleep."""
    return float(s.groups["number"]) * (60 if s.groups["unit"].lower().startswith("m") else 1)


def content(s: Situation) -> str:
    """The text to write, ending in a line's end."""
    return unquoted(s.groups["text"]) + "\n" if "text" in s.groups else TEST_TEXT


def combined(s: Situation) -> str:
    """The earlier outcomes as a text with a heading each."""
    return "\n".join(f"# {name}\n{outcome.output.strip()}\n" for name, outcome in s.earlier)


def _quoted(path: str) -> str:
    """``path`` for a shell, its leading ``~`` still meaning the home directory."""
    head, slash, rest = path.partition("/")
    if head == "~":
        return "~" + slash + (shlex.quote(rest) if rest else "")
    return shlex.quote(path)


def _file(s: Situation) -> str:
    return unquoted(s.groups.get("file", TEST_FILE))


def _here(path: str) -> str:
    """``path`` for the file tools, to which the workspace is home."""
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
    # A confined command has a home directory of its own; who names the user's is shown that, and told so.
    return _command(
        f"if [ -d {path} ]; then ls -la {path}; "
        f"else echo '{place(s)} is not there for a task; its own home directory holds:'; ls -la ~; fi"
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
        # Not in a pipe: its status would be wc's, which has nothing to complain of.
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
