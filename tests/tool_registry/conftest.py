from __future__ import annotations

from pathlib import Path

import pytest

from pibot.contracts import ToolContext
from tests.tool_registry.support import NoCommands


@pytest.fixture
def context(tmp_path: Path) -> ToolContext:
    return ToolContext("t1", tmp_path, NoCommands(), {"web_allow": ("example.com",)})
