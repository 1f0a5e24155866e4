"""Updates: a good release loses no job, a broken one stops at the first host, and a rollback returns to the old one.

The tests run in order; each continues from the state that the one before left.
"""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import pytest

if TYPE_CHECKING:
    from conftest import Lab

testinfra_hosts = ["pibot-master"]

ROOT = Path(__file__).resolve().parents[3]
WORKERS = ("worker-1", "worker-2", "worker-3")
HOSTS = (*WORKERS, "pibot-master")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the part of this checkout that a release is built from."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("src", "skills", "requirements"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "soul.md", "worker_soul.md"):
        shutil.copy2(ROOT / name, copy)
    return copy


def release(lab: Lab, name: str) -> str:
    """Return the release that a host runs."""
    folder = "pibot" if name == "pibot-master" else "pibot-worker"
    return lab.shell(name, f"readlink ~/{folder}/current").strip()


def process(lab: Lab, name: str) -> str:
    """Return the id of a worker's main process."""
    return lab.shell(name, "systemctl show --property MainPID --value pibot-worker").strip()


def persist(request: Callable[[], Any]) -> Any:
    """Retry a request for 60 s: the master is away for a moment while it switches to another release."""
    deadline = time.monotonic() + 60
    while True:
        try:
            answer = request()
        except OSError:
            answer = None
        if answer is not None and answer.status in (200, 202):
            return answer
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)


def run_a_job(lab: Lab, job_id: str) -> Any:
    """Run a job of two seconds and return its record."""
    body = {"job_id": job_id, "description": "Sleep for 2 seconds", "skills": ["shell_exec"]}
    persist(lambda: lab.ask("pibot-master", "/task", body, key=lab.key))
    while True:
        result = persist(lambda: lab.ask("pibot-master", f"/task/{job_id}/result", key=lab.key, wait=30))
        if result.status == 200:
            return persist(lambda: lab.ask("pibot-master", f"/task/{job_id}", key=lab.key)).body["job"]


def test_an_update_to_a_good_release_loses_no_job(lab: Lab, checkout: Path) -> None:
    before = release(lab, "pibot-master")
    package = checkout / "src/pibot/__init__.py"
    package.write_text(f"{package.read_text()}# Another release.\n")
    stamp = int(time.time())
    with ThreadPoolExecutor(5) as pool:
        update = pool.submit(lab.playbook, "site.yml", "-e", f"pibot_app_source={checkout}")

        def keep_busy(caller: int) -> list[Any]:
            jobs: list[Any] = []
            while not update.done():
                jobs.append(run_a_job(lab, f"during-{stamp}-{caller}-{len(jobs)}"))
            return jobs

        # More callers than workers, so a worker always has a task when it switches.
        callers = [pool.submit(keep_busy, caller) for caller in range(4)]
        jobs = [job for caller in callers for job in caller.result()]
    update.result()
    assert [job["status"] for job in jobs] == ["completed"] * len(jobs)
    assert len(jobs) > len(HOSTS)
    assert all(len(job["subtasks"][0]["attempts"]) <= 3 for job in jobs)
    (now,) = {release(lab, name) for name in HOSTS}
    assert now != before
    for name in HOSTS:
        folder = "pibot" if name == "pibot-master" else "pibot-worker"
        assert lab.shell(name, f"readlink ~/{folder}/previous").strip() == before


def test_a_broken_release_is_rolled_back_on_the_first_host_and_reaches_no_other_host(lab: Lab, checkout: Path) -> None:
    good = release(lab, "worker-1")
    others = {name: (release(lab, name), process(lab, name)) for name in WORKERS[1:]}
    broken = checkout / "src/pibot/worker/process.py"
    text = broken.read_text()
    broken.write_text(
        text.replace("    parser = argparse", '    raise SystemExit("broken on purpose")\n    parser = argparse')
    )
    assert broken.read_text() != text

    arguments = ("site.yml", "-e", f"pibot_app_source={checkout}", "-e", "pibot_app_health_seconds=5")
    printed = lab.playbook(*arguments, fails=True)

    broken.write_text(text)
    assert "pibot-worker on worker-1 did not become healthy" in printed
    assert "broken on purpose" in printed  # from the journal
    assert f"It runs {Path(good).name} again" in printed
    assert release(lab, "worker-1") == good
    health = lab.curl("pibot-master", lab.url("worker-1", "/health"))
    assert (health["status"], health["worker_id"]) == ("healthy", "worker-1")
    assert {name: (release(lab, name), process(lab, name)) for name in WORKERS[1:]} == others
    assert release(lab, "pibot-master") == good
    assert run_a_job(lab, f"after-{int(time.time())}")["status"] == "completed"


def test_the_rollback_playbook_returns_to_the_previous_release(lab: Lab) -> None:
    (now,) = {release(lab, name) for name in HOSTS}
    lab.playbook("playbooks/rollback.yml")
    (back,) = {release(lab, name) for name in HOSTS}
    assert back != now
    assert run_a_job(lab, f"back-{int(time.time())}")["status"] == "completed"
