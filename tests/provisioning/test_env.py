"""PiBot reads from a host's .env what the playbook wrote into it, whatever the owner's value is."""

from __future__ import annotations

from pathlib import Path

import pytest
from dotenv import dotenv_values
from jinja2 import Environment, StrictUndefined

from tests.provisioning.support import ANSIBLE, ROLES, load

TEMPLATE = ROLES / "pibot_fleet" / "templates" / "env.j2"


def written(lines: dict[str, object]) -> str:
    """Render the template as Ansible does."""
    jinja = Environment(keep_trailing_newline=True, undefined=StrictUndefined, autoescape=False)
    jinja.filters.update(load(ANSIBLE / "filter_plugins" / "pibot.py").FilterModule().filters())
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
        "ends with a break\n",
    ],
)
def test_a_value_is_read_back_unchanged(value: str, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(written({"BEFORE": "1", "VALUE": value, "AFTER": 600}), encoding="utf-8")
    assert dotenv_values(file, interpolate=False) == {"BEFORE": "1", "VALUE": value, "AFTER": "600"}
