"""A plan that meets a failure is changed: a real hub and a real worker, over a real socket to a scripted model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pibot.master_components.planner import PLAN_MARK, REPLAN_MARK, SUMMARY_MARK
from tests.support import scripted_llm as model
from tests.support.fleet_processes import process_fleet
from tests.support.processes import pibot
from tests.support.scripted_llm import RecordedRequest, ScriptedLLM

KEY = "the-fleets-own-key"
JOB = "读取传感器并说明温度"  # "read the sensor and say how warm it is"
THOUGHT = '<think>\nMaybe {"handle_locally": true, "answer": "21 °C"}? No, I must look.\n</think>\n'


def step(name: str, text: str, *needs: str) -> dict[str, Any]:
    return {"task_id": name, "description": text, "skills": [], "depends_on": list(needs)}


def plan(*steps: dict[str, Any], **more: Any) -> str:
    return json.dumps({"complexity": "medium", "handle_locally": False, "subtasks": list(steps), **more})


def answer(request: RecordedRequest) -> model.Reply:
    """Play the planner's and the workers' model: the sensor at the first address is broken."""
    system, asked = str(request.messages[0]["content"]), str(request.messages[1]["content"])
    if PLAN_MARK in system:
        steps = (step("清单", "列出传感器"), step("a", "读取传感器 1", "清单"), step("b", "换算", "a"))
        return model.text(f"{THOUGHT}```json\n{plan(*steps)}\n```")
    if REPLAN_MARK in system:
        rows = [json.loads(line) for line in asked.splitlines() if line.startswith("{")]
        assert [(row["success"], row.get("error", "")[:9]) for row in rows] == [
            (True, ""),
            (False, "no device"),
            (False, "it needs "),
        ]
        again = (step("清单", "列出传感器"), step("a", "读取传感器 2", rows[0]["task_id"]))
        return model.text(f"{THOUGHT}{plan(*again, reasoning='传感器 2 也能测温度')}")
    if SUMMARY_MARK in system:
        return model.text("<think>\n简单\n</think>\n温度是 19 °C。")
    task = asked.split("\n")[0]
    if "传感器 1" in task:
        return model.text('{"success": false, "data": {}, "output": "", "error": "no device"}')
    return model.text("19 °C" if "传感器 2" in task else "传感器 1, 传感器 2")


def test_a_job_whose_step_failed_is_done_in_another_way_and_shows_both_plans(tmp_path: Path) -> None:
    with ScriptedLLM() as llm:
        llm.answer_with(answer)
        with process_fleet(tmp_path, llm, KEY) as fleet:
            done = fleet.ask("POST", "/task", {"description": JOB}, Prefer="wait=60")
            result = done.json()
            assert (result["success"], result["output"]) == (True, "温度是 19 °C。"), result
            job = fleet.job(result["job_id"])
            assert [(s["task_id"], s["version"], s["status"]) for s in job["subtasks"]] == [
                ("step-1", 1, "completed"),
                ("a", 1, "failed"),
                ("b", 1, "skipped"),
                ("a-2", 2, "completed"),
            ]
            (change,) = job["plan_changes"]
            assert (change["version"], change["why"]) == (2, "step 'a' failed: no device")
            assert len(llm.requests) == 6  # the plan, two steps, the change, the third step, the summary
            page = fleet.ask("GET", f"/dashboard/jobs/{result['job_id']}").body.decode()
            assert "Plan 2, since step &#39;a&#39; failed: no device" in page
            assert "传感器 2 也能测温度" in page
            told = pibot("job", result["job_id"], url=fleet.url, key=KEY).stdout
            assert "Plan 2 (1 further step), since step 'a' failed: no device" in told
