"""KNOWN_SETTINGS names the settings that the code reads, with their real defaults."""

from __future__ import annotations

import ast
from pathlib import Path

from pibot.settings import Settings
from pibot.settings.catalog import COMMAND, DEMO, KNOWN_SETTINGS, MASTER, WORKER
from tests.support.processes import ROOT

READERS = [ROOT / "src/pibot/settings" / name for name in ("everything.py", "parts.py")]
NUMBERED = {
    "WORKER_<n>_IP",
    "WORKER_<n>_PORT",
    "WORKER_<n>_TOKEN",
    "WORKER_<n>_TOKEN_PREVIOUS",
    "PIBOT_KEY_<name>",
}
"""The settings whose name holds a number or a key's name; test_settings.py reads each of them."""


def names_in_the_code() -> set[str]:
    """The names that the two modules pass to the environment's methods."""
    calls = (node for path in READERS for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    return {
        node.args[0].value
        for node in calls
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "env"
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }


def test_the_catalog_names_each_setting_that_the_code_reads_and_no_other() -> None:
    names = [setting.name for setting in KNOWN_SETTINGS]
    assert sorted(names) == sorted(names_in_the_code() | NUMBERED)


def test_each_setting_has_a_reader() -> None:
    for setting in KNOWN_SETTINGS:
        assert setting.read_by, setting
        assert set(setting.read_by) <= {MASTER, WORKER, COMMAND, DEMO}, setting


def test_setting_each_default_of_the_catalog_changes_nothing(tmp_path: Path) -> None:
    for setting in KNOWN_SETTINGS:
        if setting.default and setting.name != "OPENAI_BASE_URL":  # its default counts with OPENAI_API_KEY only
            name = setting.name.replace("<n>", "1")
            address = {"WORKER_1_IP": "192.168.10.66"}
            spelled_out = Settings.load({**address, name: setting.default}, tmp_path)
            if name == "PIBOT_SKILLS_DIR":  # the folder in the working directory, else the bundled one
                spelled_out = spelled_out.replace(skills_dir=Settings.load(address, tmp_path).skills_dir)
            if name == "PIBOT_HUB_URL":  # set at all, it makes a worker register
                spelled_out = spelled_out.replace(join_hub=False)
            assert spelled_out == Settings.load(address, tmp_path), name


def test_the_default_of_the_openai_address_counts_with_the_openai_key(tmp_path: Path) -> None:
    (address,) = [setting.default for setting in KNOWN_SETTINGS if setting.name == "OPENAI_BASE_URL"]
    assert Settings.load({"OPENAI_API_KEY": "o"}, tmp_path).llm.base_url == address
