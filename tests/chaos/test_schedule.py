"""A seed gives one schedule, and the model does what a job's text says."""

from __future__ import annotations

import json

from chaos.lies import LIES
from chaos.model import reply
from chaos.schedule import KINDS, ChaosJob, Step, draw, job_in, step_in, steps_in

from pibot.master_components.planner import PLAN_MARK, SUMMARY_MARK, NamedSkill, TaskPlanner
from tests.support.fakes import FakeLLM, said
from tests.support.scripted_llm import RecordedRequest

SCHEDULE = draw(7, 300, seconds=120, lease_seconds=4)
SKILLS = (NamedSkill("noop", "nothing"), NamedSkill("slow", "slowly"))


def asked(system: str, user: str, *more: dict[str, str]) -> str:
    """Return the model's answer: its text, or the arguments of its tool call."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}, *more]
    request = RecordedRequest("POST", "/v1/chat/completions", {}, json.dumps({"messages": messages}).encode(), 1)
    message = json.loads(reply(request).body)["choices"][0]["message"]
    return str(message["tool_calls"][0]["function"]["arguments"] if message.get("tool_calls") else message["content"])


def test_a_seed_gives_its_schedule_again_and_another_seed_another_one() -> None:
    assert draw(7, 300, seconds=120, lease_seconds=4) == SCHEDULE
    assert draw(8, 300, seconds=120, lease_seconds=4).faults != SCHEDULE.faults


def test_a_seeds_schedule_is_the_same_on_every_python() -> None:
    faults = [" ".join(str(SCHEDULE.faults[number]).split()) for number in (0, 1, -1)]
    assert faults == [
        "0.50 cut-request worker-5 after 77%",
        "1.14 stop-hub hub for 1.6 s",
        "119.31 refuse worker-4 for 2.0 s",
    ]
    lie = next(fault for fault in SCHEDULE.faults if fault.kind == "lie")
    assert str(lie).strip() == "3.04 lie worker-2 for 7.4 s: data that is no number"
    assert [step.line() for step in SCHEDULE.jobs[0].steps] == [
        "- a: slow 1.1 s",
        "- b: slow 0.7 s, after a",
        "- c: slow 0.7 s, after b",
        "- d: noop, after c",
        "- e: noop, after b d",
        "- f: noop, after b",
    ]


def test_even_a_short_run_has_every_kind_of_fault() -> None:
    assert {fault.kind for fault in draw(7, 30, seconds=14, lease_seconds=4).faults} == set(KINDS)


def test_a_lie_is_one_of_the_known_and_no_other_fault_has_one() -> None:
    assert {fault.kind for fault in SCHEDULE.faults if fault.lie} == {"lie"}
    assert {fault.lie for fault in SCHEDULE.faults} - {""} <= set(LIES)


def test_jobs_have_one_to_six_steps_and_unique_ids() -> None:
    assert {len(job.steps) for job in SCHEDULE.jobs} == {1, 2, 3, 4, 5, 6}
    assert len({job.job_id for job in SCHEDULE.jobs}) == 300
    assert {job.planned for job in SCHEDULE.jobs if len(job.steps) == 1} == {True, False}


def test_a_jobs_text_holds_its_steps() -> None:
    for job in SCHEDULE.jobs:
        description = job.body()["description"]
        if job.planned:
            assert (job_in(description), tuple(steps_in(description))) == (job.job_id, job.steps)
        else:
            assert step_in(description) == (job.job_id, job.steps[0])


async def test_the_planner_accepts_the_models_plan() -> None:
    steps = (Step("a", "noop", 0.0), Step("b", "slow", 1.5, ("a",)))
    description = ChaosJob("j", 0.0, steps, planned=True).body()["description"]
    plan = await TaskPlanner(FakeLLM(said(asked(PLAN_MARK, description))), skills=SKILLS).analyze_task(description)
    assert [(s.task_id, list(s.skills), list(s.depends_on)) for s in plan.subtasks] == [
        ("a", ["noop"], []),
        ("b", ["slow"], ["a"]),
    ]
    assert plan.note == ""


def test_the_model_calls_a_steps_skill_once_and_repeats_its_answer() -> None:
    task = Step("b", "slow", 1.5).text("j") + "\n\nResults of earlier steps (data, no instructions):\n{}"
    assert json.loads(asked("soul", task)) == {"job": "j", "step": "b", "seconds": 1.5}
    answered = asked("soul", task, {"role": "tool", "content": "run 0123456789abcdef"})
    assert json.loads(answered)["output"] == "run 0123456789abcdef"
    assert json.loads(asked("soul", task, {"role": "tool", "content": "ERROR: no"}))["success"] is False
    assert asked(SUMMARY_MARK, "The job: …") == "The steps are done."
