"""Each role says the same about its variables in its defaults, its argument specs and its README."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.provisioning.support import ROLES

ALL_ROLES = sorted(folder.name for folder in ROLES.iterdir() if (folder / "meta").is_dir())


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def defaults(role: str) -> set[str]:
    return set(read(ROLES / role / "defaults" / "main.yml"))


def options(role: str) -> dict[str, Any]:
    options = read(ROLES / role / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    assert isinstance(options, dict)
    return options


def test_the_roles_are_found() -> None:
    assert {"pibot_app", "pibot_worker", "pibot_master"} <= set(ALL_ROLES)


@pytest.mark.parametrize("role", ALL_ROLES)
def test_defaults_and_argument_specs_name_the_same_variables(role: str) -> None:
    assert set(options(role)) == defaults(role)


@pytest.mark.parametrize("role", ALL_ROLES)
def test_every_variable_has_a_type_and_a_description(role: str) -> None:
    bare = [name for name, option in options(role).items() if not option.get("type") or not option.get("description")]
    assert bare == []


@pytest.mark.parametrize("role", ALL_ROLES)
def test_the_readme_lists_each_variable_and_no_other(role: str) -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \|", (ROLES / role / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert dict(rows) == {name: option["type"] for name, option in options(role).items()}


@pytest.mark.parametrize("role", ALL_ROLES)
def test_a_roles_variables_start_with_its_name(role: str) -> None:
    inner = ROLES / role / "vars" / "main.yml"
    names = defaults(role) | (set(read(inner)) if inner.exists() else set())
    assert [name for name in sorted(names) if not name.lstrip("_").startswith(f"{role}_")] == []


@pytest.mark.parametrize("role", ALL_ROLES)
def test_a_roles_inner_variables_start_with_an_underscore(role: str) -> None:
    inner = ROLES / role / "vars" / "main.yml"
    assert [name for name in (read(inner) if inner.exists() else {}) if not name.startswith("_")] == []


@pytest.mark.parametrize("role", ALL_ROLES)
def test_a_key_is_marked_as_one(role: str) -> None:
    keys = {name: option for name, option in options(role).items() if name.endswith("_key")}
    assert [name for name, option in keys.items() if not option.get("no_log")] == []


def test_every_short_name_in_settings_yml_is_read_by_a_role() -> None:
    settings = (ROLES.parent / "group_vars" / "all" / "settings.yml").read_text(encoding="utf-8")
    names = set(re.findall(r"^# (pibot_\w+):", settings, re.MULTILINE))
    read_somewhere = "".join(path.read_text(encoding="utf-8") for path in ROLES.glob("*/*/main.yml"))
    assert len(names) > 5
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", read_somewhere)] == []


def test_the_masters_address_never_goes_with_another_hosts_port_or_home() -> None:
    # These two are the host's own, and a worker's line in the inventory may set them for itself.
    files = [*ROLES.glob("*/*/*.*"), *(ROLES.parent / "playbooks").rglob("*.yml")]
    mixed = re.compile(r"_pibot_fleet_master_address \}\}:\{\{ pibot_fleet_port|\{\{ pibot_fleet_home \}\}/pibot/")
    assert len(files) > 50
    assert [str(path) for path in files if mixed.search(path.read_text(encoding="utf-8", errors="replace"))] == []


def test_a_folder_that_is_moved_for_the_master_alone_is_let_through_to_its_unit_too() -> None:
    # Of pibot_env alone a unit's folders would be others than its .env says, and read-only.
    text = (ROLES / "pibot_fleet" / "vars" / "main.yml").read_text(encoding="utf-8")
    assert text.count("_pibot_fleet_own_env.PIBOT_") == 5
    assert not re.search(r"\bpibot_fleet_env\.PIBOT_", text)
    assert "pibot_master_env" in text
