"""Runs of the playbook on a working fleet: interrupted, in check mode, with verbose output."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Lab

testinfra_hosts = ["pibot-master"]

ENV = "/home/pi/pibot-worker/.env"
ONE_WORKER = ("playbooks/workers.yml", "--limit", "worker-1", "--tags", "worker")


def process(lab: Lab) -> str:
    return lab.shell("worker-1", "systemctl show --property MainPID --value pibot-worker").strip()


def test_a_run_restarts_the_worker_for_settings_that_an_interrupted_run_wrote(lab: Lab) -> None:
    lab.playbook(*ONE_WORKER)
    started = process(lab)
    # As if a run had been interrupted between writing the .env and the restart.
    lab.shell("worker-1", f"echo PIBOT_MAX_STEPS=19 | sudo tee -a {ENV}")
    settings = {
        "PIBOT_WEB_ALLOW": f"{lab.hosts['worker-1']['ansible_host'].rsplit('.', 1)[0]}.0/24",
        "PIBOT_LEASE_SECONDS": "15",
        "PIBOT_MAX_STEPS": "19",
    }
    extra = ("-e", json.dumps({"pibot_env": settings}))
    printed = lab.playbook(*ONE_WORKER, *extra)
    assert "changed=1" in printed  # only the restart
    again = process(lab)
    assert again not in ("0", started)
    assert "changed=0" in lab.playbook(*ONE_WORKER, *extra)
    assert process(lab) == again
    lab.playbook(*ONE_WORKER)
    assert "MAX_STEPS" not in lab.shell("worker-1", f"cat {ENV}")


def test_a_check_of_an_update_succeeds_and_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    soul = tmp_path / "soul.md"
    soul.write_text("You are another.\n")
    before = process(lab)
    secrets = tmp_path / "secrets"
    extra = ("-e", f"pibot_worker_soul={soul}", "-e", f"pibot_secrets_dir={secrets}")
    printed = lab.playbook("site.yml", "--check", "--diff", *extra)
    assert "+You are another." in printed
    assert "PIBOT_API_KEY" not in printed
    assert not secrets.exists()  # so the check ran without the fleet's key
    assert process(lab) == before
    assert "another" not in lab.shell("worker-1", "cat ~/pibot-worker/worker_soul.md")


def test_a_run_prints_no_key_even_with_verbose_output(lab: Lab) -> None:
    printed = lab.playbook("site.yml", "-vvvv", "--diff", "--limit", "worker-1,pibot-master")
    assert re.search(r"failed=0", printed)
    assert [name for name in ("pibot-master", "worker-1", "worker-2") if lab.key_of(name) in printed] == []
