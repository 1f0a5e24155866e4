"""Each field of a job, a step and an attempt is shown in each place. The fields come from the types themselves.

After a field is added, these tests fail with the name of each place that does not show it. Give the field two values in
``VALUES``, then add it to each place, or to the place's fields in ``LEFT_OUT``.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Callable

import pytest
from flask import Flask, render_template

from pibot import master_hub
from pibot.cli import commands
from pibot.cli.follow import job_lines
from pibot.contracts import (
    NoWorkerKind,
    NoWorkerReason,
    SubTask,
    TaskComplexity,
    TaskPlan,
    TaskResult,
    TaskState,
    Usage,
)
from pibot.master_components.store.records import (
    Approval,
    Attempt,
    Event,
    Job,
    JobRecord,
    Lease,
    PlanChange,
    StepRecord,
    Submission,
)
from pibot.master_components.store.states import ApprovalState, JobState, StepState
from pibot.master_hub.pages import presentation
from tests.support.processes import ROOT

STEP, ATTEMPT = SubTask("s1", "look"), Attempt(1, "worker-1", 10.0, 20.0, "it was lost")
FOUND = TaskResult("s1", "worker-1", TaskState.COMPLETED, output="found")
RECORD = StepRecord(STEP, StepState.COMPLETED, (ATTEMPT,))
NO_REASON = NoWorkerReason(NoWorkerKind.ALL_BUSY, "all are busy")
PLAN = TaskPlan(TaskComplexity.SIMPLE, False, (STEP,))
ASKED = Approval("a1", "job-1", "s1", "worker-1", "r", "c", "shell_exec", {}, "d", 1.0, ApprovalState.WAITING)

VALUES: dict[type, dict[str, tuple[Any, Any]]] = {
    SubTask: {
        "task_id": ("s1", "s2"),
        "description": ("look", "listen"),
        "skills": (("shell_exec",), ("web_fetch",)),
        "depends_on": ((), ("s0",)),
        "timeout": (None, 60.0),
    },
    Attempt: {
        "number": (1, 7),
        "worker_id": ("worker-1", "worker-2"),
        "started_at": (10.0, 11.0),
        "finished_at": (20.0, 29.0),
        "error": ("it was lost", "it was rejected"),
        "late_result": (None, FOUND),
    },
    StepRecord: {
        "step": (STEP, replace(STEP, description="listen")),
        "state": (StepState.COMPLETED, StepState.FAILED),
        "attempts": ((ATTEMPT,), (ATTEMPT, ATTEMPT)),
        "result": (None, FOUND),
        "error": (None, "it broke"),
        "lease": (None, Lease("job-1", "s1", "worker-1", "token", 1, 60.0)),
        "version": (1, 2),
    },
    PlanChange: {
        "version": (2, 3),
        "at": (10.0, 1000.0),
        "why": ("step 'a' failed", "the answer lacked: the price"),
        "reasoning": ("", "another way"),
    },
    Job: {
        "job_id": ("job-1", "job-2"),
        "description": ("look and tell", "listen and tell"),
        "state": (JobState.RUNNING, JobState.FAILED),
        "priority": (0, 5),
        "timeout": (None, 60.0),
        "created_at": (1.0, 1000.0),
        "plan": (PLAN, replace(PLAN, note="a note")),
        "answer": (None, "all is well"),
        "error": (None, "a step failed"),
        "usage": (Usage(1, 2, 1), Usage(10, 20, 3)),
        "cost": (None, 0.5),
        "started_at": (5.0, 6.0),
        "finished_at": (50.0, 60.0),
        "cancel_requested": (False, True),
        "accepted_run": (0.0, 9.0),
        "steps": ((RECORD,), (RECORD, RECORD)),
        "approvals": ((), (ASKED,)),
        "changes": ((), (PlanChange(2, 1.0, "step 'a' failed"),)),
        "planned": (True, False),
    },
}
"""Two values for each field. A place shows the field if the two make a difference there."""

LEFT_OUT: dict[str, dict[type, set[str]]] = {
    # A lease's token may end the lease, so only the database has it; accepted_run is a clock of the store's own.
    # That a job came with its skills decides whether its plan may be changed; its one step shows them.
    "the API": {StepRecord: {"lease"}, Job: {"accepted_run", "planned"}},
    # --json and `pibot export` give all that the API gives.
    "the command": {
        SubTask: {"timeout"},
        Attempt: {"number", "started_at", "finished_at", "late_result"},
        StepRecord: {"lease"},
        Job: {
            *("priority", "timeout", "created_at", "started_at", "finished_at"),
            *("cancel_requested", "accepted_run", "planned"),
        },
        PlanChange: {"at"},
    },
    # The page links to the API's record.
    "the page": {
        SubTask: {"timeout"},
        Attempt: {"late_result"},
        StepRecord: {"lease"},
        Job: {"timeout", "accepted_run", "planned"},
    },
}
"""The fields that a place leaves out on purpose."""

ADDED_BY_THE_API: dict[str, set[str]] = {
    "Job": {"currency", "spending", "waiting_for"},
    "JobSummary": set(),
    "Subtask": {"waiting_for", "waiting_for_kind"},
    "Attempt": set(),
}
"""Keys of the API's answer that are not in the stored record."""

GIVEN: dict[str, set[str]] = {
    "description": {"the command", "the page"},
    "skills": {"the command", "the page"},
    "timeout": {"the command"},
    "priority": {"the command"},
    "job_id": set(),
}
"""Where each field of a submitted job can be given besides the API."""

EVERY = [(type_, field.name) for type_ in VALUES for field in fields(type_)]
ids = [f"{type_.__name__}.{name}" for type_, name in EVERY]


