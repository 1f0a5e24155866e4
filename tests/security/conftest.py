"""What the attacks are made on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.attacks import Service, service


@pytest.fixture
def around(tmp_path: Path) -> Iterator[Service]:
    """A worker's folders, and a process in place of the worker's."""
    with service(tmp_path) as found:
        yield found


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A task's folder."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder
