"""Environments of servers that nobody of this project wrote."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT


def installed(lock: str) -> Path:
    """Make the environment ``.venv-LOCK`` if it is not there yet, and return its Python.

    Where it can't be made the test is skipped, and with ``CI`` set it fails.
    """
    environment = ROOT / f".venv-{lock}"
    made = subprocess.run(
        ["sh", str(ROOT / "scripts" / "bootstrap.sh"), lock, str(environment)],
        # "no" switches --no-compile on, says pip's manual. Most of LiteLLM's 350 MB is never imported.
        env={**os.environ, "PIP_NO_COMPILE": "no"},
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        why = f"requirements/{lock}.txt can't be installed: {made.stderr.strip()}"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return environment / "bin" / "python"
