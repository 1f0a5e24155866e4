"""Run the guide's tests 1 to 5 and its three validations, with its own commands and scripts, against real processes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.guide.nodes import Nodes
from tests.support.processes import Running, clean_environment, serving_process
from tests.support.scripted_llm import ScriptedLLM, text

SCRIPTS = Path(__file__).parent / "scripts"


def curl(*arguments: str) -> Any:
    """Run ``curl`` and decode its output. With ``-d`` it sends its own Content-Type, as in the guide."""
    done = subprocess.run(["curl", "-sS", "--noproxy", "*", *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def post(worker: Running, body: dict[str, Any]) -> Any:
    return curl("-X", "POST", f"{worker.url}/task", "-d", json.dumps(body))


def result(worker: Running, task_id: str) -> Any:
    """Wait for the task's result. The guide waits a few seconds instead; the worker can do the waiting."""
    return curl("-H", "Prefer: wait=60", f"{worker.url}/task/{task_id}/result")


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    """Serve a page on this computer, which replaces https://example.com."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<html><head><title>Example Domain</title></head><body><p>For documentation.</p></body></html>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def run_script(name: str, nodes: Nodes, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / name)], cwd=directory, env=nodes.master, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- Testing ---


def test_1_every_worker_is_healthy(guides_nodes: Nodes) -> None:
    for number, worker in enumerate(guides_nodes.workers, 1):
        expected = {"status": "healthy", "worker_id": f"worker-{number}", "current_task": None}
        assert curl(f"{worker.url}/health") == expected


def test_2_a_simple_task_is_accepted_and_lists_the_home_directory(guides_nodes: Nodes) -> None:
    worker = guides_nodes.workers[0]
    body = {"task_id": "test_001", "description": "List files in home directory", "skills": ["shell_exec"]}
    accepted = curl("-X", "POST", f"{worker.url}/task", "-H", "Content-Type: application/json", "-d", json.dumps(body))
    assert accepted == {"success": True, "task_id": "test_001", "status": "accepted"}
    got = result(worker, "test_001")
    assert (got["success"], got["status"], got["worker_id"]) == (True, "completed", "worker-1")
    assert got["steps"] == 2
    assert re.search(r"^total \d+$", got["output"], re.MULTILINE), got["output"]


def test_3_a_network_task_returns_the_pages_title(guides_nodes: Nodes, page: str) -> None:
    worker = guides_nodes.workers[1]
    description = f"Download {page} and return the title"
    post(worker, {"task_id": "test_download", "description": description, "skills": ["web_fetch"]})
    got = result(worker, "test_download")
    assert got["success"] is True, got
    assert "Example Domain" in got["output"]


def test_4_the_masters_integration_script_passes(guides_nodes: Nodes, tmp_path: Path) -> None:
    printed = run_script("test_integration.py", guides_nodes, tmp_path)
    assert "Total Workers: 3" in printed
    assert [printed.count(f"  worker-{n}: ✓") for n in (1, 2, 3)] == [1, 1, 1]
    assert "  Success: True" in printed
    assert re.search(r"  Worker: worker-[123]\n  Output: .+", printed), printed
    assert "All tests passed!" in printed
    assert "✗" not in printed


def test_5_the_load_script_completes_its_three_tasks_each_time_it_is_run(guides_nodes: Nodes, tmp_path: Path) -> None:
    for _ in range(2):
        printed = run_script("test_load.py", guides_nodes, tmp_path)
        assert [f"  Task {n}: ✓" in printed for n in (0, 1, 2)] == [True] * 3, printed
        # Each run really runs its tasks: it takes at least as long as the longest sleep.
        total = re.search(r"Total time: ([\d.]+)s", printed)
        assert total is not None
        assert float(total.group(1)) >= 3.0


# --- Architecture Validation ---


def test_workers_are_independent(guides_nodes: Nodes) -> None:
    first, second, _ = guides_nodes.workers
    post(first, {"task_id": "test", "description": "Create test file", "skills": ["file_ops"]})
    assert result(first, "test")["success"] is True
    missing = curl(f"{second.url}/task/test/result")
    assert missing["success"] is False
    assert "worker-2" in missing["error"]


def test_a_task_remembers_nothing_of_another(guides_nodes: Nodes) -> None:
    worker = guides_nodes.workers[0]
    post(worker, {"task_id": "mem1", "description": "Remember this: secret123", "skills": []})
    assert result(worker, "mem1")["success"] is True
    post(worker, {"task_id": "mem2", "description": "What did I say?", "skills": []})
    assert "secret123" not in json.dumps(result(worker, "mem2"))


def test_a_tasks_model_calls_hold_nothing_of_an_earlier_task(tmp_path: Path) -> None:
    with ScriptedLLM(text("I will remember."), text("Nothing that I know of.")) as model:
        arguments = ["-m", "pibot.worker_task_executor", "--port", "0", "--worker-id", "worker-1"]
        with serving_process(tmp_path / "worker", arguments, clean_environment(**model.environ())) as worker:
            post(worker, {"task_id": "mem1", "description": "Remember this: secret123", "skills": []})
            result(worker, "mem1")
            post(worker, {"task_id": "mem2", "description": "What did I say?", "skills": []})
            result(worker, "mem2")
        first, second = model.requests
        assert "secret123" in first.body.decode()
        assert "secret123" not in second.body.decode()
        assert [m["role"] for m in second.messages] == ["system", "user"]


def test_all_workers_handle_tasks_at_the_same_time(guides_nodes: Nodes) -> None:
    for number, worker in enumerate(guides_nodes.workers):
        body = {"task_id": f"par{number}", "description": "Sleep for 1 seconds", "skills": ["shell_exec"]}
        post(worker, body)
    results = [result(worker, f"par{number}") for number, worker in enumerate(guides_nodes.workers)]
    assert all(r["success"] for r in results)
    # At some moment, all three tasks were running.
    assert max(r["started_at"] for r in results) < min(r["finished_at"] for r in results)
