"""Each check finds its broken promise in made-up evidence."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from chaos.evidence import Evidence, check
from chaos.runs import Run

RUN_A, RUN_B, RUN_C = "a" * 16, "b" * 16, "c" * 16


def job(**changes: Any) -> dict[str, Any]:
    return {"job_id": "j", "state": "completed", "answer": "done", "error": None, **changes}


def step(name: str, run: str | None, **changes: Any) -> dict[str, Any]:
    result = None if run is None else json.dumps({"output": f"run {run}"})
    row = {"job_id": "j", "task_id": name, "state": "completed", "token": None, "worker_id": "worker-1"}
    return {**row, "depends_on": json.dumps(["a"] if name == "b" else []), "result": result, **changes}


def attempt(name: str, number: int = 1, **changes: Any) -> dict[str, Any]:
    row = {"job_id": "j", "task_id": name, "number": number, "finished_at": 1.0, "error": None, "late_result": None}
    return {**row, **changes}


def event(kind: str, name: str | None = None) -> dict[str, Any]:
    return {"kind": kind, "job_id": "j", "task_id": name}


def seen(output: str = f"run {RUN_A}") -> dict[str, Any]:
    steps = [{"task_id": "a", "output": output}, {"task_id": "b", "output": f"run {RUN_B}"}]
    return {"status": "completed", "answer": "done", "error": None, "subtasks": steps}


GOOD = Evidence(
    accepted=["j"],
    refused={},
    seen={"j": seen()},
    jobs=[job()],
    steps=[step("a", RUN_A), step("b", RUN_B)],
    # The first attempt of b lost its worker; the second one counts.
    attempts=[attempt("a"), attempt("b", error="no answer"), attempt("b", 2)],
    events=[event("subtask_completed", "a"), event("subtask_completed", "b"), event("job_completed")],
    runs=[
        Run(RUN_A, "j", "a", "j.a.1", 1.0, 2.0),
        Run(RUN_C, "j", "b", "j.b.1", 2.5),
        Run(RUN_B, "j", "b", "x", 3.0, 4.0),
    ],
    hub_peak_mb=90.0,
    logs={"hub": "INFO all is well\n"},
)


def wrong(evidence: Evidence) -> list[str]:
    return [f"{item.title}: {sentence}" for item in check(evidence) for sentence in item.wrong]


def test_a_run_that_kept_every_promise_shows_no_violation() -> None:
    assert wrong(GOOD) == []


def test_each_check_shows_what_it_counted() -> None:
    counts = {item.title: item.count for item in check(GOOD)}
    assert counts["accepted = ended"] == "1 = 1 (1 completed)"
    assert counts["results are true"] == "3 runs for 2 results: 1 unused"
    assert counts["no step after its third attempt"] == "2 × first, 1 × second"


TRACEBACK = "Traceback (most recent call last):\n  File …\nKeyError: 'x'\n"


@pytest.mark.parametrize(
    ("evidence", "found"),
    [
        (replace(GOOD, accepted=["j", "k"]), "accepted = ended: k was accepted and is gone"),
        (replace(GOOD, jobs=[job(state="running")], seen={}), "accepted = ended: j was accepted and is running"),
        (replace(GOOD, refused={"k": "400"}), "accepted = ended: k was refused: 400"),
        (
            replace(GOOD, attempts=[*GOOD.attempts, attempt("b", 3)]),
            "no result recorded twice: step b of j has 2 results",
        ),
        (
            replace(GOOD, events=[*GOOD.events, event("subtask_completed", "a")]),
            "no result recorded twice: step a of j ended 2 times",
        ),
        (replace(GOOD, events=[*GOOD.events, event("job_failed")]), "no result recorded twice: j ended 2 times"),
        (
            replace(GOOD, steps=[step("a", RUN_B), step("b", RUN_B)], seen={}),
            "no result recorded twice: one run gave the result of step a of j and of step b of j",
        ),
        (
            replace(GOOD, seen={"j": seen("another")}),
            "an ended job stays as it is: step a of j had another result before",
        ),
        (
            replace(GOOD, jobs=[job(answer="another")]),
            "an ended job stays as it is: j was seen completed and is now completed, with another answer or error",
        ),
        (
            replace(GOOD, steps=[step("a", "d" * 16), step("b", RUN_B)], seen={}),
            "results are true: step a of j completed with the result of no run",
        ),
        (
            replace(GOOD, steps=[step("a", RUN_A), step("b", RUN_C)], seen={}),
            "results are true: step b of j has the result of step b of j",
        ),
        (
            replace(GOOD, runs=[*GOOD.runs, Run("e" * 16, "j", "b", "x", 1.5)]),
            "no step before those it needs: step b of j began before a had finished",
        ),
        (
            replace(GOOD, attempts=[*GOOD.attempts, attempt("a", 4, error="lost")]),
            "no step after its third attempt: step a of j had attempt 4",
        ),
        (
            replace(GOOD, runs=[*GOOD.runs, *(Run(f"{n}" * 16, "j", "b", f"j.b.{n}", 5.0) for n in "56")]),
            "no step after its third attempt: step b of j ran under 4 task ids",
        ),
        (
            replace(
                GOOD,
                jobs=[job(state="failed", error="the disk")],
                steps=[step("a", RUN_A), step("b", None, state="failed")],
                seen={},
            ),
            "a job fails only after three attempts: j failed without three lost attempts: the disk",
        ),
        (
            replace(GOOD, steps=[step("a", RUN_A), step("b", RUN_B, state="leased", token="t")], seen={}),
            "no lease left: step b of j is still leased on worker-1",
        ),
        (
            replace(GOOD, steps=[step("a", RUN_A), step("b", None, state="ready")], seen={}),
            "no lease left: step b of j is ready though its job has ended",
        ),
        (replace(GOOD, hub_peak_mb=650.0), "the hub stays small: it had 650 MB, and 120 are allowed"),
        (replace(GOOD, orphans=[(17, "sleep 2")]), "no orphan process: process 17 is left over: sleep 2"),
        (replace(GOOD, logs={"hub": TRACEBACK}), "no defect in a log: hub: KeyError: 'x'"),
    ],
)
def test_each_broken_promise_is_reported(evidence: Evidence, found: str) -> None:
    assert found in wrong(evidence)


def test_a_job_may_fail_after_three_lost_attempts_of_a_step() -> None:
    lost = [attempt("b", number, error="no answer") for number in (1, 2, 3)]
    evidence = replace(
        GOOD,
        jobs=[job(state="failed", error="b")],
        steps=[step("a", RUN_A), step("b", None, state="failed")],
        attempts=[attempt("a"), *lost],
        events=[],
        seen={},
    )
    assert wrong(evidence) == []


def test_a_run_that_a_worker_could_not_finish_counts_as_no_attempt() -> None:
    runs = [*GOOD.runs, *(Run(f"{n}" * 16, "j", "b", f"j.b.{n}", 5.0) for n in "56")]
    spared = "INFO pibot.dispatcher: attempt_spared job=j task=b worker=worker-1 fault=worker error=no\n"
    assert wrong(replace(GOOD, runs=runs, logs={"hub": spared})) == []
