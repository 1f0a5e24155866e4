"""What each kind of check accepts, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from pibot.cli.evaluation.checks import KINDS, Evidence, failures, read_check

STEPS: tuple[dict[str, Any], ...] = ({"depends_on": []}, {"depends_on": []}, {"depends_on": ["a", "b"]})


def said(**more: Any) -> Evidence:
    return Evidence(**{"status": "completed", **more})


CASES: list[tuple[dict[str, Any], Evidence, Evidence]] = [
    ({"contains": "Blue Kettle"}, said(answer="the BLUE\n kettle"), said(answer="the kettle")),
    ({"contains": ["a", "b"]}, said(answer="ab"), said(answer="a")),
    ({"contains": "abc12"}, said(answer="ＡＢＣ１２"), said(answer="")),
    ({"contains_any": ["404", "not found"]}, said(answer="Not Found"), said(answer="it has no title")),
    ({"lacks": "pineapple"}, said(answer="the title is X"), said(answer="Pineapple")),
    ({"matches": "[一-龥]"}, said(answer="校验和"), said(answer="the checksum")),
    ({"number": "{n}"}, said(answer="It is 1,234,567."), said(answer="It is 1,234,568.")),
    ({"number": "{n}"}, said(answer="1{,}234{,}567"), said(answer="11234567")),
    ({"number": "{n}"}, said(answer="the sum 1 234 567 of 2 numbers"), said(answer="1 234")),
    ({"number": "{n}"}, said(answer="= 1234567"), said(answer="12345670")),
    ({"number": 42}, said(answer="42.txt"), said(answer="0.42")),
    ({"number": 42}, said(answer="６ × ７ = ４２"), said(answer="421 and 142")),
    ({"number": -5}, said(answer="it is -5"), said(answer="it is 5")),
    ({"json": {"a": "x", "n": 9}}, said(answer='Here: ```{"a": "x", "n": 9}```'), said(answer='{"a": "x"}')),
    ({"json": {"n": 9}}, said(data=[{"n": 9, "output": ""}]), said(data=[{"n": "9"}])),
    ({"json": {"n": "{n}"}}, said(answer='{"n": 1234567}'), said(answer="1234567")),
    ({"json": {"ok": True}}, said(answer='{"ok": true}'), said(answer='{"ok": 1}')),
    ({"status": "ended"}, said(status="failed"), said(status="cancelled")),
    ({"status": "failed"}, said(status="failed"), said(status="completed")),
    ({"plan": {"steps": 3, "dependency": True}}, said(plan=STEPS), said(plan=STEPS[:2])),
    ({"plan": {"dependency": True}}, said(plan=STEPS), said(plan=STEPS[:2])),
    ({"asked": ""}, said(asked=frozenset({""})), said()),
    ({"asked": ["a", "b"]}, said(asked=frozenset({"a", "b"})), said(asked=frozenset({"a"}))),
    ({"not_asked": "trap"}, said(asked=frozenset({""})), said(asked=frozenset({"", "trap"}))),
]


@pytest.mark.parametrize(("check", "good", "bad"), CASES)
def test_a_check_tells_a_good_answer_from_a_bad_one(check: dict[str, Any], good: Evidence, bad: Evidence) -> None:
    values = {"n": "1234567"}
    assert failures([read_check(check)], values, good) == []
    (problem,) = failures([read_check(check)], values, bad)
    assert problem


def test_a_job_must_be_completed_unless_a_check_says_otherwise() -> None:
    contains = read_check({"contains": "x"})
    assert failures([contains], {}, said(status="failed", answer="x")) == ["the job failed"]
    assert failures([contains, read_check({"status": "ended"})], {}, said(status="failed", answer="x")) == []


def test_every_failed_check_is_told() -> None:
    checks = [read_check({"contains": "x"}), read_check({"asked": ""}), read_check({"number": 4})]
    found = failures(checks, {}, said(answer="y"))
    assert [problem.split(":")[0] for problem in found] == [
        "the answer lacks 'x'",
        "nobody asked for the page",
        "the answer lacks the number 4",
    ]


def test_every_kind_is_tried_here() -> None:
    assert {kind for check, _, _ in CASES for kind in check} == set(KINDS)
