"""What the playbook writes into a host's .env is what PiBot reads from it, whatever the owner's value is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values
from jinja2 import Environment, StrictUndefined

from tests.provisioning.support import ROLES

TEMPLATE = ROLES / "pibot_fleet" / "templates" / "env.j2"


def written(lines: dict[str, object]) -> str:
    """The file that Ansible makes, which cuts off the line break after a block."""
    jinja = Environment(trim_blocks=True, undefined=StrictUndefined, autoescape=False)
    jinja.tests["match"] = lambda text, pattern: re.match(pattern, text) is not None
    return jinja.from_string(TEMPLATE.read_text(encoding="utf-8")).render(ansible_managed="managed", env_lines=lines)


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "",
        "two words",
        " around ",
        "it's",
        'say "so"',
        "$HOME and ${HOME}",
        "a#b # c",
        "back\\slash\\n",
        "ends with \\",
        "\\'",
        "grüße 你好",
        "line\nbreak",
        "`id`",
        "a=b",
    ],
)
def test_a_value_comes_back_as_it_was(value: str, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(written({"BEFORE": "1", "VALUE": value, "AFTER": 600}), encoding="utf-8")
    assert dotenv_values(file, interpolate=False) == {"BEFORE": "1", "VALUE": value, "AFTER": "600"}
