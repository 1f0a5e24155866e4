"""The model of a run: a server of the chat-completions protocol whose answers depend on the request alone.

``python -m chaos.model`` prints where it listens, and serves until SIGTERM.
"""

from __future__ import annotations

import json
import signal
from typing import Any

from tests.support.scripted_llm import RecordedRequest, Reply, ScriptedLLM, call, error, text, tool_calls

from chaos.schedule import job_in, step_in, steps_in
from pibot.rehearsal.conversation import unmarked
from pibot.rehearsal.planner import PLAN_MARKER, SUMMARY_MARKER
from pibot.rehearsal.replanner import REPLAN_MARKER


def reply(request: RecordedRequest) -> Reply:
    """Plan a job as its text says; for a step, call its skill once and repeat the skill's answer."""
    try:
        messages = request.messages
    except ValueError:
        return error(400, "the body is not JSON")  # a fault has cut the request and its connection
    system, task = messages[0]["content"], messages[1]["content"]
    if PLAN_MARKER in system:
        return text(json.dumps(_plan(task)))
    if SUMMARY_MARKER in system:
        return text("The steps are done.")
    if REPLAN_MARKER in system:
        return text(json.dumps({"handle_locally": True, "answer": "Nothing else can be done.", "subtasks": []}))
    found = step_in(task)
    if found is None:
        return error(400, f"this is not a step of a chaos job: {task[:100]}")
    job_id, step = found
    last = messages[-1]
    if last["role"] != "tool":
        arguments: dict[str, Any] = {"job": job_id, "step": step.name}
        if step.skill == "slow":
            arguments["seconds"] = step.seconds
        return tool_calls(call(step.skill, arguments))
    output = unmarked(last["content"])
    return text(json.dumps({"success": not output.startswith("ERROR"), "data": {}, "output": output}))


def _plan(description: str) -> dict[str, Any]:
    job_id = job_in(description)
    subtasks = [
        {"task_id": s.name, "description": s.text(job_id), "skills": [s.skill], "depends_on": list(s.after)}
        for s in steps_in(description)
    ]
    return {"complexity": "moderate", "handle_locally": False, "subtasks": subtasks}


def main() -> None:
    with ScriptedLLM() as server:
        server.answer_with(reply)
        print(f"model_ready listen=http://127.0.0.1:{server.port}", flush=True)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
