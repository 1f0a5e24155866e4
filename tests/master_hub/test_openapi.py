"""The API conforms to its own OpenAPI document, whatever it is sent: schemathesis against a real hub over HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pibot import __version__, master_hub
from pibot.master_components.store.states import JobState
from pibot.web.keys import needed
from tests.support import scripted_llm as model
from tests.support.examples import examples
from tests.support.fleet import Fleet, fleet

pytestmark = pytest.mark.slow

CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


PAGES = ("/", "/login", "/logout")
"""Routes for browsers only, besides the dashboard."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("openapi")) as parts:
        parts.llm.answer_with(model.text("no plan, so the job is one step"))
        yield parts


@pytest.fixture(scope="module")
def document(shared: Fleet) -> dict[str, Any]:
    answer = shared.ask("GET", "/openapi.json")
    assert answer.status == 200
    body: dict[str, Any] = answer.json()
    return body


schema = schemathesis.openapi.from_path(Path(master_hub.__file__).with_name("openapi.json"))


# The hub's threads use the random module for jitter, and hypothesis warns about that.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
@schema.parametrize()
@settings(max_examples=examples(40), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_the_document_says_and_none_is_a_5xx(shared: Fleet, case: Case[Any]) -> None:
    case.call_and_validate(base_url=shared.url, checks=CHECKS)


def test_the_document_has_every_route_and_no_other(shared: Fleet, document: dict[str, Any]) -> None:
    app: Flask = master_hub.create_hub_app(shared.service, shared.service.settings)
    routes = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        if not rule.rule.startswith("/dashboard") and rule.rule not in PAGES
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    assert {(path, method) for path, methods in document["paths"].items() for method in methods} == routes


def test_the_document_is_of_this_version_and_names_every_state(document: dict[str, Any]) -> None:
    assert document["info"]["version"] == __version__
    assert document["components"]["schemas"]["Job"]["properties"]["status"]["enum"] == [s.value for s in JobState]


def test_the_document_names_the_scope_that_each_route_requires(shared: Fleet, document: dict[str, Any]) -> None:
    app: Flask = master_hub.create_hub_app(shared.service, shared.service.settings)
    asked = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method.lower()): needed(
            app.view_functions[rule.endpoint], method
        ).value
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation["security"]:
                scope = [asked[path, method]]
                assert operation["security"] == [{"key": scope}, {"session": scope}, {}], (path, method)


def test_every_reference_in_the_document_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))

    assert names <= set(schemas)
    assert set(schemas) <= names
