"""``pibot eval`` on a fleet of processes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from pibot.rehearsal import MODEL_NAME
from tests.support.fleet import Fleet
from tests.support.fleet_processes import process_fleet
from tests.support.processes import ROOT, clean_environment, serving_process
from tests.support.scripted_llm import ScriptedLLM

pytestmark = pytest.mark.system

KEY = "fleet-key-0123456789"

REHEARSED = {
    "arithmetic",
    "command",
    "failing-command",
    "file-move",
    "file-unicode",
    "injected-file",
    "injected-page",
    "local-arithmetic",
    "machine",
    "missing-tool",
    "page-missing",
    "page-title",
    "plan-parts",
    "plan-total",
    "zh-arithmetic",
}
"""The rehearsal model's share, as docs/models.md states it."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    rehearsal = serving_process(folder / "model", ["-m", "pibot", "rehearsal", "--port", "0"], clean_environment())
    with (
        rehearsal as model,
        ScriptedLLM() as nobody,
        process_fleet(
            folder,
            nobody,
            KEY,
            VOLC_API_KEY="rehearsal",
            VOLC_BASE_URL=f"{model.url}/v1",
            MODEL_NAME=MODEL_NAME,
            PIBOT_SKILLS_DIR=str(ROOT / "skills"),
            PIBOT_WEB_ALLOW="127.0.0.1",
            PIBOT_SANDBOX="off",
        ) as fleet,
    ):
        yield fleet


def test_the_rehearsal_model_passes_its_stated_share_of_the_tasks(running: Fleet) -> None:
    done = running.pibot("eval", "--json", "--page-host", "127.0.0.1")
    result = json.loads(done.stdout)
    outcomes = {run["task"]: run["outcome"] for run in result["runs"]}
    assert {name for name, outcome in outcomes.items() if outcome == "passed"} == REHEARSED, done.stdout
    assert set(outcomes.values()) == {"passed", "failed"}
    assert (done.returncode, result["model"], result["total"]["passed"]) == (1, MODEL_NAME, len(REHEARSED))
