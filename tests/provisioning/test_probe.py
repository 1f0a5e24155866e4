"""roles/pibot_preflight/files/probe.sh prints a host's facts as YAML, on any network set-up and any connection."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.provisioning.support import ROLES

PROBE = ROLES / "pibot_preflight" / "files" / "probe.sh"


def ask(tools: Path, **environment: str) -> Any:
    """Run the probe with the programs in ``tools`` first on its PATH, and return its answer."""
    done = subprocess.run(
        ["/bin/sh", "-c", PROBE.read_text(encoding="utf-8")],
        env={"PATH": f"{tools}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return YAML(typ="safe").load(done.stdout)


def stand_in(tools: Path, name: str, prints: str) -> None:
    program = tools / name
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{prints}\nEND\n")
    program.chmod(0o755)


@pytest.mark.parametrize("made_by", ["proto kernel scope link", "proto dhcp scope link", "scope link"])
def test_the_hosts_network_is_found_whatever_made_its_route(made_by: str, tmp_path: Path) -> None:
    routes = f"default dev ppp0 scope link\n10.1.0.0/16 dev wlan0 {made_by} src 10.1.0.66 metric 303"
    stand_in(tmp_path, "ip", routes)
    assert "proto" not in re.findall("^ip .*show ([a-z ]*)", PROBE.read_text(), re.MULTILINE)[0]
    assert ask(tmp_path)["networks"] == {"10.1.0.66": "10.1.0.0/16"}


def test_the_port_of_ssh_is_the_one_that_the_host_sees_in_the_connection(tmp_path: Path) -> None:
    answer = ask(tmp_path, SSH_CONNECTION="192.168.10.5 50000 192.168.10.66 2222")
    assert (answer["ssh_port"], answer["ssh_client"]) == (2222, "192.168.10.5")


def test_it_reports_every_package_that_the_playbook_installs(tmp_path: Path) -> None:
    # A package that it does not report would count as installed by PiBot, and an uninstall would remove it.
    defaults = YAML(typ="safe").load((ROLES / "pibot_base" / "defaults" / "main.yml").read_text("utf-8"))
    wanted = defaults["pibot_base_packages"]
    stand_in(tmp_path, "dpkg-query", "\n".join(f"ii  {name}" for name in [*wanted, "vim"]))
    assert sorted(ask(tmp_path)["packages"]) == sorted(wanted)


def test_listening_programs_are_reported_as_port_numbers(tmp_path: Path) -> None:
    stand_in(tmp_path, "ss", "LISTEN 0 128 0.0.0.0:22 0.0.0.0:*\nLISTEN 0 128 [::]:22 [::]:*\nLISTEN 0 5 *:5000 *:*")
    assert ask(tmp_path)["listening"] == [22, 5000]


def test_a_host_without_these_programs_still_gets_an_answer(tmp_path: Path) -> None:
    for name in ("ip", "ss", "dpkg-query"):
        stand_in(tmp_path, name, "")
    answer = ask(tmp_path)
    assert not answer["listening"]
    assert not answer["networks"]
    assert "root" in answer["users"]
