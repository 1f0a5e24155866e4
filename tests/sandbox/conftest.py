"""Fixtures: each kind of runner, a workspace, and a word that identifies a command's processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from pibot.sandbox import create_command_runner
from pibot.sandbox.bubblewrap import Bubblewrap
from pibot.sandbox.unconfined import Unconfined
from tests.sandbox.support import Runner
from tests.support.processes import processes_with
from tests.support.sandbox_service import sandbox_service

MODES = [pytest.param("bwrap", marks=pytest.mark.system), "off", pytest.param("service", marks=pytest.mark.system)]


@pytest.fixture(params=MODES)
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runner]:
    if request.param == "service":
        with sandbox_service(tmp_path, tmp_path) as served:
            yield served.runner
    else:
        yield create_command_runner(request.param)


@pytest.fixture
def confined() -> Bubblewrap:
    return Bubblewrap()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


@pytest.fixture
def token() -> Iterator[str]:
    """A word for a command's arguments, which identifies its processes. None of them may outlive the test."""
    word = f"pibot-test-{uuid4().hex}"
    yield word
    assert processes_with(word) == []


@pytest.fixture
def unconfined() -> Unconfined:
    return Unconfined()
