"""Settings for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.examples import examples

# An example may take long on a busy machine; the tests' own time limit ends one that hangs.
settings.register_profile("pibot", deadline=None, print_blob=True, max_examples=examples(100))
settings.load_profile("pibot")


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """Let new files be readable by all, as a login shell does."""
    before = os.umask(0o022)
    yield
    os.umask(before)
