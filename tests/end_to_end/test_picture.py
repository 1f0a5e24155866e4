"""The README's picture: a fleet at work, with real processes, in a real browser.

``make picture`` writes it to ``docs/dashboard.png``. Without ``PIBOT_PICTURE`` the page is only looked at.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from threading import Event

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.support.fleet import plan, step
from tests.support.fleet_processes import process_fleet
from tests.support.processes import ROOT
from tests.support.scripted_llm import RecordedRequest, Reply, ScriptedLLM, call, held, text, tool_calls

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
    pytest.mark.timeout(120),
]

KEY = "fleet-key-0123456789"
STATE = "Report the temperature, memory and load of each machine"
LINKS = "Which of these twenty links are dead?"
NEWS = "Read the front pages of two newspapers and name the five main stories, with links"
TIDY = "Delete the thumbnails of last year's photos"
PLANS = {
    STATE: [{**step(f"machine-{n}", "Report temperature, memory and load"), "skills": ["system_info"]} for n in "123"],
    LINKS: [{**step("links", "Fetch each link and note its status"), "skills": ["web_fetch"]}],
    NEWS: [
        {**step("morning", "Read the front page of the morning paper"), "skills": ["web_fetch"]},
        {**step("evening", "Read the front page of the evening paper"), "skills": ["web_fetch"]},
    ],
}


class Model:
    """Plans and answers as a good model would; what belongs to ``NEWS`` is held back until ``go_on``."""

    def __init__(self) -> None:
        self.go_on = Event()

    def answer(self, request: RecordedRequest) -> Reply:
        """Answer one model call of the planner or of a worker."""
        asked, last = str(request.messages[1]["content"]), request.messages[-1]
        if not request.tool_names:
            steps = PLANS.get(asked)
            return text("All is well.") if steps is None else plan(*steps)
        if last["role"] != "tool" and "thumbnails" in asked:
            return tool_calls(call("delete_file", {"path": "photos/2025/thumbnails", "recursive": True}))
        if last["role"] != "tool" and "temperature" in asked:
            return tool_calls(call("system_info", {}))
        reply = text(json.dumps({"success": True, "data": {}, "output": "Done."}))
        return held(reply, self.go_on) if "front page" in asked else reply


def test_the_dashboard_shows_a_fleet_at_work(tmp_path: Path) -> None:
    model = Model()
    with ScriptedLLM() as llm:
        llm.answer_with(model.answer)
        skills = str(ROOT / "skills")
        with (
            process_fleet(
                tmp_path,
                llm,
                KEY,
                workers=3,
                PIBOT_SKILLS_DIR=skills,
                PIBOT_APPROVE="delete_file",
                MODEL_NAME="doubao-seed-code",
            ) as fleet,
            sync_playwright() as playwright,
        ):
            for description in (STATE, LINKS):
                fleet.result(str(fleet.ask("POST", "/task", {"description": description}).json()["job_id"]))
            waiting = fleet.submit(TIDY, skills=["file_ops"])
            fleet.waiting_call(waiting)
            fleet.ask("POST", "/task", {"description": NEWS})
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1280, "height": 1180})
            page.goto(f"{fleet.url}/dashboard")
            page.get_by_label("Key").fill(KEY)
            page.get_by_role("button", name="Log in").click()

            expect(page.locator("[data-list=active] > li")).to_have_count(3, timeout=15_000)
            expect(page.locator("[data-list=jobs] > li .pill")).to_have_text(
                ["running", "needs approval", "completed", "completed"], timeout=15_000
            )
            expect(page.locator("li.approval:visible")).to_have_count(1)
            expect(page.locator("[data-list=workers] .pill")).to_have_text(["busy", "busy", "busy"], timeout=15_000)
            if os.environ.get("PIBOT_PICTURE"):
                page.screenshot(path=os.environ["PIBOT_PICTURE"])
            browser.close()
            model.go_on.set()
