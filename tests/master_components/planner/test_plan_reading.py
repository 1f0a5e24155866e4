"""Plans in the forms in which models write them: read where they mean one thing only, else refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pibot.contracts import TaskComplexity, TaskPlan
from pibot.errors import PlanError
from pibot.master_components.planner.plan_reading import read_plan

SKILLS = ("file_ops", "shell_exec", "web_fetch")

STEPS = [
    {"task_id": "a", "description": "List the files", "skills": ["shell_exec"], "depends_on": []},
    {"task_id": "b", "description": "Count them", "skills": [], "depends_on": ["a"]},
]
PLAN: dict[str, Any] = {"complexity": "moderate", "handle_locally": False, "answer": None, "subtasks": STEPS}
WHOLE = json.dumps(PLAN, indent=1)
DRAFT = json.dumps({**PLAN, "subtasks": [{**STEPS[0], "task_id": "draft"}]})

Read = list[tuple[str, tuple[str, ...], tuple[str, ...]]]
BOTH: Read = [("a", ("shell_exec",), ()), ("b", (), ("a",))]


def read(text: str) -> TaskPlan:
    return read_plan(text, SKILLS, 12)


def steps_of(plan: TaskPlan) -> Read:
    return [(step.task_id, tuple(step.skills), tuple(step.depends_on)) for step in plan.subtasks]


def with_steps(*steps: object, **more: Any) -> str:
    return json.dumps({"handle_locally": False, "subtasks": list(steps), **more}, ensure_ascii=False)


def two(first: dict[str, Any], second: dict[str, Any]) -> str:
    """Write a plan whose two steps differ from the usual ones in these fields; None leaves a field out."""
    steps = [{**step, **changes} for step, changes in zip(STEPS, (first, second))]
    return with_steps(*({key: value for key, value in step.items() if value is not None} for step in steps))


FORMS = {
    "a list alone": json.dumps(STEPS),
    "a list in a fence": f"Here it is:\n```json\n{json.dumps(STEPS)}\n```",
    "a step a line": "\n".join(map(json.dumps, STEPS)),
    "a draft, then the plan": f"{DRAFT}\n\nOn second thought:\n{WHOLE}",
    "a draft in a think block": f"<think>\nMaybe {DRAFT}\n</think>\n\n{WHOLE}",
    "a draft in a think block whose beginning was in the prompt": f"Maybe {DRAFT}\n</think>\n{WHOLE}",
    "a broken draft in a think block": f'<think>{{"subtasks": [ {{"task_id": "x", no]</think>{WHOLE}',
    "a draft in marks of another form": f"[THINK]Maybe {DRAFT}[/THINK]{WHOLE}",
    "a channel for thoughts": f"<|channel|>analysis<|message|>{DRAFT}<|end|>"
    f"<|start|>assistant<|channel|>final<|message|>{WHOLE}",
    "a draft between the plan and its comment": f"{DRAFT}\n</think>\n\nHere it is:\n{WHOLE}",
    "a think block about think blocks": f"<thinking>`<think>` {DRAFT}</thinking>{WHOLE}",
    "an example behind": f'{WHOLE}\nA result looks like {{"success": true, "data": {{}}, "output": "..."}}',
    "an example of a step behind": f"{WHOLE}\nFor example, one step: {json.dumps(STEPS[0])}",
    "an example of a plan behind": f"{WHOLE}\n\nFor example, a smaller plan would be {DRAFT}",
    "an example in Chinese behind": f"{WHOLE}\n\n例如：{DRAFT}",
    "an answer of no words behind": f'{WHOLE}\nWithout tools: {{"handle_locally": true, "answer": "..."}}',
    "an answer that is not given behind": f'{WHOLE}\nOtherwise: {{"handle_locally": true, "answer": "Hello"}}',
    "the form of a plan behind": f"{WHOLE}\nThe format: {DRAFT.replace('List the files', '...')}",
    "the types of a plan behind": f"{WHOLE}\nThe format: {DRAFT.replace('List the files', 'string')}",
    "an example before": f"A plan looks like this, for example: {DRAFT}\nThe plan:\n{WHOLE}",
    "an empty plan behind": f'{WHOLE}\nWithout work it would be {{"handle_locally": false, "subtasks": []}}',
    "the steps again behind": f"{WHOLE}\nThe steps: {json.dumps(STEPS[:1])}",
    "prose with brackets": f"As in [1] and {{this}}, [see there]: {WHOLE} (all [2] of them)",
    "line comments": WHOLE.replace('"subtasks"', '// the steps, "in order"\n"subtasks"').replace("]\n}", "] # end\n}"),
    "a block comment": WHOLE.replace('"subtasks"', '/* {"subtasks": []} */ "subtasks"'),
    "a comment behind a text": WHOLE.replace('"List the files",', '"List the files" // first\n,'),
    "trailing commas": WHOLE.replace("]\n}", "],\n}").replace('"a"\n', '"a",\n'),
    "trailing text": f"{WHOLE}\nI hope that this plan helps! {{Tell me}} if not.",
    "single quotes": repr(PLAN),
    "typographic quotes": WHOLE.replace('": ', "”: ").replace('"', "“"),
    "full-width quotes": WHOLE.replace('"', "＂"),
    "full-width signs": WHOLE.replace(",", "，").replace(":", "：").replace("{", "｛").replace("}", "｝"),
    "names without quotes": WHOLE.replace('"subtasks"', "subtasks").replace('"skills"', "skills"),
    "no comma between steps": WHOLE.replace("},\n", "}\n"),
    "doubled braces": f"{{{WHOLE}}}",
    "wrapped": json.dumps({"plan": PLAN}),
    "wrapped as a tool call": json.dumps({"name": "make_plan", "arguments": PLAN}),
    "wrapped as text": json.dumps({"name": "make_plan", "arguments": WHOLE}),
    "as a JSON text": json.dumps(WHOLE),
    "as a JSON text in a JSON text": json.dumps(json.dumps(WHOLE)),
    "wrapped as a message's tool call": json.dumps({"tool_calls": [{"function": {"name": "p", "arguments": WHOLE}}]}),
    "steps as text": json.dumps({**PLAN, "subtasks": json.dumps(STEPS)}),
    "steps by id": with_steps()[:-3] + json.dumps({s["task_id"]: {**s, "task_id": None} for s in STEPS}) + "}",
    "in a list": json.dumps([PLAN]),
    "other case": WHOLE.replace("subtasks", "SubTasks").replace("depends_on", "dependsOn").replace("task_id", "taskId"),
    "the same step twice": with_steps(*STEPS, STEPS[1]),
    "handle_locally as text": json.dumps({**PLAN, "handle_locally": "false"}),
    "handle_locally left out": json.dumps({"subtasks": STEPS}),
    "handle_locally beside steps": json.dumps({**PLAN, "handle_locally": True, "answer": "see the steps"}),
    **{f"the name {name}": json.dumps({name: STEPS}) for name in ("steps", "tasks", "plan", "sub_tasks", "步骤")},
    **{f"the id {name}": WHOLE.replace("task_id", name) for name in ("step_id", "id", "name", "subtask-id", "title")},
    **{f"the text {name}": WHOLE.replace("description", name) for name in ("task", "instruction", "prompt", "step")},
    **{f"the needs {name}": WHOLE.replace("depends_on", name) for name in ("dependencies", "requires", "needs")},
    **{f"the skills {name}": WHOLE.replace('"skills"', f'"{name}"') for name in ("tools", "required_skills")},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_plan_in_an_odd_form_is_read(form: str) -> None:
    assert steps_of(read(FORMS[form])) == BOTH


SKILL_FORMS: list[tuple[Any, tuple[str, ...]]] = [
    ("shell_exec", ("shell_exec",)),
    ("shell_exec, web_fetch", ("shell_exec", "web_fetch")),
    ("shell_exec and web_fetch", ("shell_exec", "web_fetch")),
    ("shell_exec、web_fetch", ("shell_exec", "web_fetch")),
    ("none", ()),
    ("", ()),
    ([], ()),
    (["Shell_Exec"], ("shell_exec",)),
    (["shell-exec", "WebFetch", "shell exec"], ("shell_exec", "web_fetch")),
    (["functions.shell_exec"], ("shell_exec",)),
    ([{"name": "shell_exec"}], ("shell_exec",)),
    (["none"], ()),
    ("no skills needed", ()),
    (False, ()),
    ([None, "shell_exec"], ("shell_exec",)),
    ("shell_exec/file_ops", ("shell_exec", "file_ops")),
    ("shell_exec | file_ops", ("shell_exec", "file_ops")),
    ("shell_exec or file_ops", ("shell_exec", "file_ops")),
    (["shell_exec (run ls)"], ("shell_exec",)),
    (["shell_exec - run ls"], ("shell_exec",)),
    (["shell_exec: run ls, then wc"], ("shell_exec",)),
    ({"shell_exec": True, "file_ops": False}, ("shell_exec",)),
    ("all", SKILLS),
    (None, SKILLS),  # a step that says nothing of skills
]


@pytest.mark.parametrize(("skills", "expected"), SKILL_FORMS)
def test_the_skills_of_a_step_are_read(skills: Any, expected: tuple[str, ...]) -> None:
    assert steps_of(read(two({}, {"skills": skills})))[1] == ("b", expected, ("a",))


NEEDS: list[tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    ({}, {"depends_on": "a"}, ("a",)),
    ({}, {"depends_on": "A"}, ("a",)),
    ({}, {"depends_on": "none"}, ()),
    ({}, {"depends_on": ""}, ()),
    ({}, {"depends_on": None}, ()),
    ({}, {"depends_on": False}, ()),
    ({}, {"depends_on": [None, ""]}, ()),
    ({}, {"depends_on": [{"task_id": "a"}]}, ("a",)),
    ({}, {"depends_on": "List the files"}, ("a",)),
    ({}, {"depends_on": "None."}, ()),
    ({}, {"depends_on": "no dependencies"}, ()),
    ({}, {"depends_on": [[]]}, ()),
    ({}, {"depends_on": [["a"]]}, ("a",)),
    ({}, {"depends_on": "after a"}, ("a",)),
    ({}, {"depends_on": ["subtask a"]}, ("a",)),
    ({}, {"depends_on": ["task_id: a"]}, ("a",)),
    ({}, {"depends_on": ["a (List the files)"]}, ("a",)),
    ({}, {"depends_on": ["a: List the files"]}, ("a",)),
    ({}, {"depends_on": ["output of a"]}, ("a",)),
    ({}, {"depends_on": ["a.output"]}, ("a",)),
    ({"task_id": "1."}, {"task_id": "2.", "depends_on": ["1"]}, ("1",)),
    ({"task_id": 1}, {"depends_on": [1]}, ("1",)),
    ({"task_id": 1}, {"depends_on": 1}, ("1",)),
    ({"task_id": 1}, {"depends_on": "1"}, ("1",)),
    ({"task_id": 1}, {"depends_on": [1.0]}, ("1",)),
    ({"task_id": 1}, {"depends_on": ["step 1"]}, ("1",)),
    ({"task_id": "step_1"}, {"depends_on": ["step-1"]}, ("step-1",)),
    ({"task_id": "step-1"}, {"depends_on": [1]}, ("step-1",)),
    ({"task_id": "s1"}, {"depends_on": ["#1"]}, ("s1",)),
    ({"task_id": "Step One"}, {"depends_on": ["step one"]}, ("step-one",)),
    ({"task_id": "步骤一"}, {"depends_on": ["步骤一"]}, ("step-1",)),
    ({"task_id": "列表1"}, {"task_id": "统计1", "depends_on": "列表1"}, ("1",)),
    ({"task_id": 1, "name": "listing"}, {"depends_on": ["Listing"]}, ("1",)),
    ({"task_id": None}, {"task_id": None, "depends_on": [1]}, ("step-1",)),
    ({"task_id": None}, {"task_id": None, "depends_on": [0]}, ("step-1",)),
    ({"task_id": None}, {"task_id": None, "depends_on": "step 1"}, ("step-1",)),
    ({"task_id": None}, {"depends_on": []}, ()),
]


@pytest.mark.parametrize(("first", "second", "expected"), NEEDS)
def test_what_a_step_needs_is_read(first: dict[str, Any], second: dict[str, Any], expected: tuple[str, ...]) -> None:
    plan = read(two(first, second))
    assert tuple(plan.subtasks[1].depends_on) == expected
    assert len({step.task_id for step in plan.subtasks}) == 2


@pytest.mark.parametrize("needs", ["a, b", "a and b", "a;b", "a、b", "[a, b]", "'a', 'b'", ["a, b"], "a\nb"])
def test_several_needs_in_one_text_are_read(needs: Any) -> None:
    plan = read(with_steps(*STEPS, {**STEPS[1], "task_id": "c", "depends_on": needs}))
    assert tuple(plan.subtasks[2].depends_on) == ("a", "b")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("medium", TaskComplexity.MODERATE),
        ("Simple", TaskComplexity.SIMPLE),
        ("easy", TaskComplexity.SIMPLE),
        ("hard", TaskComplexity.COMPLEX),
        ("中等", TaskComplexity.MODERATE),
        ("rather odd", TaskComplexity.MODERATE),
        (3, TaskComplexity.MODERATE),
        (None, TaskComplexity.MODERATE),
    ],
)
def test_no_word_for_the_complexity_costs_the_plan(word: Any, expected: TaskComplexity) -> None:
    assert read(json.dumps({**PLAN, "complexity": word})).complexity is expected


LOCAL = {
    "as it should be": '{"complexity": "simple", "handle_locally": true, "answer": "42", "subtasks": []}',
    "without steps": '{"handle_locally": true, "answer": "42"}',
    "as text": '{"handle_locally": "yes", "answer": "42", "subtasks": null}',
    "an answer alone": '{"answer": "42"}',
    "a number": '{"handle_locally": true, "answer": 42}',
    "thoughts in the answer": '{"handle_locally": true, "answer": "<think>41? No.</think>\\n42"}',
    "a draft in the thoughts": '<think>{"handle_locally": true, "answer": "41"}</think>{"answer": "42"}',
    "a draft before a lone closing tag": '{"answer": "41"}? No.\n</think>\n\n{"answer": "42"}',
    "a draft in other marks": '[THINK]{"answer": "41"}[/THINK]{"answer": "42"}',
    "a draft in a channel": (
        '<|channel|>analysis<|message|>{"answer": "41"}<|end|><|channel|>final<|message|>{"answer": "42"}'
    ),
}


@pytest.mark.parametrize("form", LOCAL)
def test_an_answer_of_the_master_is_read(form: str) -> None:
    plan = read(LOCAL[form])
    assert (plan.handle_locally, plan.answer, plan.subtasks) == (True, "42", ())


def test_an_answer_may_be_about_think_marks() -> None:
    answer = "Qwen puts its thoughts between <think> and </think>."
    assert read(json.dumps({"handle_locally": True, "answer": answer})).answer == answer


def test_an_answer_may_be_a_list() -> None:
    assert read('{"handle_locally": true, "answer": [4, 2]}').answer == "[4, 2]"


def test_thoughts_are_no_part_of_a_step() -> None:
    plan = read(two({"description": "<think>hm</think>List the files"}, {}))
    assert plan.subtasks[0].description == "List the files"


UNUSABLE = {
    "cut off": (WHOLE[:-30], "no JSON object"),
    "cut off, list": (json.dumps(STEPS)[:-20], "no JSON object"),
    "parts of a broken plan": ('{"subtasks": [{"id": "a", "task": "x"}, oh {"id": "b", "task": "y"}]}', "no plan"),
    "thoughts alone": (f"<think>{WHOLE}</think>", "no JSON object"),
    "thoughts without an end": (f"<think>{WHOLE}", "no JSON object"),
    "prose": ("1. List the files\n2. Count them", "no JSON object"),
    "something else": ('{"success": true, "output": "done"}', "no plan"),
    "numbers": ("[1, 2]", "no plan"),
    "steps as words": (with_steps("List the files", "Count them"), "must be an object"),
    "no description": (two({"description": None}, {}), "description must"),
    "a placeholder": (two({"description": "<what to do>"}, {}), "description must"),
    "dots": (two({"description": "..."}, {}), "description must"),
    "two lists": (json.dumps({"steps": STEPS, "tasks": STEPS[:1]}), "two fields"),
    "steps within a step": (two({}, {"subtasks": STEPS}), "subtasks of its own"),
    "the same id for two steps": (two({}, {"task_id": "a", "depends_on": []}), "two subtasks have the task_id 'a'"),
    "ids that differ in case": (two({}, {"task_id": "A", "depends_on": []}), "two subtasks"),
    "a circle": (two({"depends_on": ["b"]}, {}), "circle: a → b"),
    "itself": (two({"depends_on": "a"}, {}), "circle: a → a"),
    "no such step": (two({}, {"depends_on": "z"}), "'b' depends on 'z', which is no subtask"),
    "half a list": (two({}, {"depends_on": "a, z"}), "'b' depends on 'a, z'"),
    "a place though there are ids": (two({}, {"depends_on": [1]}), "'b' depends on 1"),
    "a name of two steps": (
        with_steps(
            *({**s, "name": "n", "depends_on": []} for s in STEPS), {**STEPS[0], "task_id": "c", "depends_on": "n"}
        ),
        "'c' depends on 'n'",
    ),
    "true": (two({}, {"depends_on": True}), "depends_on must"),
    "an unknown skill": (two({}, {"skills": ["fly"]}), "names the skill 'fly'; the skills are: file_ops"),
    "an unknown skill in a text": (two({}, {"skills": "shell_exec, fly"}), "names the skill 'fly'"),
    "skills that are none": (two({}, {"skills": [7]}), "skills must"),
    "fifty steps": (with_steps(*({**STEPS[0], "task_id": f"s{n}"} for n in range(50))), "50 subtasks, 12 are allowed"),
    "no steps": ('{"handle_locally": false, "subtasks": []}', "at least one subtask"),
    "an answer that is denied": ('{"handle_locally": false, "answer": "42"}', "at least one subtask"),
    "a place for an answer": ('{"handle_locally": true, "answer": "..."}', "must hold"),
    "a place for an answer in brackets": ('{"handle_locally": true, "answer": "<your answer>"}', "must hold"),
    "no answer": ('{"handle_locally": true, "subtasks": []}', "at least one|must hold"),
    "the last of two plans is broken": (f"{WHOLE}\nOr rather:\n{two({}, {'depends_on': 'z'})}", "no subtask"),
    "the schema": ('{"type": "object", "properties": {"subtasks": {"type": "array"}}}', "no plan|at least one"),
}


@pytest.mark.parametrize("form", UNUSABLE)
def test_a_plan_that_is_not_clear_is_refused_with_what_is_wrong(form: str) -> None:
    text, problem = UNUSABLE[form]
    with pytest.raises(PlanError, match=problem):
        read(text)


@given(st.text(alphabet="{}[]\"'“”:,\\/#* a1\n", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(PlanError):
        read(text)


@pytest.mark.parametrize(
    "piece", ["{", "[", '{"a":', "{'", '{a:"', '{"a":[', "{“", "{'a'/*", "[{},", "[[", "<think>", "{a:b,"]
)
def test_a_long_hostile_text_is_refused_quickly(piece: str) -> None:
    """A quadratic search of these 2 MB would take minutes, and the test's timeout would end it."""
    with pytest.raises(PlanError):
        read(piece * (2_000_000 // len(piece)))
