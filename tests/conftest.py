"""Settings for all tests."""

from __future__ import annotations

from hypothesis import settings

# An example may take long on a busy machine; the tests' own time limit ends one that hangs.
settings.register_profile("pibot", deadline=None, print_blob=True)
settings.load_profile("pibot")
