"""The code keeps the layers and rooms of CONTRIBUTING.md's tables, and importing a module does nothing."""

from __future__ import annotations

import ast
import graphlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "pibot"
FREE_FOR_SKILLS = {"pibot.contracts", "pibot.errors"}


def table() -> list[tuple[int, list[str]]]:
    """Return the rows of the layer table: each layer's top-level modules, in order."""
    rows = re.findall(r"^\| (\d) \| ([^|]*) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return [(int(layer), re.findall(r"`(\w+)`", names)) for layer, names in rows]


def modules() -> dict[str, Path]:
    """Return the file of every module of the package, by dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("pibot", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> Iterator[str]:
    """Return the modules of ``known`` that ``path`` imports, in functions and under TYPE_CHECKING too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "pibot")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [base])])
            if base.split(".")[0] != "pibot":
                continue
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in known else base


def top(name: str) -> str:
    """Return the top-level module: ``master_hub`` for ``pibot.master_hub.api``, an empty text for ``pibot`` itself."""
    return name.partition(".")[2].partition(".")[0]


MODULES = modules()
GRAPH = {name: set(imports(name, path, set(MODULES))) - {name} for name, path in MODULES.items()}


RANK = {name: (layer, place) for layer, names in table() for place, name in enumerate(names)}


def rooms() -> dict[str, set[str]]:
    """Return the rows of the room table: each room, and the parts of its package that it may import."""
    rows = re.findall(r"^\| `(\w+\.\w+)` \|([^|]*)\|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return {
        room: {f"{room.partition('.')[0]}.{name}" for name in re.findall(r"`(\w+)`", beside)} for room, beside in rows
    }


ROOMS = rooms()


def room_of(name: str) -> str:
    """Return ``master_components.store`` for ``pibot.master_components.store.jobs``; empty for a module in no room."""
    return next((room for room in ROOMS if f"{name}.".startswith(f"pibot.{room}.")), "")


def test_every_module_has_a_row_in_the_table_and_every_row_a_module() -> None:
    assert {top(name) for name in MODULES if top(name)} == set(RANK)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_from_lower_layers_from_its_left_or_its_own_package(name: str) -> None:
    own = top(name)
    others = {top(other) for other in GRAPH[name]} - {"", own}
    assert [other for other in sorted(others) if RANK[other] > RANK[own]] == []


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graphlib.TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the circle


def test_every_folder_within_a_package_has_a_row_in_the_table_of_rooms() -> None:
    folders = {".".join(path.parent.relative_to(PACKAGE).parts) for path in PACKAGE.glob("*/*/*.py")}
    assert {room for room in folders if "." in room} == {
        room for room in ROOMS if (PACKAGE / room.replace(".", "/")).is_dir()
    }
    assert all((PACKAGE / room.replace(".", "/")).is_dir() or f"pibot.{room}" in MODULES for room in ROOMS)


@pytest.mark.parametrize("name", sorted(name for name in MODULES if room_of(name)))
def test_a_room_imports_only_the_rooms_of_its_row(name: str) -> None:
    own = room_of(name)
    package = own.partition(".")[0]
    others = {other for other in GRAPH[name] if top(other) == package and room_of(other) != own}
    assert {room_of(other) or other.partition(".")[2] for other in others} <= ROOMS[own]


def test_rooms_do_not_import_each_other_in_a_circle() -> None:
    graphlib.TopologicalSorter(ROOMS).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", sorted((ROOT / "skills").glob("*/tools.py")), ids=lambda path: path.parent.name)
def test_a_skill_imports_only_contracts_and_errors(path: Path) -> None:
    assert set(imports(path.parent.name, path, set(MODULES))) <= FREE_FOR_SKILLS


# Runs in a fresh process, in which nothing is imported yet. An audit hook reports what the interpreter does.
_PROBE = """
import importlib, json, os, sys, threading
seen = []
def hook(event, args):
    if event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or event.startswith(
        ("socket.connect", "socket.bind", "subprocess.", "os.mkdir", "os.fork", "os.system", "shutil.")
    ):
        seen.append([current, event, str(args[:1])])
current = ""
sys.addaudithook(hook)
for current in sys.argv[1:]:
    importlib.import_module(current)
    if threading.active_count() > 1:
        seen.append([current, "thread", str(threading.enumerate())])
print(json.dumps(seen))
"""


def test_importing_a_module_starts_no_thread_and_touches_no_file(tmp_path: Path) -> None:
    names = [name for name in MODULES if name != "pibot.__main__"]
    run = subprocess.run(
        [sys.executable, "-B", "-c", _PROBE, *names], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("\n") == 1, f"an import printed something: {run.stdout}"
    assert json.loads(run.stdout) == []
    assert list(tmp_path.iterdir()) == []
