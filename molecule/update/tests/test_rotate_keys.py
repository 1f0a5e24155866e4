"""rotate-keys.yml replaces every key while the fleet works, and no job is lost."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from test_update import persist

if TYPE_CHECKING:
    from conftest import Lab

testinfra_hosts = ["pibot-master"]

WORKERS = ("worker-1", "worker-2", "worker-3")


def good_key(lab: Lab) -> str:
    """Return a key that the master accepts now: during a rotation also the old one."""
    before = lab.state / "secrets" / "previous" / "api_key"
    return before.read_text().strip() if before.exists() else lab.key


def run_a_job(lab: Lab, job_id: str) -> Any:
    """Run a job of two seconds and return its final status."""
    body = {"job_id": job_id, "description": "Sleep for 2 seconds", "skills": ["shell_exec"]}
    persist(lambda: lab.ask("pibot-master", "/task", body, key=good_key(lab)))
    while True:
        answer = persist(lambda: lab.ask("pibot-master", f"/task/{job_id}/result", key=good_key(lab), wait=30))
        if answer.status == 200:
            return answer.body["status"]


def test_a_rotation_replaces_all_keys_and_loses_no_job(lab: Lab) -> None:
    old = {name: lab.key_of(name) for name in ("pibot-master", *WORKERS)}
    stamp = int(time.time())
    with ThreadPoolExecutor(5) as pool:
        rotation = pool.submit(lab.playbook, "playbooks/rotate-keys.yml")

        def keep_busy(caller: int) -> list[str]:
            ends: list[str] = []
            while not rotation.done():
                ends.append(run_a_job(lab, f"rotate-{stamp}-{caller}-{len(ends)}"))
            return ends

        # More callers than workers, so a worker always has a task when its token is replaced.
        callers = [pool.submit(keep_busy, caller) for caller in range(4)]
        ends = [end for caller in callers for end in caller.result()]
    rotation.result()
    assert ends == ["completed"] * len(ends)
    assert len(ends) > len(old)

    new = {name: lab.key_of(name) for name in old}
    assert not set(old.values()) & set(new.values())
    assert not (lab.state / "secrets" / "previous").exists()
    assert lab.ask("pibot-master", "/tasks", key=old["pibot-master"]).status == 401
    assert lab.ask("pibot-master", "/tasks", key=new["pibot-master"]).status == 200
    for name in WORKERS:
        for key, status in ((old[name], "401"), (new[name], "200")):
            asked = (
                f"curl -s -o /dev/null -w '%{{http_code}}' -H 'Authorization: Bearer {key}' {lab.url(name, '/status')}"
            )
            assert lab.shell("pibot-master", asked) == status
    assert "worker-3" in lab.shell("pibot-master", "pibot status")
