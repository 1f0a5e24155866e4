"""docs/security.md names a test for every threat, and each named test exists."""

from __future__ import annotations

import ast
import re

from tests.support.processes import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text("utf-8")
NAMED = re.findall(r"`((?:tests|molecule)/[\w/]+\.py)(?:::(\w+))?`", TEXT)


def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def test_each_named_test_exists() -> None:
    missing = [f"{path}::{name}" for path, name in NAMED if name and name not in functions(path)]
    assert missing == []
    assert all((ROOT / path).is_file() for path, _ in NAMED)


def test_each_threat_names_a_test_of_its_control() -> None:
    table = TEXT.partition("## Threats")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 20
    for row in rows:
        assert len(row) == 3, row
        assert re.search(r"`(?:tests|molecule)/", row[2]), row


def test_each_file_of_attacks_is_named() -> None:
    files = {f"tests/security/{path.name}" for path in (ROOT / "tests" / "security").glob("test_*.py")}
    assert files - {path for path, _ in NAMED} == set()
