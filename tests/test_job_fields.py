"""A field of a job is known in each place that must know it; a new one fails here until each has been thought of."""

from __future__ import annotations

import ast
import dataclasses
import json
import re

import pytest

from pibot.cli import commands
from pibot.master_components.store.records import Job, JobRecord, Submission
from pibot.master_components.store.states import JobState
from tests.support.processes import ROOT

HUB = ROOT / "src" / "pibot" / "master_hub"
SCHEMAS = json.loads((HUB / "openapi.json").read_text("utf-8"))["components"]["schemas"]

PAGE, COMMAND = "the job's page", "pibot job"

SHOWN: dict[str, set[str]] = {
    "job_id": {PAGE, COMMAND},
    "description": {PAGE, COMMAND},
    "state": {PAGE, COMMAND},
    "priority": {PAGE},
    "timeout": set(),
    "created_at": {PAGE},
    "plan": {PAGE, COMMAND},
    "answer": {PAGE, COMMAND},
    "error": {PAGE, COMMAND},
    "usage": {PAGE, COMMAND},
    "cost": {PAGE, COMMAND},
    "started_at": {PAGE},
    "finished_at": {PAGE},
    "cancel_requested": {PAGE},
    "accepted_run": set(),
    "steps": {PAGE, COMMAND},
    "approvals": {PAGE, COMMAND},
}
"""Where each field of a stored job is shown to people. All but ``NOT_IN_JSON`` are in the API and in the export."""

NOT_IN_JSON = {"accepted_run"}
IN_JSON = {"state": "status", "steps": "subtasks"}
"""Fields that have another name in JSON."""

ADDED = {"waiting_for_approval", "spending", "currency"}
"""Keys of the API's job that are no field of the stored one."""

ASKED: dict[str, set[str]] = {
    "description": {PAGE, COMMAND},
    "skills": {PAGE, COMMAND},
    "timeout": {COMMAND},
    "priority": {COMMAND},
    "job_id": set(),
}
"""Where each field of a submitted job can be given, besides the API."""


def field_names(record: type) -> set[str]:
    return {field.name for field in dataclasses.fields(record)}


def json_names() -> set[str]:
    return {IN_JSON.get(name, name) for name in SHOWN if name not in NOT_IN_JSON}


def attributes_of_job(path: str) -> set[str]:
    """Which attributes of something called ``job`` a module reads."""
    nodes = ast.walk(ast.parse((HUB / path).read_text("utf-8")))
    return {
        n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "job"
    }


def strings_of_the_command() -> set[str]:
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "src" / "pibot" / "cli").glob("*.py")]
    return {
        n.value for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }


def test_it_is_said_of_each_field_of_a_job_where_it_is_shown() -> None:
    assert set(SHOWN) == field_names(Job), "add the field to SHOWN, and show it there or say that it is not shown"


def test_the_page_shows_the_fields_that_it_should() -> None:
    assert {name for name, places in SHOWN.items() if PAGE in places} <= attributes_of_job("pages/presentation.py")


def test_the_command_shows_the_fields_that_it_should() -> None:
    names = {IN_JSON.get(name, name) for name, places in SHOWN.items() if COMMAND in places}
    assert names <= strings_of_the_command()


def test_the_api_describes_each_field_of_a_job() -> None:
    assert set(SCHEMAS["Job"]["properties"]) == json_names() | ADDED
    listed = set(SCHEMAS["JobSummary"]["properties"])
    assert listed == json_names() - {"subtasks", "approvals"} | {"waiting_for_approval"}


def test_the_export_holds_each_field_of_a_job() -> None:
    job = Job("j", "look", JobState.QUEUED, 0, None, 1.0)
    assert set(JobRecord(job, ()).to_json()["job"]) == json_names() | {"waiting_for_approval"}


def test_it_is_said_of_each_field_of_a_submission_where_it_can_be_given() -> None:
    assert set(ASKED) == field_names(Submission), "add the field to ASKED, and to the places where it can be given"
    assert set(SCHEMAS["Submission"]["properties"]) == set(ASKED)
    given = {param.name for param in commands.main.commands["run"].params}
    assert {name for name, places in ASKED.items() if COMMAND in places} <= given
    form = re.findall(r'name="(\w+)"', (HUB / "pages" / "templates" / "dashboard.html").read_text("utf-8"))
    assert {name for name, places in ASKED.items() if PAGE in places} <= set(form)


@pytest.mark.parametrize("name", sorted(ASKED))
def test_each_field_of_a_submission_is_in_the_database(name: str) -> None:
    migrations = ROOT / "src" / "pibot" / "master_components" / "store" / "migrations"
    created = "\n".join(path.read_text("utf-8") for path in sorted(migrations.glob("*.sql")))
    assert re.search(rf"^ *(?:ALTER TABLE jobs ADD COLUMN )?{name}\b", created, re.MULTILINE | re.IGNORECASE)
