"""The worker answers every request, valid or not, as its OpenAPI description says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
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

from tests.support.examples import examples
from tests.support.workers import workers

CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


schema = schemathesis.openapi.from_path(Path(__file__).parents[2] / "src" / "pibot" / "worker" / "openapi.json")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with workers(1) as (worker,):
        yield worker.address.url


@schema.parametrize()
@settings(max_examples=examples(60), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_in_the_description(url: str, case: Case[Any]) -> None:
    case.call_and_validate(base_url=url, checks=CHECKS)
