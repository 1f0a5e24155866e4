"""What a model's final answer says: whether it succeeded, in whatever form it writes yes and no."""

from __future__ import annotations

import pytest

from pibot.contracts import TaskState
from pibot.conversation.final_answer import FinalAnswer, read_final

BODY = '"data": {}, "output": "x"'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"success": false, "data": {}, "output": "cannot"}', "cannot"),
        (f'{{"success": "false", {BODY}}}', "x"),
        (f'{{"success": "False", {BODY}}}', "x"),
        (f'{{"success": "no", {BODY}}}', "x"),
        (f'{{"success": "failed.", {BODY}}}', "x"),
        (f'{{"success": 0, {BODY}}}', "x"),
        (f'{{"success": "0", {BODY}}}', "x"),
        (f'{{"success": [], {BODY}}}', "x"),
        ('{"success": null, "error": "disk is broken"}', "disk is broken"),
        ('{"success": "", "error": "disk is broken", "output": ""}', "disk is broken"),
        ('{"success": "unknown", "status": "x", "success": "null", "error": "disk is broken"}', "disk is broken"),
        ('{"success": null, "data": {"error": "disk is broken"}, "output": ""}', "disk is broken"),
        ('{"data": {}, "output": "", "error": "disk is broken"}', "disk is broken"),
        ('{"status": "failed", "output": "x", "data": null}', "x"),
        ("{'success': False, 'data': {}, 'output': 'x'}", "x"),
        ("```python\n{'success': False, 'data': None, 'output': 'x'}\n```", "x"),
        ('{"error": "disk is broken"}', "disk is broken"),
        ('{"result": {"success": false, "output": "cannot"}}', "cannot"),
        ('I could not.\n{"success": false, "data": {}, "error": "cannot"}\nTell me if it may wait.', "cannot"),
        ('{"success": false, "data": {}, "output": ""}', "the agent reports a failure"),
    ],
)
def test_an_object_that_reports_a_failure_is_a_failure(text: str, error: str) -> None:
    final = read_final(text)
    assert (final.state, final.error) == (TaskState.FAILED, error)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"success": true, {BODY}}}',
        f'{{"success": "true", {BODY}}}',
        f'{{"success": "Yes", {BODY}}}',
        f'{{"success": 1, {BODY}}}',
        f'{{"success": "completed", {BODY}}}',
        f'{{"success": true, "error": "a warning", {BODY}}}',
        f'{{"success": null, "error": null, {BODY}}}',
        f'{{"success": null, "error": "none", {BODY}}}',
        f"{{{BODY}}}",
        f'{{{BODY}, "error": ""}}',
        "{'success': True, 'data': {}, 'output': 'x'}",
    ],
)
def test_any_other_object_is_a_success(text: str) -> None:
    assert read_final(text) == FinalAnswer(TaskState.COMPLETED, "x")


def test_an_object_that_an_answer_shows_is_no_final_answer() -> None:
    text = 'The server says:\n```json\n{"success": false, "data": 3}\n```\nSo the door is shut.'
    assert read_final(text) == FinalAnswer(TaskState.COMPLETED, text)


def test_a_draft_in_a_think_block_is_no_final_answer() -> None:
    text = 'Well.\n<think>\n{"success": false, "data": {}, "output": "a draft"}\n</think>\nIt is done.'
    assert read_final(text).state is TaskState.COMPLETED


def test_text_without_an_object_is_the_output_and_says_where_it_was_cut() -> None:
    assert read_final(" {x} is 4. ").output == "{x} is 4."
    assert read_final("It is 4", cut=True).output.endswith(
        "[the model's answer ends here: it reached its length limit]"
    )
