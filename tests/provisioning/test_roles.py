"""Each role says the same about its variables in its defaults, its argument specs, its entry points and its README."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.provisioning.support import ANSIBLE, ROLES

ALL_ROLES = sorted(folder.name for folder in ROLES.iterdir() if (folder / "meta").is_dir())


@functools.cache
def read(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def defaults(role: str) -> dict[str, Any]:
    found = read(ROLES / role / "defaults" / "main.yml")
    assert isinstance(found, dict)
    return found


def derived(role: str) -> set[str]:
    """Return the names in the role's vars/main.yml, which its owner can't set."""
    path = ROLES / role / "vars" / "main.yml"
    return set(read(path)) if path.exists() else set()


def specs(role: str) -> dict[str, Any]:
    """Return the role's argument specs by entry point."""
    found = read(ROLES / role / "meta" / "argument_specs.yml")["argument_specs"]
    assert isinstance(found, dict)
    return found


def options(role: str, entry: str = "main") -> dict[str, Any]:
    found = specs(role)[entry]["options"]
    assert isinstance(found, dict)
    return found


def all_options(role: str) -> dict[str, Any]:
    """Return the options of all the role's entry points."""
    return {name: option for entry in specs(role) for name, option in options(role, entry).items()}


def playbook_files() -> list[Path]:
    """Return every file in which a variable is set or read."""
    folders = (ROLES.glob("*/*/*.*"), (ANSIBLE / "playbooks").rglob("*.yml"), [ANSIBLE / "site.yml"])
    files = [path for folder in folders for path in folder if path.suffix in {".yml", ".j2"}]
    assert len(files) > 50
    return files


def tasks(node: Any) -> Iterator[dict[str, Any]]:
    """Walk the tasks of a file of tasks or plays, with those in its blocks."""
    for item in node or []:
        yield item
        for key in ("block", "rescue", "always", "tasks"):
            yield from tasks(item.get(key))


@functools.cache
def uses_of_roles() -> list[tuple[str, str, set[str]]]:
    """Return each include_role and import_role as its role, its entry point and the names of its vars."""
    files = [*ROLES.glob("*/tasks/*.yml"), *(ANSIBLE / "playbooks").rglob("*.yml")]
    found = []
    for task in (task for path in files for task in tasks(read(path))):
        for module in ("ansible.builtin.include_role", "ansible.builtin.import_role"):
            if module in task:
                entry = task[module].get("tasks_from", "main")
                found.append((task[module]["name"], entry, set(task.get("vars", {}))))
    return found


def test_the_roles_are_found() -> None:
    assert {"pibot_app", "pibot_worker", "pibot_master"} <= set(ALL_ROLES)


@pytest.mark.parametrize("role", ALL_ROLES)
def test_defaults_and_argument_specs_name_the_same_variables(role: str) -> None:
    assert set(options(role)) == set(defaults(role))


@pytest.mark.parametrize("role", ALL_ROLES)
def test_every_entry_point_that_is_used_has_an_argument_spec_and_no_other_has(role: str) -> None:
    used = {entry for name, entry, _ in uses_of_roles() if name == role}
    assert set(specs(role)) == {"main"} | used
    assert [entry for entry in specs(role) if not (ROLES / role / "tasks" / f"{entry}.yml").exists()] == []


@pytest.mark.parametrize("role", ALL_ROLES)
def test_an_option_is_required_exactly_where_it_has_no_default(role: str) -> None:
    for name, option in all_options(role).items():
        assert bool(option.get("required")) is (name not in defaults(role)), name


@pytest.mark.parametrize("role", ALL_ROLES)
def test_a_caller_sets_exactly_the_required_options_of_an_entry_point(role: str) -> None:
    for entry in specs(role):
        required = {name for name, option in options(role, entry).items() if option.get("required")}
        given = [names for name, used, names in uses_of_roles() if (name, used) == (role, entry)]
        assert all(names == required for names in given), entry


@pytest.mark.parametrize("role", ALL_ROLES)
def test_a_spec_repeats_each_default_that_is_a_plain_value(role: str) -> None:
    for name, option in all_options(role).items():
        value = defaults(role).get(name)
        if value is None or "{{" in str(value):
            assert "default" not in option, f"{name}: an expression belongs into defaults/main.yml alone"
        else:
            assert option["default"] == value, name


@pytest.mark.parametrize("role", ALL_ROLES)
def test_an_option_is_the_same_in_every_entry_point(role: str) -> None:
    for entry in specs(role):
        for name, option in options(role, entry).items():
            assert option == all_options(role)[name], f"{entry}: {name}"


@pytest.mark.parametrize("role", ALL_ROLES)
def test_every_variable_has_a_type_and_a_description(role: str) -> None:
    bare = [
        name for name, option in all_options(role).items() if not option.get("type") or not option.get("description")
    ]
    assert bare == []


@pytest.mark.parametrize("role", ALL_ROLES)
def test_every_entry_point_has_a_description(role: str) -> None:
    assert [entry for entry, spec in specs(role).items() if not spec.get("short_description")] == []


@pytest.mark.parametrize("role", ALL_ROLES)
def test_the_readme_describes_each_variable_as_the_specs_do_and_no_other(role: str) -> None:
    readme = (ROLES / role / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", readme, re.MULTILINE)
    described = {
        name: (option["type"], re.sub(r"C\((.*?)\)", r"`\1`", option["description"]))
        for name, option in all_options(role).items()
    }
    assert {name: (kind, meaning) for name, kind, meaning in rows} == described


@pytest.mark.parametrize("role", ALL_ROLES)
def test_a_roles_variables_start_with_its_name(role: str) -> None:
    names = set(all_options(role)) | derived(role)
    assert [name for name in sorted(names) if not name.lstrip("_").startswith(f"{role}_")] == []


@pytest.mark.parametrize("role", ALL_ROLES)
def test_a_variable_with_an_underscore_is_used_in_its_own_role_alone(role: str) -> None:
    outside = [path for path in playbook_files() if ROLES / role not in path.parents]
    private = re.compile(rf"\b_{role}_\w+")
    assert {str(path): private.findall(path.read_text(encoding="utf-8")) for path in outside} == {
        str(path): [] for path in outside
    }


@pytest.mark.parametrize("role", ALL_ROLES)
def test_a_derived_variable_without_an_underscore_is_used_outside_and_is_in_the_readme(role: str) -> None:
    outside = "".join(path.read_text(encoding="utf-8") for path in playbook_files() if ROLES / role not in path.parents)
    public = {name for name in derived(role) if not name.startswith("_")}
    assert [name for name in sorted(public) if not re.search(rf"\b{name}\b", outside)] == []
    readme = (ROLES / role / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \| [^|]+ \|$", readme, re.MULTILINE)) == public


@pytest.mark.parametrize("role", ALL_ROLES)
def test_a_key_is_marked_as_one(role: str) -> None:
    keys = {name: option for name, option in all_options(role).items() if name.endswith(("_key", "_tokens"))}
    assert [name for name, option in keys.items() if not option.get("no_log")] == []


def test_no_variable_file_holds_a_program() -> None:
    # A statement in a template can't be tested; filter_plugins/pibot.py can. The hardening is text with one condition.
    files = [*ROLES.glob("*/vars/main.yml"), *ROLES.glob("*/defaults/main.yml")]
    statements = {
        name: re.findall(r"\{%-? (\w+)", str(value))
        for path in files
        for name, value in read(path).items()
        if "{%" in str(value)
    }
    assert statements == {"pibot_fleet_hardening": ["if", "else", "endif"]}


def test_every_short_name_in_settings_yml_is_read_by_a_role() -> None:
    settings = (ANSIBLE / "group_vars" / "all" / "settings.yml").read_text(encoding="utf-8")
    names = set(re.findall(r"^# (pibot_\w+):", settings, re.MULTILINE))
    read_somewhere = "".join(path.read_text(encoding="utf-8") for path in ROLES.glob("*/*/main.yml"))
    assert len(names) > 5
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", read_somewhere)] == []


def test_the_masters_address_never_goes_with_another_hosts_port_or_home() -> None:
    # These two are the host's own, and a worker's line in the inventory may set them for itself.
    mixed = re.compile(r"pibot_fleet_master_address \}\}:\{\{ pibot_fleet_port|\{\{ pibot_fleet_home \}\}/pibot/")
    assert [str(path) for path in playbook_files() if mixed.search(path.read_text(encoding="utf-8"))] == []


def test_a_folder_that_is_moved_for_the_master_alone_is_let_through_to_its_unit_too() -> None:
    # With pibot_env alone a unit's folders would differ from those in its .env, and would be read-only.
    text = (ROLES / "pibot_fleet" / "vars" / "main.yml").read_text(encoding="utf-8")
    assert text.count("_pibot_fleet_own_env.PIBOT_") == 3
    assert "_pibot_fleet_own_env | pibot_read_paths" in text
    assert not re.search(r"\bpibot_fleet_env\.PIBOT_|\bpibot_fleet_env \| pibot_read_paths", text)
    assert "pibot_master_env" in text
