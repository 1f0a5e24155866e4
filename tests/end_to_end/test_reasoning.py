"""What the model thought is shown to the owner and to no model: a real hub and worker, a scripted model over HTTP."""

from __future__ import annotations

from pathlib import Path

from bs4 import BeautifulSoup

from pibot.master_components.planner import PLAN_MARK, SUMMARY_MARK
from tests.support import scripted_llm as model
from tests.support.fleet import plan, step
from tests.support.fleet_processes import process_fleet
from tests.support.scripted_llm import RecordedRequest, ScriptedLLM

KEY = "the-fleets-own-key"
FIRST, SECOND = "Thought-of-the-first <b>bold</b>", "Thought-of-the-second"


def answer(request: RecordedRequest) -> model.Reply:
    """Play a model that thinks aloud: in a field of its own at the first step, and in its text at the second."""
    system, asked = str(request.messages[0]["content"]), str(request.messages[1]["content"])
    if PLAN_MARK in system:
        return plan(step("a", "read the sensor"), step("b", "convert it", "a"))
    if SUMMARY_MARK in system:
        return model.text("It is 70 °F.")
    if "convert it" in asked:
        return model.text(f"<think>\n{SECOND}\n</think>\n70 °F")
    return model.completion({"content": "21 °C", "reasoning_content": FIRST})


def test_reasoning_is_on_the_jobs_page_and_in_the_steps_results_and_nowhere_else(tmp_path: Path) -> None:
    with ScriptedLLM() as llm:
        llm.answer_with(answer)
        with process_fleet(tmp_path, llm, KEY, PIBOT_SHOW_REASONING="1") as fleet:
            result = fleet.ask("POST", "/task", {"description": "how warm is it?"}, Prefer="wait=60").json()
            job = fleet.job(result["job_id"])
            body = fleet.ask("GET", f"/dashboard/jobs/{result['job_id']}").body
            told = fleet.pibot("job", result["job_id"]).stdout

    results = result["data"]["subtasks"]
    thoughts = {"a": f"[model call 1]\n{FIRST}", "b": f"[model call 1]\n{SECOND}"}
    assert {name: found.pop("reasoning") for name, found in results.items()} == thoughts
    assert [row["result"].pop("reasoning") for row in job["subtasks"]] == list(thoughts.values())
    shown = BeautifulSoup(body, "html.parser").select("ol[data-list=steps] > li [data-text=reasoning]")
    assert [part.get_text() for part in shown] == list(thoughts.values())

    assert "Thought-of" not in f"{result} {job} {told} {[request.messages for request in llm.requests]}"
    assert len(llm.requests) == 4  # the plan, two steps, the summary
