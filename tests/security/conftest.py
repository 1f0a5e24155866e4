"""The targets of the attacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.attacks import Service, service


@pytest.fixture
def around(tmp_path: Path) -> Iterator[Service]:
    """The folders of a worker, and a process that stands for the worker's."""
    with service(tmp_path) as found:
        yield found


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A task's folder."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder
