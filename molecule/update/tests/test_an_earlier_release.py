"""A fleet of an earlier release is updated by today's `site.yml`: its settings, jobs and workers stay.

The earlier release is taken from the repository's history and provisioned by its own playbook, as its owner did.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Lab

testinfra_hosts = ["pibot-master"]

ROOT = Path(__file__).resolve().parents[3]
EARLIER = "28009f1c9a0f910eed0448b0e79f5ef482b3878e"
"""The last commit in which the master's modules lay in one folder."""

JOB = {"description": "Sleep for 1 seconds", "skills": ["shell_exec"]}

HOSTS = {"pibot-master": "pibot", "worker-1": "pibot-worker", "worker-2": "pibot-worker", "worker-3": "pibot-worker"}
"""Each host of the fleet, and the folder in its home that holds the releases."""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Check the earlier release out of the history into a folder."""
    archive = subprocess.run(["git", "archive", EARLIER], cwd=ROOT, capture_output=True, check=False)  # nosec B603 B607 # a fixed revision
    assert archive.returncode == 0, (
        f"{EARLIER} is not in this clone's history (git fetch --unshallow): {archive.stderr!r}"
    )
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def env_of(lab: Lab, host: str) -> dict[str, str]:
    """Return the names and values in a host's .env, which only root and the service's user may read."""
    lines = lab.shell(host, f"sudo cat ~/{HOSTS[host]}/.env").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def job_of(lab: Lab, job_id: str) -> Any:
    """Return the job as the master's API shows it."""
    return lab.ask("pibot-master", f"/task/{job_id}", key=lab.key).body["job"]


def kept(now: Any, before: Any) -> Any:
    """Return ``now`` without the keys that a later release has added to its objects."""
    if isinstance(now, dict) and isinstance(before, dict):
        return {name: kept(now.get(name), value) for name, value in before.items()}
    if isinstance(now, list) and isinstance(before, list) and len(now) == len(before):
        return [kept(one, other) for one, other in zip(now, before)]
    return now


def test_an_update_from_an_earlier_release_keeps_settings_jobs_and_workers(lab: Lab, earlier: Path) -> None:
    lab.playbook("playbooks/uninstall.yml", "-e", "pibot_uninstall=yes")
    lab.playbook("site.yml", checkout=earlier)
    stamp = int(time.time())
    ended, unfinished = f"ended-{stamp}", f"unfinished-{stamp}"
    done = lab.ask("pibot-master", "/task", {**JOB, "job_id": ended}, key=lab.key, wait=60)
    assert (done.status, done.body["status"]) == (200, "completed")
    before = job_of(lab, ended)
    settings = {host: env_of(lab, host) for host in HOSTS}
    assert lab.ask("pibot-master", "/workers/worker-2/drain", {}, key=lab.key).status == 200
    long = {"description": "Sleep for 20 seconds", "skills": ["shell_exec"], "job_id": unfinished}
    assert lab.ask("pibot-master", "/task", long, key=lab.key).status == 202

    lab.playbook("site.yml")

    assert kept(job_of(lab, ended), before) == before
    assert lab.ask("pibot-master", f"/task/{unfinished}/result", key=lab.key, wait=90).body["status"] == "completed"
    for host in HOSTS:
        now = env_of(lab, host)
        assert {name: now.get(name) for name in settings[host]} == settings[host]
    workers = {worker["id"]: worker for worker in lab.ask("pibot-master", "/workers", key=lab.key).body["workers"]}
    assert {name: worker["draining"] for name, worker in workers.items()} == {
        "worker-1": False,
        "worker-2": True,
        "worker-3": False,
    }
    assert lab.ask("pibot-master", "/workers/worker-2/undrain", {}, key=lab.key).status == 200
    assert "changed=0" in lab.playbook("site.yml", "--limit", "worker-1,pibot-master")