def sample(type_: type, name: str) -> Any:
    """Make a ``type_`` with the first value of each field, and the second value of field ``name``."""
    missing = [field.name for field in fields(type_) if field.name not in VALUES[type_]]
    assert not missing, f"give {type_.__name__}.{', '.join(missing)} two values in VALUES of this test"
    return type_(**{key: pair[key == name] for key, pair in VALUES[type_].items()})


def job(type_: type = Job, name: str = "") -> Job:
    """Make a job with the second value of one field: its own, its step's or its attempt's."""
    found = sample(type_, name)
    if isinstance(found, Attempt):
        found = replace(RECORD, attempts=(found,))
    if isinstance(found, SubTask):
        found = replace(RECORD, step=found)
    if isinstance(found, PlanChange):
        found = replace(sample(Job, ""), changes=(found,))
    if isinstance(found, StepRecord):
        plan = replace(PLAN, subtasks=(found.step,))
        found = replace(sample(Job, ""), plan=plan, steps=(found,))
    assert isinstance(found, Job)
    return found


def page(shown: Job) -> str:
    """Render the job's page."""
    app = Flask("pibot.master_hub", template_folder=str(Path(master_hub.__file__).parent / "pages" / "templates"))
    app.add_template_filter(presentation.iso, "iso")
    app.add_template_filter(presentation.utc, "utc")
    app.add_template_global(lambda endpoint, **values: f"/{endpoint}/{values.get('job_id', '')}", "url_for")
    view = {"token": "", "model": "m", **presentation.job_view(shown, lambda skills: NO_REASON, (), "CNY")}
    with app.test_request_context():
        return render_template("job.html", view=view, may={}, log_in=None, version="1")


def document() -> Any:
    return json.loads(Path(master_hub.__file__).with_name("openapi.json").read_text())


def command(shown: Job) -> str:
    return "\n".join(job_lines({**shown.to_json(), "currency": "CNY"}))


def export(shown: Job) -> str:
    return json.dumps(JobRecord(shown, (Event(1, 1.0, "job_accepted"),)).to_json(), sort_keys=True)


PLACES: dict[str, Callable[[Job], str]] = {
    "the API": lambda shown: json.dumps(shown.to_json(), sort_keys=True),
    "the command": command,
    "the page": page,
}

WHERE = {
    "the API": "its to_json in src/pibot/master_components/store/records.py",
    "the command": "job_lines in src/pibot/cli/follow.py",
    "the page": "job_view in src/pibot/master_hub/pages/presentation.py and templates/job.html",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("type_", "name"), EVERY, ids=ids)
def test_each_place_shows_the_field_or_leaves_it_out_on_purpose(type_: type, name: str, place: str) -> None:
    shows = PLACES[place](job(type_)) != PLACES[place](job(type_, name))
    listed = name in LEFT_OUT[place].get(type_, ())
    what = f"{type_.__name__}.{name}"
    assert shows or listed, f"{place} does not show {what}: add it to {WHERE[place]}, or to LEFT_OUT"
    assert not (shows and listed), f"{place} shows {what}: take it out of LEFT_OUT"


@pytest.mark.parametrize(("type_", "name"), EVERY, ids=ids)
def test_an_export_holds_all_that_the_api_gives(type_: type, name: str) -> None:
    given = name not in LEFT_OUT["the API"].get(type_, ())
    assert (export(job(type_)) != export(job(type_, name))) is given, f"the export lacks {type_.__name__}.{name}"


@pytest.mark.parametrize("name", ADDED_BY_THE_API)
def test_the_apis_description_has_each_key_and_no_other(name: str) -> None:
    whole = job().to_json()
    (step,) = whole["subtasks"]
    (attempt,) = step["attempts"]
    listed = set(whole) - {"subtasks", "approvals", "plan_changes"}  # a listing leaves these out
    given = {"Job": whole, "JobSummary": listed, "Subtask": step, "Attempt": attempt}
    keys = set(given[name]) | ADDED_BY_THE_API[name]
    described = set(document()["components"]["schemas"][name]["properties"])
    where = f"components.schemas.{name}.properties of src/pibot/master_hub/openapi.json"
    assert keys <= described, f"{where} lacks {', '.join(sorted(keys - described))}"
    assert described <= keys, f"{where} has what no answer has: {', '.join(sorted(described - keys))}"


@pytest.mark.parametrize("name", [field.name for field in fields(Submission)])
def test_the_apis_description_and_its_document_tell_of_each_field_that_a_job_is_submitted_with(name: str) -> None:
    assert name in document()["components"]["schemas"]["Submission"]["properties"], f"openapi.json lacks {name}"
    text = (ROOT / "docs" / "http-api.md").read_text()
    assert f"| `{name}` |" in text, f"the table of a job in docs/http-api.md lacks a row for {name}"


@pytest.mark.parametrize("name", [field.name for field in fields(Submission)])
def test_a_field_that_a_job_is_submitted_with_can_be_given_where_it_should_and_is_stored(name: str) -> None:
    assert name in GIVEN, f"say in GIVEN where {name} can be given"
    options = {option.name for option in commands.main.commands["run"].params}
    form = (Path(master_hub.__file__).parent / "pages" / "templates" / "dashboard.html").read_text("utf-8")
    found = {"the command": name in options, "the page": f'name="{name}"' in form}
    assert {place for place, there in found.items() if there} == GIVEN[name]
    scripts = sorted(
        (Path(master_hub.__file__).parents[1] / "master_components" / "store" / "migrations").glob("*.sql")
    )
    created = "\n".join(path.read_text("utf-8") for path in scripts)
    assert re.search(rf"^ *(?:ALTER TABLE job ADD COLUMN )?{name}\b", created, re.MULTILINE | re.IGNORECASE)
