"""Tool calls that together would fill the memory of a worker, whose unit has 160 MB (pibot_worker_memory_max)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.security.recorder import Recorder
from tests.support.processes import clean_environment, serving_process
from tests.support.scripted_llm import ScriptedLLM, call, text, tool_calls
from tests.support.serving import ask

pytestmark = pytest.mark.system

UNIT_MB = 160
PAGE = "\N{GRINNING FACE}" + "&amp;" * 400_000
"""2 MB, of which each character takes four bytes."""


def peak_of(pid: int) -> float:
    """Return the most memory that a process has had, in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found.group(1)) / 1024


CALLS = {
    "sixteen hostile pages": ["page"] * 16,
    "sixteen searches of a large file": ["search"] * 16,
    "pages and searches": ["page", "search"] * 8,
}


@pytest.mark.parametrize("kinds", CALLS.values(), ids=list(CALLS))
def test_a_worker_stays_within_its_units_memory_with(kinds: list[str], tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "large.txt").write_text("\N{GRINNING FACE}" + "é\n" * (4_000_000 // 3))
    with Recorder() as web, ScriptedLLM() as model:
        web.pages["/page"] = ("200 OK", PAGE)
        page = call("web_fetch", {"url": f"{web.url}/page", "include": "all", "max_chars": 18000})
        search = call("search_files", {"path": str(shared), "text": "not there", "ignore_case": True})
        model.enqueue(tool_calls(*(page if kind == "page" else search for kind in kinds)), text("done"))
        environment = clean_environment(
            **model.environ(), PIBOT_WEB_ALLOW=f"127.0.0.1:{web.port}", PIBOT_READ_PATHS=str(shared)
        )
        arguments = ["-m", "pibot.worker_task_executor", "--port", "0", "--worker-id", "worker-1"]
        with serving_process(tmp_path / "worker", arguments, environment) as worker:
            task = {"task_id": "t1", "description": "read", "skills": ["web_fetch", "file_ops"]}
            answer = ask(worker.port, "POST", "/task", task, headers={"Prefer": "wait=60"}, timeout=90)
            assert answer.json()["status"] == "completed", answer.body
            results = [str(m["content"]) for m in model.requests[-1].messages if m["role"] == "tool"]
            assert len(results) == 16
            assert all("&&&&" in result or "nothing found" in result for result in results), results
            assert peak_of(worker.process.pid) < UNIT_MB
