"""The guide's tests 1 to 5 and its three validations, with its own commands and scripts, on the provisioned machines.

The commands run on the master, since the workers' ports are closed to other hosts, and send that worker's own key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Lab

testinfra_hosts = ["pibot-master"]

SCRIPTS = Path(__file__).resolve().parents[3] / "tests" / "guide" / "scripts"
WORKERS = ("worker-1", "worker-2", "worker-3")


def post(lab: Lab, name: str, body: dict[str, Any]) -> Any:
    return lab.curl(
        "pibot-master",
        lab.url(name, "/task"),
        *("-X", "POST", "-H", f"Authorization: Bearer {lab.key_of(name)}", "-d", json.dumps(body)),
    )


def result(lab: Lab, name: str, task_id: str) -> Any:
    headers = ("-H", f"Authorization: Bearer {lab.key_of(name)}", "-H", "Prefer: wait=60")
    return lab.curl("pibot-master", lab.url(name, f"/task/{task_id}/result"), *headers)


def run_script(lab: Lab, name: str) -> str:
    """Run a script of the guide on the master, in its folder and with its settings."""
    return lab.shell("pibot-master", "cd ~/pibot && current/venv/bin/python -", (SCRIPTS / name).read_text())


@pytest.fixture(scope="module")
def page(lab: Lab) -> Iterator[str]:
    """Serve a page on the outside host instead of https://example.com, since the lab reaches no internet."""
    title = "<html><head><title>Example Domain</title></head><body><p>For documentation.</p></body></html>"
    start = (
        "mkdir -p /tmp/page && cat >/tmp/page/index.html && cd /tmp/page"
        " && sudo systemd-run --quiet --unit lab-page -p WorkingDirectory=/tmp/page python3 -m http.server 8080"
        " && for _ in $(seq 100); do curl -s http://127.0.0.1:8080/ >/dev/null && exit; sleep 0.1; done; exit 1"
    )
    lab.shell("outside", start, title)
    yield f"http://{lab.hosts['outside']['ansible_host']}:8080/"
    lab.shell("outside", "sudo systemctl stop lab-page")


def test_1_every_worker_is_healthy(lab: Lab) -> None:
    for name in WORKERS:
        expected = {"status": "healthy", "worker_id": name, "current_task": None}
        assert lab.curl("pibot-master", lab.url(name, "/health")) == expected


def test_2_a_simple_task_is_accepted_and_lists_the_home_directory(lab: Lab) -> None:
    body = {"task_id": "test_001", "description": "List files in home directory", "skills": ["shell_exec"]}
    assert post(lab, "worker-1", body) == {"success": True, "task_id": "test_001", "status": "accepted"}
    got = result(lab, "worker-1", "test_001")
    assert (got["success"], got["status"], got["worker_id"]) == (True, "completed", "worker-1")
    assert re.search(r"^total \d+$", got["output"], re.MULTILINE), got["output"]


def test_3_a_network_task_returns_the_title_of_a_page(lab: Lab, page: str) -> None:
    description = f"Download {page} and return the title"
    post(lab, "worker-2", {"task_id": "test_download", "description": description, "skills": ["web_fetch"]})
    got = result(lab, "worker-2", "test_download")
    assert got["success"] is True, got
    assert "Example Domain" in got["output"]


def test_4_the_masters_integration_script_passes(lab: Lab) -> None:
    printed = run_script(lab, "test_integration.py")
    assert "Total Workers: 3" in printed
    assert [printed.count(f"  {name}: ✓") for name in WORKERS] == [1, 1, 1]
    assert "  Success: True" in printed
    assert "All tests passed!" in printed
    assert "✗" not in printed


def test_5_the_load_script_runs_its_three_tasks_at_once(lab: Lab) -> None:
    printed = run_script(lab, "test_load.py")
    assert [f"  Task {n}: ✓" in printed for n in (0, 1, 2)] == [True] * 3, printed


def test_workers_are_independent(lab: Lab) -> None:
    post(lab, "worker-1", {"task_id": "test", "description": "Create test file", "skills": ["file_ops"]})
    assert result(lab, "worker-1", "test")["success"] is True
    missing = result(lab, "worker-2", "test")
    assert missing["success"] is False
    assert "worker-2" in missing["error"]


def test_a_task_knows_nothing_of_an_earlier_one(lab: Lab) -> None:
    post(lab, "worker-1", {"task_id": "mem1", "description": "Remember this: secret123", "skills": []})
    assert result(lab, "worker-1", "mem1")["success"] is True
    post(lab, "worker-1", {"task_id": "mem2", "description": "What did I say?", "skills": []})
    assert "secret123" not in json.dumps(result(lab, "worker-1", "mem2"))


def test_all_workers_handle_tasks_at_the_same_time(lab: Lab) -> None:
    for name in WORKERS:
        body = {"task_id": f"par-{name}", "description": "Sleep for 3 seconds", "skills": ["shell_exec"]}
        post(lab, name, body)
    results = [result(lab, name, f"par-{name}") for name in WORKERS]
    assert all(r["success"] for r in results)
    # All three ran at the same time.
    assert max(r["started_at"] for r in results) < min(r["finished_at"] for r in results)
